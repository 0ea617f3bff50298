from __future__ import annotations

from dataclasses import replace

import pytest

from buildctl.errors import BuildctlError
from buildctl.gate import merged, objection, parse_report, report_bytes
from buildctl.oci.digest import Digest
from buildctl.report import Finding, Report, Status

IMAGE, OTHER = Digest("a" * 64), Digest("b" * 64)


def report(digest: Digest = IMAGE, **findings: Status) -> Report:
    found = tuple(Finding(name=n, status=s, detail="d", seconds=1.5) for n, s in findings.items())
    return Report(cell="c", digest=digest, arch="amd64", runtime="r", emulated=None, gpus=False, findings=found)


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        (None, "it was not tested"),
        (report(OTHER, a=Status.PASSED), "the report is about sha256:bbbbbbbbbbbb"),
        (report(a=Status.PASSED, b=Status.FAILED), "FAILED: b"),
        (report(), "nothing was asked"),
        (report(gpu=Status.NOT_RUN), "nothing was asked"),
        (report(a=Status.PASSED, x=Status.NOT_RUN), "NOT RUN and not allowed to be: x"),
    ],
)
def test_what_does_not_pass_is_said(about: Report | None, expected: str) -> None:
    assert expected in (objection(about, IMAGE, frozenset({"gpu"})) or "")


def test_passed_with_what_is_allowed_to_be_not_run_passes() -> None:
    assert objection(report(a=Status.PASSED, gpu=Status.NOT_RUN), IMAGE, frozenset({"gpu"})) is None


def test_a_name_that_is_allowed_to_be_not_run_is_not_allowed_to_fail() -> None:
    assert objection(report(a=Status.PASSED, gpu=Status.FAILED), IMAGE, frozenset({"gpu"})) == "FAILED: gpu"


def test_a_machine_with_a_gpu_fills_in_what_another_could_not_ask() -> None:
    both = merged([report(a=Status.PASSED, gpu=Status.NOT_RUN), report(a=Status.PASSED, gpu=Status.PASSED)])
    assert objection(both, IMAGE, frozenset()) is None


def test_one_machine_on_which_it_failed_is_enough() -> None:
    both = merged([report(a=Status.PASSED), report(a=Status.FAILED)])
    assert objection(both, IMAGE, frozenset()) == "FAILED: a"


def test_reports_about_different_images_are_not_merged() -> None:
    with pytest.raises(BuildctlError, match="different images"):
        merged([report(), report(OTHER)])


def test_durations_do_not_change_the_attached_report() -> None:
    one = report(a=Status.PASSED)
    slow = replace(one, findings=(replace(one.findings[0], seconds=99.0),))
    assert report_bytes(one) == report_bytes(slow)
    assert parse_report(report_bytes(one), "x").findings[0].status is Status.PASSED


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"schema": 99}'])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(BuildctlError, match="somewhere"):
        parse_report(data, "somewhere")
