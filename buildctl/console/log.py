"""The story, on stderr. Answers go to stdout, and only the CLI prints those."""

from __future__ import annotations

from enum import IntEnum

from rich.console import Console


class Level(IntEnum):
    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


# width from the terminal; no highlighting of numbers; markup and emoji off so that names with [brackets] and references
# such as a:b: stay as they are
console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
_level = Level.NORMAL


def set_level(level: Level) -> None:
    """Of this process. QUIET silences everything that goes to `console`: bars and live steps, too."""
    global _level
    _level, console.quiet = level, level is Level.QUIET


def level() -> Level:
    return _level


def say(text: str) -> None:
    console.print(text)


def detail(text: str) -> None:
    """What only `--verbose` shows. The caller has taken out secrets (`net.redact`)."""
    if _level is Level.VERBOSE:
        console.print(f"  {text}", style="dim")
