"""Progress of all pieces of one kind of work, and one line about several kinds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from buildctl.console.table import size

_WINDOW = 15.0  # seconds over which a rate is measured


@dataclass(slots=True)
class Sum:
    """All pieces of one kind: their number, their bytes, and how much of both is done. Callers hold a lock."""

    verb: str
    pieces: int = 0
    whole: int = 0
    total: int = 0
    done: int = 0
    unknown: bool = False
    rough: bool = False
    seen: deque[tuple[float, int]] = field(default_factory=lambda: deque([(time.monotonic(), 0)]))

    def add(self, total: int, *, exact: bool) -> None:
        self.pieces += 1
        self.total += total
        self.unknown |= total == 0
        self.rough |= not exact

    def advance(self, count: int) -> None:
        self.done += count
        self.total = max(self.total, self.done)  # some pieces are bigger than was thought
        now = time.monotonic()
        if now - self.seen[-1][0] > 0.2:
            self.seen.append((now, self.done))
        while len(self.seen) > 2 and now - self.seen[0][0] > _WINDOW:
            self.seen.popleft()

    def finish(self, off: int) -> None:
        """A piece is complete; it was `off` bytes larger than expected."""
        self.whole += 1
        self.total = max(self.total + off, self.done)

    @property
    def rate(self) -> float:
        """Recent bytes per second."""
        first, before = self.seen[0]
        return max(0.0, self.done - before) / max(time.monotonic() - first, 0.1)

    @property
    def left(self) -> float:
        """Seconds left; 0 if unknown."""
        return 0.0 if self.unknown or self.rate <= 0 else (self.total - self.done) / self.rate


def told(sums: Sequence[Sum]) -> str:
    """One line about everything: "fetched 1.20 GB of 2.60 GB, made layer 2 of 15, 98 MB/s, 0:23 left"."""
    sums = [one for one in sums if one.pieces]
    now = current(sums)
    if now is None:
        return ""
    words = [f"{one.verb} {one.whole} of {one.pieces}" for one in sums]
    done = size(now.done) if now.unknown else f"{size(now.done)} of {size(now.total)}"
    if len(sums) == 1:
        words.append(done)
    elif not now.rough:  # its bytes say more than how many pieces they come in
        words[sums.index(now)] = f"{now.verb} {done}"
    if now.rate > 0:
        words.append(f"{size(now.rate)}/s")
    if now.left and (seconds := round(max(one.left for one in sums))):
        words.append(f"{seconds // 60}:{seconds % 60:02} left")
    return ", ".join(words)


def current(sums: Sequence[Sum]) -> Sum | None:
    """The kind that holds up the rest: the first that is not complete."""
    return next((one for one in sums if one.whole < one.pieces), sums[-1] if sums else None)
