"""How a failure is told: to people on stderr, to a machine that asked for JSON on stdout as well."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from buildctl.console.plain import plain
from buildctl.console.table import fitted
from buildctl.ground.errors import BuildctlError, ExitCode

_LONGEST = 300  # letters of a path; one of 3,000 folders helps nobody
_ADVICE = {
    errno.ENOSPC: "the disk, or what stdout leads to, is full",
    errno.EDQUOT: "the quota of this user is used up",
    errno.EMFILE: "this process may open more files with `ulimit -n 4096`",
    errno.ENFILE: "the system has too many open files",
    errno.EIO: "the disk or network file system has a fault; `dmesg` may name it",
    errno.ENOMEM: "there is too little memory",
}


def tell(error: BuildctlError, arguments: Sequence[str], *, code: int | None = None) -> int:
    """Print message and hint, and return the exit code: the error's own, or `code`."""
    code = int(error.exit_code) if code is None else code
    if _verbose() and code != ExitCode.BUG:
        traceback.print_exception(error)
    _say("error: ", "red", error.message)
    if error.hint:
        _say("hint: ", "cyan", error.hint)
    _answer(error, code, arguments)
    return code


def is_told(error: OSError) -> bool:
    """Whether the system refused something: an error with a number, or those collected by copying a folder."""
    return error.errno is not None or isinstance(error, shutil.Error)


def tell_system(error: OSError, arguments: Sequence[str]) -> int:
    """What the operating system refused, with or without the name of a file: a full stdout has none."""
    from buildctl.oci.files import FULL, full_disk  # not needed before a failure

    if isinstance(error, shutil.Error):
        source, _, why = error.args[0][0]
        return tell(BuildctlError(f"cannot copy {_cut(str(source))}: {why}"), arguments)
    name = None if error.filename is None else _cut(os.fsdecode(error.filename))
    if name is not None and error.errno in FULL:
        return tell(full_disk(Path(name)), arguments)
    where = "" if name is None else f"{name}: "
    return tell(BuildctlError(f"{where}{error.strerror or error}", hint=_ADVICE.get(error.errno or 0)), arguments)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."


def tell_interrupt(code: int, arguments: Sequence[str]) -> int:
    message = "interrupted; what was whole is kept, run the command again to continue"
    with contextlib.suppress(OSError):
        click.echo(message, err=True)
    _answer(BuildctlError(message), code, arguments)
    return code


def tell_bug(error: Exception, arguments: Sequence[str]) -> int:
    """Nobody foresaw it, so the traceback is what helps."""
    traceback.print_exception(error)
    hint = "this is a bug in buildctl: please report it with the traceback above"
    told = BuildctlError(f"{type(error).__name__}: {error}", hint=hint)
    return tell(told, arguments, code=ExitCode.BUG)


def wants_json(arguments: Sequence[str]) -> bool:
    """Asked of the words themselves, because they may be what is wrong."""
    words = list(arguments)
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def _answer(error: BuildctlError, code: int, arguments: Sequence[str]) -> None:
    if not wants_json(arguments):
        return
    value = {"error": {"message": error.message, "hint": error.hint, "exitCode": code}}
    with contextlib.suppress(OSError):  # nobody reads it, or it is what is full
        click.echo(json.dumps(value, indent=2))


def _say(word: str, colour: str, text: str) -> None:
    color = False if os.environ.get("NO_COLOR") else None
    with contextlib.suppress(OSError):  # a full or closed stderr: the exit code tells it all the same
        if sys.stderr.isatty():
            text = fitted(word + text).removeprefix(word)
        click.echo(click.style(word, fg=colour, bold=word == "error: ") + plain(text), err=True, color=color)


def _verbose() -> bool:
    from buildctl.console import log

    return log.level() is log.Level.VERBOSE
