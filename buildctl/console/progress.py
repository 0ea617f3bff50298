"""How far the work is: bars with bytes and rates on a terminal, few plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from buildctl.console import log
from buildctl.console.plain import plain
from buildctl.console.table import size

if TYPE_CHECKING:
    from rich.console import Console  # imported when something is shown: many commands show nothing

# Without a terminal: what takes long says when it starts, what is small is only counted.
_LONG = 64_000_000
_SMALL = 1_000_000


class Task(Protocol):
    def advance(self, n: int) -> None:
        """`n` more bytes; negative when a download starts over."""

    def finish(self) -> None:
        """It is whole. Not needed when the total was known and is reached."""


class Progress(Protocol):
    """Safe to use from several threads; worker processes report counts to the parent, which owns this."""

    def add(self, label: str, total: int, *, exact: bool = True) -> Task:
        """A piece of work of `total` bytes, 0 when that is not known; one that is not `exact` ends with `finish`."""


@contextlib.contextmanager
def open_progress(verb: str, *, console: Console | None = None) -> Iterator[Progress]:
    """Show what is added while the block runs. `verb` says what happened to it: "fetched", "made"."""
    console = log.console if console is None else console
    if console.quiet:
        yield Silent()
    elif console.is_terminal and not console.is_dumb_terminal:
        from buildctl.console.bars import Bars

        bars = Bars(verb, console)
        with bars.rich:
            yield bars
    else:
        lines = Lines(verb, console)
        try:
            yield lines
        finally:
            lines.close()


@dataclass(frozen=True, slots=True)
class Silent:
    def add(self, label: str, total: int, *, exact: bool = True) -> Silent:  # noqa: ARG002
        return self

    def advance(self, n: int) -> None:
        pass

    def finish(self) -> None:
        pass


class Lines:
    """One line for each piece that is not small, when it is whole; one for the rest at the end."""

    def __init__(self, verb: str, console: Console) -> None:
        self.verb, self.console = verb, console
        self._lock = threading.Lock()
        self._small = self._small_bytes = 0
        self._pieces = self._whole = 0

    def add(self, label: str, total: int, *, exact: bool = True) -> Task:
        with self._lock:
            self._pieces += 1
        return _Line(lines=self, label=plain(label), total=total, exact=exact)

    def started(self, label: str, total: int, *, exact: bool) -> None:
        self.console.print(f"  {label}: {'' if exact else 'about '}{size(total)} ...")

    def whole(self, label: str, count: int, timed: int, seconds: float) -> None:
        """`timed` of the `count` bytes came within `seconds`: what was there before the first report took no time."""
        with self._lock:
            self._whole += 1
            which = f", {self._whole} of {self._pieces}" if self._pieces > 1 else ""
            if count < _SMALL:
                self._small += 1
                self._small_bytes += count
                return
        rate = f", {size(timed / seconds)}/s" if seconds > 0.01 else ""
        self.console.print(f"  {self.verb} {label}: {size(count)} in {seconds:.1f} s{rate}{which}")

    def close(self) -> None:
        with self._lock:
            if self._small:
                noun = "small one" if self._small == 1 else "small ones"
                self.console.print(f"  {self.verb} {self._small} {noun}: {size(self._small_bytes)}")
            self._small = self._small_bytes = 0


@dataclass(slots=True, kw_only=True)
class _Line:
    lines: Lines
    label: str
    total: int
    exact: bool
    done: int = 0
    began: float | None = None
    first: int = 0
    reported: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, n: int) -> None:
        with self.lock:
            if self.began is None:
                self.began, self.first = time.monotonic(), n
                if n < self.total and self.total >= _LONG:
                    self.lines.started(self.label, self.total, exact=self.exact)
            self.done += n
            whole = self.exact and 0 < self.total <= self.done
        if whole:
            self.finish()

    def finish(self) -> None:
        with self.lock:
            if self.reported:
                return
            self.reported = True
        if self.total and not self.done:  # it was there already: nothing came or went
            return
        seconds = time.monotonic() - self.began if self.began is not None else 0.0
        self.lines.whole(self.label, self.done, self.done - self.first, seconds)
