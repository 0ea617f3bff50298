"""A terminal of its own for a program in a sandbox, joined to the one that buildctl was started in.

Handing on that one itself would let a stranger's program type into it after its end (TIOCSTI).
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

PIECE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """`inner` is what the program gets; `outer` its other side."""

    inner: int
    outer: int

    @property
    def name(self) -> str:
        return os.ttyname(self.inner)


def at_a_terminal() -> bool:
    return all(file is not None and file.isatty() for file in (sys.__stdin__, sys.__stdout__))


@contextmanager
def open_terminal(owner: int) -> Iterator[Terminal]:
    """As wide and high as ours, which is raw until the end: keys and Ctrl-C are the program's."""
    outer, inner = os.openpty()
    os.fchown(inner, owner, -1)
    before = termios.tcgetattr(0)
    resized = signal.signal(signal.SIGWINCH, lambda *_: _resize(outer))
    try:
        _resize(outer)
        tty.setraw(0)
        yield Terminal(inner=inner, outer=outer)
    finally:
        signal.signal(signal.SIGWINCH, resized)
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)
        os.close(outer)


def join(terminal: Terminal) -> None:
    """Copy both ways until nobody holds the inner side any more; ours is closed here first."""
    os.close(terminal.inner)
    sources = [0, terminal.outer]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if 0 in ready:
            typed = _read(0)
            if typed:
                _write(terminal.outer, typed)
            else:
                sources.remove(0)
        if terminal.outer in ready:
            shown = _read(terminal.outer)
            if not shown:
                return
            _write(1, shown)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, PIECE)
    except OSError:  # EIO: the other side is closed
        return b""


def _write(fd: int, data: bytes) -> None:
    with suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]


def _resize(outer: int) -> None:
    with suppress(OSError):
        fcntl.ioctl(outer, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
