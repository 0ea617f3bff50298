"""Findings and reports: what was found out about one image, for people, for machines (JSON) and for CI (JUnit).

NOT RUN is not PASSED, and it ages: a finding records when it last ran and since when it has not (`following`).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

from buildctl.console.plain import plain
from buildctl.ground.errors import BuildctlError
from buildctl.oci.digest import Digest

SCHEMA = 1


class Status(StrEnum):
    PASSED = "PASSED"
    FAILED = "FAILED"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """When a finding was last PASSED or FAILED (RFC 3339, UTC; empty if unrecorded), and at which digest."""

    at: str
    digest: Digest
    status: Status

    def to_json(self) -> dict[str, str]:
        return {"at": self.at, "digest": str(self.digest), "status": str(self.status)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One answer about an image. `detail` is what was seen, or why it is NOT RUN; `seconds` is its share of the time.

    In a kept report, `ran` is the last time that it ran at any digest of the cell (None: never), and `since`
    the time of the first report after that with NOT RUN.
    """

    name: str
    status: Status
    detail: str
    seconds: float = 0.0
    ran: Ran | None = None
    since: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": str(self.status),
            "detail": plain(self.detail),  # an image may have said it
            "seconds": round(self.seconds, 3),
            **({"ran": self.ran.to_json()} if self.ran else {}),
            **({"since": self.since} if self.since else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings about one image. `digest` is the manifest's, so that a report is never read for another image.

    `made` is when it ran (RFC 3339, UTC), empty if attached to an image.
    """

    cell: str
    digest: Digest
    arch: str
    runtime: str
    emulated: str | None
    gpus: bool
    findings: tuple[Finding, ...]
    made: str = ""

    @property
    def verdict(self) -> Status:
        """FAILED if anything failed, NOT RUN if nothing passed, else PASSED."""
        if self.count(Status.FAILED):
            return Status.FAILED
        return Status.PASSED if self.count(Status.PASSED) else Status.NOT_RUN

    def count(self, status: Status) -> int:
        return sum(f.status is status for f in self.findings)

    @property
    def seconds(self) -> float:
        return sum(f.seconds for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "cell": self.cell,
            "digest": str(self.digest),
            "arch": self.arch,
            "runtime": self.runtime,
            "emulated": self.emulated,
            "gpus": self.gpus,
            **({"made": self.made} if self.made else {}),
            "verdict": str(self.verdict),
            "counts": {str(s): self.count(s) for s in Status},
            "findings": [f.to_json() for f in self.findings],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; raises BuildctlError for another schema or anything malformed."""
        try:
            if value["schema"] != SCHEMA:
                raise BuildctlError(f"report of schema {value['schema']!r}, not {SCHEMA}", hint=_AGAIN)
            return cls(
                cell=str(value["cell"]),
                digest=Digest.parse(value["digest"]),
                arch=str(value["arch"]),
                runtime=str(value["runtime"]),
                emulated=None if value["emulated"] is None else str(value["emulated"]),
                gpus=bool(value["gpus"]),
                findings=tuple(_finding(f) for f in value["findings"]),
                made=str(value.get("made", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BuildctlError(f"malformed report ({error!r})", hint=_AGAIN) from error


_AGAIN = "run `buildctl test` again"


def _finding(value: Mapping[str, Any]) -> Finding:
    return Finding(
        name=str(value["name"]),
        status=Status(value["status"]),
        detail=str(value["detail"]),
        seconds=float(value["seconds"]),
        ran=_ran(value["ran"]) if value.get("ran") else None,
        since=str(value.get("since", "")),
    )


def _ran(value: Mapping[str, Any]) -> Ran:
    return Ran(at=str(value["at"]), digest=Digest.parse(value["digest"]), status=Status(value["status"]))


def following(report: Report, earlier: Report | None, at: str) -> Report:
    """The report as made at that time, with what the cell's earlier one, on whatever digest, knew of each finding."""

    def dated(finding: Finding) -> Finding:
        if finding.status is Status.NOT_RUN:
            return replace(finding, ran=None, since=at)
        return replace(finding, ran=Ran(at=at, digest=report.digest, status=finding.status), since="")

    made = replace(report, made=at, findings=tuple(dated(finding) for finding in report.findings))
    return remembering(made, earlier) if earlier else made


def remembering(report: Report, other: Report) -> Report:
    """For what did not run here, copies from another report on the same cell when it last did. Statuses stay."""
    known = {finding.name: finding for finding in other.findings}

    def learned(finding: Finding) -> Finding:
        about = known.get(finding.name)
        if finding.status is not Status.NOT_RUN or about is None:
            return finding
        ran = max(filter(None, (finding.ran, last_run(about, other))), key=lambda r: r.at, default=None)
        waits = [since for since in (about.since, finding.since) if since and (ran is None or since >= ran.at)]
        return replace(finding, ran=ran, since=min(waits, default=report.made))

    return replace(report, findings=tuple(learned(finding) for finding in report.findings))


def last_run(finding: Finding, report: Report) -> Ran | None:
    """Of a finding in that report, even if unrecorded."""
    if finding.ran is not None or finding.status is Status.NOT_RUN:
        return finding.ran
    return Ran(at=report.made, digest=report.digest, status=finding.status)


def undated(report: Report) -> Report:
    """Without times and durations: the same findings are the same document."""
    findings = tuple(replace(f, seconds=0.0, ran=None, since="") for f in report.findings)
    return replace(report, made="", findings=findings)


def junit_xml(reports: Iterable[Report]) -> bytes:
    """JUnit XML: one suite per report, FAILED as failure, NOT RUN as skipped with its reason."""
    root = ET.Element("testsuites", name="buildctl")
    for report in reports:
        suite = ET.SubElement(
            root,
            "testsuite",
            name=_xml_text(report.cell),
            tests=str(len(report.findings)),
            failures=str(report.count(Status.FAILED)),
            errors="0",
            skipped=str(report.count(Status.NOT_RUN)),
            time=f"{report.seconds:.3f}",
        )
        properties = ET.SubElement(suite, "properties")
        facts = {"digest": str(report.digest), "runtime": report.runtime, "emulated": report.emulated or ""}
        for name, value in facts.items():
            ET.SubElement(properties, "property", name=name, value=_xml_text(value))
        for finding in report.findings:
            _junit_case(suite, report, finding)
    ET.indent(root)
    body: bytes = ET.tostring(root, encoding="unicode").encode()
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + body + b"\n"


def _junit_case(suite: ET.Element, report: Report, finding: Finding) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_xml_text(report.cell),
        name=_xml_text(finding.name),
        time=f"{finding.seconds:.3f}",
    )
    text = _xml_text(finding.detail)
    match finding.status:
        case Status.FAILED:
            ET.SubElement(case, "failure", message=text.splitlines()[0] if text else "").text = text
        case Status.NOT_RUN:
            ET.SubElement(case, "skipped", message=text)
        case Status.PASSED:
            ET.SubElement(case, "system-out").text = text


def _xml_text(text: str) -> str:
    """XML 1.0 cannot represent most control characters, and programs in images print them."""
    return "".join(
        c if c in "\t\n" or (" " <= c <= "\ud7ff") or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "?" for c in text
    )


def counts_line(report: Report) -> str:
    """`12 passed, 1 not run, 4.2 s`"""
    parts = [
        f"{report.count(s)} {s.lower()}" for s in (Status.FAILED, Status.PASSED, Status.NOT_RUN) if report.count(s)
    ]
    return ", ".join([*(parts or ["nothing was checked"]), f"{report.seconds:.1f} s"])
