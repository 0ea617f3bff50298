"""What people see while they wait: messages, progress bars, tables.

    log        messages, on stderr
    progress   bars on a terminal, lines elsewhere
    sums       how far everything is: pieces, bytes, rate, time left
    table      columns of an answer

Imports nothing of buildctl. Answers go to stdout, and only cli/ prints them.
"""
