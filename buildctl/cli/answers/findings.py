"""What `buildctl test` prints: each finding once, when it is known; by default only what is not PASSED, and a sum."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import click

from buildctl.console import log
from buildctl.console.table import wrapped
from buildctl.testing.probes.known import known_findings
from buildctl.testing.report import Finding, Report, Status, counts_line

if TYPE_CHECKING:
    from rich.status import Status as Spinner
    from rich.text import Text

_NAME = 18  # columns; a longer name moves its own line


@dataclass(slots=True, kw_only=True)
class Moving:
    """A line on the terminal, redrawn continually, with the seconds since the test of the image began."""

    name: str
    text: str = ""
    since: float = field(default_factory=time.monotonic)

    def __rich__(self) -> Text:
        from rich.text import Text

        seconds = time.monotonic() - self.since
        return Text(f"{self.name}: {seconds:.0f} s, {self.text}", no_wrap=True, overflow="ellipsis")


@dataclass(slots=True, kw_only=True)
class Printed:
    """A `Listener`. With `everything` what PASSED is printed, too. `write` takes one line at a time."""

    everything: bool = False
    write: Callable[[str], None] = click.echo
    name: str = ""
    told: set[str] = field(default_factory=set)
    live: Spinner | None = None
    moving: Moving | None = None

    def __enter__(self) -> Self:
        """On a terminal it shows that it goes on, until the block is left."""
        if log.console.is_terminal:
            from rich.status import Status as Spinner

            self.live = Spinner("", console=log.console)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def began(self, name: str) -> None:
        self.name, self.told = name, set()
        self.moving = Moving(name=name)
        self._show("starting")

    def found(self, finding: Finding) -> None:
        self.told.add(finding.name)
        if self.everything or finding.status is not Status.PASSED:
            self._stop()
            self._head()
            for line in finding_lines(finding):
                self.write(line)
        self._show(f"{len(self.told)} of about {len(known_findings())} answers, the last: {finding.name}")

    def ended(self, report: Report) -> None:
        """What nobody has told yet, and the sum; one reason for everything is said once."""
        self._stop()
        self.name = self.name and report.cell
        self._head()
        where = f"{report.runtime}, {report.emulated}" if report.emulated else report.runtime
        left = [finding for finding in report.findings if finding.name not in self.told]
        if not self.told and report.verdict is Status.NOT_RUN and len({f.detail for f in left}) == 1:
            self._line(f"{Status.NOT_RUN}  all {len(left)} findings: {left[0].detail}")
        else:
            for finding in left:
                self.found(finding)
            self._stop()
        self._line(f"{counts_line(report)}  ({where})  sha256:{report.digest.short}")

    def _show(self, text: str) -> None:
        if self.live is not None and self.moving is not None:
            self.moving.text = text
            self.live.update(self.moving)
            self.live.start()

    def _stop(self) -> None:
        """What is printed must not run into the line that moves."""
        if self.live is not None:
            self.live.stop()

    def _head(self) -> None:
        if self.name:
            self.write(self.name)
            self.name = ""

    def _line(self, text: str) -> None:
        for line in wrapped("  ", text):
            self.write(line)


def finding_lines(finding: Finding) -> list[str]:
    """Aligned, broken at blanks; further lines of the detail below the first."""
    start = f"  {finding.status:<7}  {finding.name:<{_NAME}}  "
    first, *rest = finding.detail.splitlines() or [""]
    return [*wrapped(start, first), *(line for text in rest for line in wrapped(" " * len(start), text))]
