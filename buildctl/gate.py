"""What a digest must have shown before a moving tag may point at it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from buildctl.errors import BuildctlError
from buildctl.oci.digest import Digest
from buildctl.oci.image import canonical_json
from buildctl.report import Finding, Report, Status

REPORT_KIND = "application/vnd.buildctl.report.v1+json"
_ORDER = (Status.FAILED, Status.PASSED, Status.NOT_RUN)


def objection(report: Report | None, digest: Digest, allow_not_run: frozenset[str]) -> str | None:
    """Why that digest does not pass, None when it does. NOT RUN counts as passed only where it is allowed by name."""
    if report is None:
        return "it was not tested: run `buildctl test`"
    if report.digest != digest:
        return f"the report is about sha256:{report.digest.short}, not sha256:{digest.short}: run `buildctl test` again"
    failed = [f.name for f in report.findings if f.status is Status.FAILED]
    if failed:
        return f"FAILED: {', '.join(failed)}"
    if report.verdict is not Status.PASSED:
        return "nothing was asked of it"
    missing = [f.name for f in report.findings if f.status is Status.NOT_RUN and f.name not in allow_not_run]
    return f"NOT RUN and not allowed to be: {', '.join(missing)}" if missing else None


def merged(reports: Iterable[Report]) -> Report | None:
    """What several machines found out about one digest, say one with a GPU and one without: FAILED on one counts, so
    does PASSED on one where others could not ask. None for no report. Raises BuildctlError for different digests.
    """
    reports = tuple(reports)
    if not reports:
        return None
    first = reports[0]
    if any(report.digest != first.digest for report in reports):
        raise BuildctlError(f"{first.cell}: reports about different images cannot be merged")
    findings: dict[str, Finding] = {}
    for finding in (f for report in reports for f in report.findings):
        known = findings.get(finding.name)
        if known is None or _ORDER.index(finding.status) < _ORDER.index(known.status):
            findings[finding.name] = finding
    return replace(first, findings=tuple(findings.values()), gpus=any(r.gpus for r in reports))


def read_report(path: Path) -> Report | None:
    """None when there is none. Raises BuildctlError for a file that is no report."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return parse_report(data, str(path))


def parse_report(data: bytes, where: str) -> Report:
    try:
        return Report.from_json(json.loads(data))
    except (ValueError, AttributeError) as error:
        raise BuildctlError(f"{where} is no report: {error}", hint="run `buildctl test` again") from error
    except BuildctlError as error:
        raise BuildctlError(f"{where}: {error.message}", hint=error.hint) from error


def report_bytes(report: Report) -> bytes:
    """As it is attached to an image: without durations, so that the same findings are the same document."""
    return canonical_json(replace(report, findings=tuple(replace(f, seconds=0.0) for f in report.findings)).to_json())
