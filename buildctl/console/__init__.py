"""What people see while they wait: one line of story, progress bars, tables.

    log        the story, on stderr
    progress   bars on a terminal, lines elsewhere
    table      columns of an answer

Imports nothing of buildctl. Answers go to stdout and are printed by cli/ alone.
"""
