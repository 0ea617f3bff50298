"""The package's own source, for tests of its structure: each file is parsed once a process."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import buildctl

PACKAGE = Path(buildctl.__file__).parent


def that_say(*words: str) -> list[Path]:
    """The files with one of `words` in them: to look for a word takes no time, to parse them all takes a second."""
    return [path for path in PACKAGE.rglob("*.py") if any(word in path.read_text() for word in words)]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parsed(path)))
