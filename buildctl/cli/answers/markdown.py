"""The result of a run as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from buildctl.build.engine import BuildResult
from buildctl.console.table import counted, size
from buildctl.publish.diff import Difference
from buildctl.publish.pipeline.growth import by_content, newest
from buildctl.publish.result import Candidate, Published
from buildctl.testing.images import TestResult
from buildctl.testing.report import Report, Status

_LINES = 100  # of one list; GitHub drops a summary above 1 MiB


def markdown(found: BuildResult | TestResult | Published) -> Iterator[str]:
    match found:
        case BuildResult():
            return _built(found)
        case TestResult():
            return _tested(found)
        case Published():
            return _published(found)


def _built(found: BuildResult) -> Iterator[str]:
    yield f"### Built in {found.seconds:.0f} s\n"
    yield from _table(
        ("image", "size", "layers made", "reused", "digest"),
        [
            (i.name, size(i.size), str(i.made), str(i.reused), f"sha256:{i.descriptor.digest.short}")
            for i in found.images
        ],
    )


def _tested(found: TestResult) -> Iterator[str]:
    yield "### Tested\n"
    counted = (Status.PASSED, Status.FAILED, Status.NOT_RUN)
    yield from _table(
        ("image", "", *(str(status) for status in counted), "where"),
        [(r.cell, str(r.verdict), *(str(r.count(s)) for s in counted), _where(r)) for r in found.reports],
    )
    rows = [
        (r.cell, str(f.status), f.name, f.detail)
        for status in (Status.FAILED, Status.NOT_RUN)
        for r in found.reports
        for f in r.findings
        if f.status is status
    ]
    if rows:
        yield ""
        yield from _table(("image", "", "finding", "why"), rows)


def _where(report: Report) -> str:
    return f"{report.runtime}, {report.emulated}" if report.emulated else report.runtime


def _published(found: Published) -> Iterator[str]:
    yield f"### {'To publish' if found.dry_run else 'Published'}: {found.repository}\n"
    sent = {pushed.candidate.cell.id: size(pushed.sent) for pushed in found.images}
    rows = [
        (c.cell.id, c.objection or _verdict(c), ", ".join(c.not_run), _size(c), _against(c), sent.get(c.cell.id, ""))
        for c in found.candidates
    ]
    yield from _table(("image", "", "NOT RUN", "size", "against its tag", "sent"), rows)
    for candidate in found.candidates:
        if candidate.change is not None and not candidate.change.same:
            yield from _changes(candidate.cell.id, candidate.change)
    if found.tags:
        yield "\n"
        yield from _table(
            ("tag", "kind", "", "points at"), [(t.name, str(t.kind), str(t.outcome), t.where()) for t in found.tags]
        )


def _verdict(candidate: Candidate) -> str:
    if candidate.waits:
        return f"waits: {candidate.waits}"
    return str(candidate.report.verdict) if candidate.report else ""


def _size(candidate: Candidate) -> str:
    return size(candidate.size) if candidate.size else ""


def _against(candidate: Candidate) -> str:
    if (change := candidate.change) is None:
        return "no tag yet"
    if change.same:
        return "the same image"
    count = len(change.packages or ())
    packages = "packages unknown" if change.packages is None else counted(count, "package")
    return f"{_signed(change.b.size - change.a.size)}, {packages}"


def _signed(count: int) -> str:
    return f"{'-' if count < 0 else '+'}{size(abs(count))}"


def _changes(name: str, change: Difference) -> Iterator[str]:
    """A folded section: layers by size, then packages."""
    before, after = by_content(change.a), by_content(change.b)
    moved = {key: after.get(key, 0) - before.get(key, 0) for key in {**before, **after}}
    layers = [f"{_signed(n)} {key}" for key, n in sorted(moved.items(), key=lambda item: -abs(item[1])) if n]
    packages = [change.line() for change in newest(change.packages or ())]
    yield f"\n<details><summary>{_plain(name)} against {_plain(change.a.name)}</summary>\n"
    yield from (f"    {line}" for line in (*layers, *packages[:_LINES]))
    if len(packages) > _LINES:
        yield f"    and {len(packages) - _LINES} packages more"
    yield "\n</details>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(map(_plain, row))} |"


def _plain(text: str) -> str:
    """Escapes text of an image or registry, so that it is not Markdown or HTML and stays in its cell."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
