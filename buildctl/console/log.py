"""The story, on stderr. Answers go to stdout, and only the CLI prints those."""

from __future__ import annotations

from rich.console import Console

# width from the terminal; no highlighting of numbers; markup and emoji off so that names with [brackets] and references
# such as a:b: stay as they are
console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(text: str) -> None:
    console.print(text)
