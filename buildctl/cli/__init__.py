"""The command line: click and printing, nothing else. One file for each group of commands.

    program      the program, its global options, the one place that catches errors: start here
    build, test, ask, publish, keep    the commands, by what they are for
    signed       signatures, for `publish`: sign and verify
    commands     what every command has: -v, -q, a line in the help; unknown names in our words
    options      options that several commands share, and how an answer is printed
    failure      how an error is told, to people and as JSON
    table        the tables of commands and exit codes in README.md and docs/, written from the code

Imports everything, inside the functions, so that `--help` answers at once; nothing imports it.
"""

import gc
import sys


def main() -> None:
    """Run `program.main`. Ctrl-C prints no traceback, not even before signals are handled or after the first one."""
    # looking for cycles after every few hundred new objects takes a third of the time of reading wheels
    gc.set_threshold(100_000)
    try:
        from buildctl.cli.program import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
