"""Which findings have not run, and for how long: NOT RUN is not PASSED, so `buildctl matrix` keeps listing it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from buildctl.console.table import folded
from buildctl.ground.errors import BuildctlError
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.testing.merge import read_report
from buildctl.testing.report import Ran, Report, Status, last_run

EVERYTHING = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Debt:
    """One finding of a cell that has not run on what is there now, or EVERYTHING. `ran` is the last time at any digest,
    `since` when it first was NOT RUN after that; `allowed`: a tag may move all the same, by matrix.yaml.
    """

    cell: str
    finding: str
    reason: str = ""
    ran: Ran | None = None
    since: str = ""
    allowed: bool = False

    def days(self, now: datetime) -> int | None:
        """Whole days since it ran, or since it first was NOT RUN; None if unrecorded."""
        text = self.ran.at if self.ran else self.since
        try:
            return max(0, (now - datetime.fromisoformat(text)).days)
        except (ValueError, TypeError):
            return None

    def to_json(self, now: datetime) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "finding": self.finding or None,
            "lastRan": self.ran.to_json() if self.ran else None,
            "notRunSince": self.since or None,
            "days": self.days(now),
            "allowed": self.allowed,
            "reason": self.reason or None,
        }

    def state(self, now: datetime) -> str:
        days = self.days(now)
        age = "" if days is None else "today" if days == 0 else f"{days} day{'s' if days > 1 else ''}"
        if self.ran is None:
            text = f"never ran (NOT RUN for {age})" if days else "never ran"
        else:
            when = "at an unknown time" if not age else age if days == 0 else f"{age} ago"
            text = f"last ran {when}, at sha256:{self.ran.digest.short}"
        return f"{text}; allowed" if self.allowed else text


def debts(project: Project, cell: Cell, built: Digest | None) -> list[Debt]:
    """`built` is the digest that a report must be about (`kept.built_digest`)."""
    report: Report | None = None
    with suppress(BuildctlError):
        report = read_report(project.report(cell))
    if report is None:
        return [Debt(cell=cell.id, finding=EVERYTHING)]
    last = max((r for f in report.findings if (r := last_run(f, report))), key=lambda r: r.at, default=None)
    if last is None:
        reasons = {f.detail for f in report.findings}
        since = min((f.since for f in report.findings if f.since), default=report.made)
        return [Debt(cell=cell.id, finding=EVERYTHING, since=since, reason=reasons.pop() if len(reasons) == 1 else "")]
    allowed = project.matrix.publish.allowed(cell)
    found = [
        Debt(cell=cell.id, finding=f.name, reason=f.detail, ran=f.ran, since=f.since, allowed=f.name in allowed)
        for f in report.findings
        if f.status is Status.NOT_RUN
    ]
    if report.digest != built:
        return [Debt(cell=cell.id, finding=EVERYTHING, ran=last), *(d for d in found if d.ran is None)]
    if report.verdict is Status.NOT_RUN:
        return [Debt(cell=cell.id, finding=EVERYTHING, ran=last, since=report.made)]
    return found


def debt_text(found: Iterable[Debt], now: datetime) -> str:
    """A table that groups cells with the same debt; empty without any."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for debt in sorted(found, key=lambda d: (d.finding != EVERYTHING, d.allowed, d.finding)):
        grouped.setdefault((debt.finding or "everything", debt.state(now)), []).append(debt.cell)
    rows: Sequence[tuple[str, str, str]] = [(name, state, _few(ids)) for (name, state), ids in grouped.items()]
    return folded(("NOT RUN", "STATE", "CELLS"), rows) if rows else ""


def _few(ids: Sequence[str]) -> str:
    """`--json` has all of them."""
    return ", ".join(ids) if len(ids) <= 4 else f"{', '.join(ids[:3])} and {len(ids) - 3} more"
