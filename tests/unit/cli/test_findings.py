"""What `buildctl test` prints, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from buildctl.cli.answers.findings import Moving, Printed
from buildctl.oci.digest import Digest
from buildctl.testing.listener import Listener
from buildctl.testing.report import Finding, Report, Status

PASSED = Finding(name="torch", status=Status.PASSED, detail="torch 2.6.0+cu124", seconds=3.0)
FAILED = Finding(name="python", status=Status.FAILED, detail="expected Python 3.13, image reports 3.9\nsecond")
NOT_RUN = Finding(name="works on the gpu", status=Status.NOT_RUN, detail="no NVIDIA device on this host")
REPORT = Report(
    cell="cuda-2.6-amd64",
    digest=Digest("ab" * 32),
    arch="amd64",
    runtime="sandbox",
    emulated=None,
    gpus=False,
    findings=(PASSED, FAILED, NOT_RUN),
)
SUM = "  1 failed, 1 passed, 1 not run, 3.0 s  (sandbox)  sha256:abababababab"


@pytest.fixture(autouse=True)
def _eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def told(listener: Listener, *findings: Finding, report: Report = REPORT) -> None:
    listener.began(report.cell)
    for finding in findings:
        listener.found(finding)
    listener.ended(report)


def test_what_passed_is_counted_and_the_rest_is_told_once() -> None:
    lines: list[str] = []
    told(Printed(write=lines.append), PASSED, FAILED, NOT_RUN)
    assert lines == [
        "cuda-2.6-amd64",
        "  FAILED   python              expected Python 3.13, image reports 3.9",
        "                               second",
        "  NOT RUN  works on the gpu    no NVIDIA device on this host",
        SUM,
    ]


def test_a_finding_is_told_when_it_is_known() -> None:
    lines: list[str] = []
    printed = Printed(write=lines.append)
    printed.began("cuda-2.6-amd64")
    assert lines == []
    printed.found(FAILED)
    assert lines[0] == "cuda-2.6-amd64"
    assert "FAILED   python" in lines[1]


def test_on_a_terminal_a_line_says_how_far_it_is_and_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 112.2)
    moving = Moving(name="cuda-2.6-amd64", text="2 of about 40 answers, the last: torch", since=100.0)
    assert moving.__rich__().plain == "cuda-2.6-amd64: 12 s, 2 of about 40 answers, the last: torch"


def test_everything_is_told_if_wanted_and_what_was_found_out_later_too() -> None:
    lines: list[str] = []
    told(Printed(everything=True, write=lines.append), PASSED)
    assert lines[1] == "  PASSED   torch               torch 2.6.0+cu124"
    assert [line.split()[0] for line in lines[2:]] == ["FAILED", "second", "NOT", "1"]


def test_one_reason_for_everything_is_said_once_under_the_name_of_the_report() -> None:
    lines: list[str] = []
    findings = tuple(replace(NOT_RUN, name=name) for name in ("a", "b"))
    told(Printed(write=lines.append), report=replace(REPORT, findings=findings))
    assert lines[:2] == ["cuda-2.6-amd64", "  NOT RUN  all 2 findings: no NVIDIA device on this host"]


def test_long_details_are_broken_at_blanks() -> None:
    lines: list[str] = []
    detail = "a sentence of many words that goes on and on until no terminal has room for it any more"
    told(Printed(write=lines.append), replace(FAILED, detail=detail))
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines[1:4]).split()).startswith(f"FAILED python {detail}")
