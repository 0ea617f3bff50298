"""What everything stands on: errors, subprocesses, HTTP, and how a command ends.

    errors       one tree, with message, hint and exit code
    run          the one door to subprocesses; `reaper` and `parent` see that nothing outlives a command
    net          HTTP sessions with the user's CA bundle, retries, what a message may show
    interrupts   SIGTERM and SIGHUP end a command as Ctrl-C does

Imports nothing of buildctl but console.log, for what `--verbose` shows.
"""
