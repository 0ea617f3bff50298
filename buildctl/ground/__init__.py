"""What everything builds on: errors, subprocesses, HTTP, and how a command ends.

    errors       one tree, with message, hint and exit code
    run          the only place that starts subprocesses; `reaper` and `parent` make sure none outlives a command
    net          HTTP sessions with the user's CA bundle, retries, what a message may show
    clock        the one clock
    interrupts   SIGTERM and SIGHUP end a command as Ctrl-C does

Imports nothing of buildctl but console.log, for what `--verbose` shows.
"""
