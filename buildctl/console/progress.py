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
from buildctl.console.sums import Sum, told
from buildctl.console.table import size

if TYPE_CHECKING:
    from rich.console import Console  # imported when something is shown: many commands show nothing

# Without a terminal: what takes long says when it starts, what is small is only counted.
_LONG = 64_000_000
_SMALL = 1_000_000
_SILENCE = 20.0  # seconds after which a line says how far everything is


class Task(Protocol):
    def advance(self, n: int) -> None:
        """`n` more bytes; negative when a download starts over."""

    def finish(self) -> None:
        """It is whole. Not needed when the total was known and is reached."""


class Progress(Protocol):
    """Safe to use from several threads; worker processes report counts to the parent, which owns this."""

    def add(self, label: str, total: int, *, exact: bool = True) -> Task:
        """A piece of work of `total` bytes, 0 when that is not known; one that is not `exact` ends with `finish`."""

    def of(self, verb: str) -> Progress:
        """For pieces of another kind that are worked on at the same time, in the same place."""


@contextlib.contextmanager
def open_progress(verb: str, *, console: Console | None = None) -> Iterator[Progress]:
    """Show what is added while the block runs. `verb` says what happened to it: "fetched", "made"."""
    console = log.console if console is None else console
    if console.quiet:
        yield Silent()
    elif console.is_terminal and not console.is_dumb_terminal:
        from buildctl.console.bars import Bars

        bars = Bars.on(console, verb)
        with bars.display:
            yield bars
    else:
        lines = Lines(verb, console)
        done = threading.Event()
        threading.Thread(target=_remind, args=(lines, done), daemon=True).start()
        try:
            yield lines
        finally:
            done.set()
            lines.close()


def _remind(lines: Lines, done: threading.Event) -> None:
    while not done.wait(1.0):
        lines.remind()


@dataclass(frozen=True, slots=True)
class Silent:
    def add(self, label: str, total: int, *, exact: bool = True) -> Silent:  # noqa: ARG002
        return self

    def of(self, verb: str) -> Silent:  # noqa: ARG002
        return self

    def advance(self, n: int) -> None:
        pass

    def finish(self) -> None:
        pass


class Lines:
    """One line for each large piece when it is complete, and one at the end for the small ones. After a while of
    silence, a line reports the progress of everything.
    """

    def __init__(self, verb: str, console: Console, story: _Story | None = None) -> None:
        self.sum, self.console = Sum(verb), console
        self._story = _Story() if story is None else story
        self._story.lines.append(self)
        self.small = self.small_bytes = 0

    def add(self, label: str, total: int, *, exact: bool = True) -> Task:
        with self._story.lock:
            self.sum.add(total, exact=exact)
        return _Line(lines=self, label=plain(label), total=total, exact=exact)

    def of(self, verb: str) -> Lines:
        return Lines(verb, self.console, self._story)

    def started(self, label: str, total: int, *, exact: bool) -> None:
        self._say(f"  {label}: {'' if exact else 'about '}{size(total)} ...")

    def advance(self, count: int) -> None:
        with self._story.lock:
            self.sum.advance(count)

    def remind(self) -> None:
        """Report the progress of everything after a while of silence."""
        with self._story.lock:
            silent = time.monotonic() - self._story.said >= _SILENCE
            text = told([lines.sum for lines in self._story.lines]) if silent else ""
        if text:
            self._say(f"  {text}")

    def whole(self, label: str, count: int, timed: int, seconds: float, *, off: int) -> None:
        """`timed` of the `count` bytes came within `seconds`: what was there before the first report took no time."""
        with self._story.lock:
            self.sum.finish(off)
            which = f", {self.sum.whole} of {self.sum.pieces}" if self.sum.pieces > 1 else ""
            if count < _SMALL:
                self.small += 1
                self.small_bytes += count
                return
        rate = f", {size(timed / seconds)}/s" if seconds > 0.01 else ""
        self._say(f"  {self.sum.verb} {label}: {size(count)} in {seconds:.1f} s{rate}{which}")

    def skipped(self, off: int) -> None:
        """It was there already."""
        with self._story.lock:
            self.sum.finish(off)

    def close(self) -> None:
        for lines in self._story.lines:
            with self._story.lock:
                small, count = lines.small, lines.small_bytes
                lines.small = lines.small_bytes = 0
            if small:
                noun = "small one" if small == 1 else "small ones"
                self._say(f"  {lines.sum.verb} {small} {noun}: {size(count)}")

    def _say(self, text: str) -> None:
        self._story.said = time.monotonic()
        self.console.print(text)


@dataclass(slots=True)
class _Story:
    """What all lines share: the kinds of work, and the time of the last line."""

    lines: list[Lines] = field(default_factory=list)
    said: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)


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
        self.lines.advance(n)
        if whole:
            self.finish()

    def finish(self) -> None:
        with self.lock:
            if self.reported:
                return
            self.reported = True
        off = self.done - self.total if self.total else 0
        if self.total and not self.done:  # it was there already: nothing came or went
            self.lines.skipped(off)
            return
        seconds = time.monotonic() - self.began if self.began is not None else 0.0
        self.lines.whole(self.label, self.done, self.done - self.first, seconds, off=off)
