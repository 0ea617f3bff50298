"""Merge reports of several machines on one digest; reports as bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from buildctl.ground.errors import BuildctlError
from buildctl.ground.jsontext import parse_json
from buildctl.oci.digest import Digest
from buildctl.oci.image import canonical_json
from buildctl.testing.report import Finding, Report, Status, remembering, undated

REPORT_KIND = "application/vnd.buildctl.report.v1+json"


LABELS = "labels"  # the one finding that asks the configuration and nothing inside


_ORDER = (Status.FAILED, Status.PASSED, Status.NOT_RUN)


def merged(reports: Iterable[Report]) -> Report | None:
    """What several machines found about one digest, say one with a GPU and one without: FAILED on one counts, so
    does PASSED on one if the others could not run it. None for no report. Raises BuildctlError for different digests.
    """
    reports = tuple(reports)
    if not reports:
        return None
    first = reports[0]
    if any(report.digest != first.digest for report in reports):
        raise BuildctlError(f"{first.cell}: cannot merge reports about different images")
    findings: dict[str, Finding] = {}
    for finding in (f for report in reports for f in report.findings):
        known = findings.get(finding.name)
        if known is None or _weight(finding) > _weight(known):
            findings[finding.name] = finding
    return replace(
        first,
        findings=tuple(findings.values()),
        gpus=any(r.gpus for r in reports),
        made=max(r.made for r in reports),
    )


def _weight(finding: Finding) -> tuple[int, str]:
    return -_ORDER.index(finding.status), finding.ran.at if finding.ran else ""


def completed(report: Report, earlier: Report | None) -> Report:
    """What did not run this time keeps the result of an earlier run at the same digest, say on a machine with a GPU."""
    if earlier is None or earlier.digest != report.digest:
        return report
    answers = {f.name: f for f in earlier.findings if f.status is not Status.NOT_RUN}
    findings = (answers.get(f.name, f) if f.status is Status.NOT_RUN else f for f in report.findings)
    return replace(report, findings=tuple(findings), gpus=report.gpus or earlier.gpus)


def joined(kept: Report | None, brought: Report, built: Digest | None) -> Report:
    """One report on a cell from the kept one and another machine's; `built` is the current digest.

    About one digest they are merged. Otherwise the one about what is built stays, and learns from the other what ran.
    """
    if kept is None:
        return brought
    if kept.digest == brought.digest:
        both = merged((kept, brought))
        assert both is not None  # noqa: S101 - of two
        return remembering(remembering(both, kept), brought)
    newer = brought if brought.digest == built or (kept.digest != built and brought.made > kept.made) else kept
    return remembering(newer, kept if newer is brought else brought)


def read_report(path: Path) -> Report | None:
    """None if there is none. Raises BuildctlError for a file that is not a report."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return parse_report(data, str(path))


def parse_report(data: bytes, where: str) -> Report:
    try:
        return Report.from_json(parse_json(data))
    except (ValueError, AttributeError) as error:
        raise BuildctlError(f"{where} is not a report: {error}", hint="run `buildctl test` again") from error
    except BuildctlError as error:
        raise BuildctlError(f"{where}: {error.message}", hint=error.hint) from error


def report_bytes(report: Report) -> bytes:
    """As attached to an image: without times, so that the same findings are the same document."""
    return canonical_json(undated(report).to_json())
