"""The command line: click and printing, nothing else. One file for each group of commands.

Start with `program.main`, the one place that catches errors. Imports everything; nothing imports it.
"""

from buildctl.cli.program import main

__all__ = ["main"]
