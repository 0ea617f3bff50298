"""What some commands find out and print, where that is more than a call: one module for each command.

`findings` (test), `disk` (disk, prune), `forecast` (plan), `deliver` (publish of an archive or layout). The commands
themselves lie one folder up. It may import everything but commands.
"""
