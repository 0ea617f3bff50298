"""Progress on a terminal: one bar for each piece that is being worked on, and one for all."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress
from rich.table import Column


class Bars:
    """A `Progress`. Pieces that are finished make room; the bar for all counts them, and says how long it takes."""

    def __init__(self, verb: str, console: Console) -> None:
        self.rich = RichProgress(
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=12),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
            transient=True,
        )
        self._verb = verb
        self._lock = threading.Lock()
        self._total = self._pieces = self._whole = self._done = 0
        self._unknown = False
        self._all = self.rich.add_task(verb, total=None)

    def add(self, label: str, total: int, *, exact: bool = True) -> _Bar:
        with self._lock:
            self._total += total
            self._pieces += 1
            self._unknown |= total == 0
            self._tell()
        task = self.rich.add_task(label, total=total or None, start=False, visible=False)
        return _Bar(self, task, total, exact=exact)

    def advance(self, count: int) -> None:
        self.rich.update(self._all, advance=count)
        with self._lock:
            self._done += count
            if self._done > self._total > 0:  # some pieces are bigger than was thought
                self._total = self._done
                self._tell()

    def whole(self, off: int) -> None:
        """A piece is finished; it was `off` bytes more than expected."""
        with self._lock:
            self._whole += 1
            self._total = max(self._total + off, self._done)
            self._tell()

    def _tell(self) -> None:
        description = f"{self._verb} {self._whole} of {self._pieces}"
        self.rich.update(self._all, total=None if self._unknown else self._total, description=description)


@dataclass(slots=True)
class _Bar:
    bars: Bars
    task: TaskID
    total: int
    exact: bool = True
    done: int = 0
    reported: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, n: int) -> None:
        with self.lock:
            if self.done == 0:
                self.bars.rich.start_task(self.task)
            self.done += n
            reached = 0 < self.total <= self.done
            # a piece that is reported in one go never needs a bar
            total = max(self.total, self.done) if self.total else None
            self.bars.rich.update(self.task, advance=n, total=total, visible=not (self.exact and reached))
            self.bars.advance(n)
        if self.exact and reached:
            self.finish()

    def finish(self) -> None:
        with self.lock:
            self.bars.rich.update(self.task, visible=False)
            if self.reported:
                return
            self.reported = True
        self.bars.whole(self.done - self.total if self.total else 0)
