"""Progress on a terminal: one line for everything, and a bar for each piece in progress."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from buildctl.console.sums import Sum, current, told


class Display(RichProgress):
    """The line about `sums`, and below it a bar for each visible task."""

    def __init__(self, console: Console) -> None:
        self.sums: list[Sum] = []
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=12),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
            transient=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        now = current(self.sums)
        if now is not None and now.pieces:
            line = Table.grid(Column(no_wrap=True), Column(ratio=1, no_wrap=True), padding=(0, 1), expand=True)
            bar = ProgressBar(total=None if now.unknown else now.total, completed=now.done, width=9)
            line.add_row(bar, Text(told(self.sums), overflow="ellipsis"))
            yield line
        yield self.make_tasks_table([task for task in self.tasks if task.visible])


class Bars:
    """A `Progress`. Finished pieces disappear."""

    def __init__(self, display: Display, verb: str) -> None:
        self.display, self.sum = display, Sum(verb)
        self._lock = threading.Lock()
        display.sums.append(self.sum)

    @classmethod
    def on(cls, console: Console, verb: str) -> Bars:
        return cls(Display(console), verb)

    def of(self, verb: str) -> Bars:
        return Bars(self.display, verb)

    def add(self, label: str, total: int, *, exact: bool = True) -> _Bar:
        with self._lock:
            self.sum.add(total, exact=exact)
        task = self.display.add_task(label, total=total or None, start=False, visible=False)
        return _Bar(self, task, total, exact=exact)

    def advance(self, count: int) -> None:
        with self._lock:
            self.sum.advance(count)

    def whole(self, off: int) -> None:
        with self._lock:
            self.sum.finish(off)


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
                self.bars.display.start_task(self.task)
            self.done += n
            reached = 0 < self.total <= self.done
            # a piece that is reported in one go never needs a bar
            total = max(self.total, self.done) if self.total else None
            self.bars.display.update(self.task, advance=n, total=total, visible=not (self.exact and reached))
            self.bars.advance(n)
        if self.exact and reached:
            self.finish()

    def finish(self) -> None:
        with self.lock:
            self.bars.display.update(self.task, visible=False)
            if self.reported:
                return
            self.reported = True
        self.bars.whole(self.done - self.total if self.total else 0)
