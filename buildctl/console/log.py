"""The story, on stderr. Answers go to stdout, and only the CLI prints those."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from buildctl.console.plain import plain
from buildctl.console.table import fitted

if TYPE_CHECKING:
    from rich.console import Console

    console: Console


class Level(IntEnum):
    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


_level = Level.NORMAL
_told = 0


@functools.cache
def _console() -> Console:
    """Imported and made when something is said: many commands say nothing, and answer sooner."""
    from rich.console import Console  # noqa: PLC0415

    # width from the terminal; no highlighting of numbers; markup and emoji off so that names with [brackets] and
    # references such as a:b: stay as they are
    made = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    made.quiet = _level is Level.QUIET
    return made


def __getattr__(name: str) -> Any:
    if name == "console":
        return _console()
    raise AttributeError(name)


def set_level(level: Level) -> None:
    """Of this process. QUIET silences everything that goes to `console`: bars and live steps, too."""
    global _level  # noqa: PLW0603 - one level for the process
    _level = level
    _console.cache_clear()


@contextlib.contextmanager
def unsaid() -> Iterator[None]:
    """What is said in the block is not shown."""
    before = _level
    set_level(Level.QUIET)
    try:
        yield
    finally:
        set_level(before)


def told() -> int:
    """The number of messages so far, shown or not."""
    return _told


def level() -> Level:
    return _level


def say(text: str) -> None:
    """On a terminal, lines are broken at blanks; elsewhere a line stays one."""
    global _told  # noqa: PLW0603 - one story for the process
    _told += 1
    if _level is Level.QUIET:
        return
    with contextlib.suppress(OSError):  # a full disk behind stderr is no reason to stop working
        text = plain(fitted(text) if sys.stderr.isatty() else text)
        if _console.cache_info().currsize:  # something may move on the terminal below what is said
            _console().print(text)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - rich takes a tenth of a second to import


def detail(text: str) -> None:
    """What only `--verbose` shows. The caller has taken out secrets (`net.redact`)."""
    if _level is Level.VERBOSE:
        with contextlib.suppress(OSError):
            _console().print(f"  {plain(text)}", style="dim")
