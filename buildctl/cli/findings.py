"""What `buildctl test` prints: each finding once, when it is known; by default only what is not PASSED, and a sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import click

from buildctl.console.table import wrapped
from buildctl.testing.report import Finding, Report, Status, counts_line

_NAME = 18  # columns; a longer name moves its own line


@dataclass(slots=True, kw_only=True)
class Printed:
    """A `Listener`. With `everything` what PASSED is printed, too. `write` takes one line at a time."""

    everything: bool = False
    write: Callable[[str], None] = click.echo
    name: str = ""
    told: set[str] = field(default_factory=set)

    def began(self, name: str) -> None:
        self.name, self.told = name, set()

    def found(self, finding: Finding) -> None:
        self.told.add(finding.name)
        if self.everything or finding.status is not Status.PASSED:
            self._head()
            for line in finding_lines(finding):
                self.write(line)

    def ended(self, report: Report) -> None:
        """What nobody has told yet, and the sum; one reason for everything is said once."""
        self.name = self.name and report.cell
        self._head()
        where = f"{report.runtime}, {report.emulated}" if report.emulated else report.runtime
        left = [finding for finding in report.findings if finding.name not in self.told]
        if not self.told and report.verdict is Status.NOT_RUN and len({f.detail for f in left}) == 1:
            self._line(f"{Status.NOT_RUN}  all {len(left)} findings: {left[0].detail}")
        else:
            for finding in left:
                self.found(finding)
        self._line(f"{counts_line(report)}  ({where})  sha256:{report.digest.short}")

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
