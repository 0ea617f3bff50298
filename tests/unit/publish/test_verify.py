"""What an error means for a finding. Images that lie: tests/integration/publish/test_verify_attacks.py."""

from __future__ import annotations

import inspect

import pytest

from buildctl.ground.errors import ExitCode, LayoutError
from buildctl.publish.signatures import MissingError, WrongError
from buildctl.publish.verify import CHECKS, Verified, _finding, _Verification, exit_code
from buildctl.registry.problems import AbsentError, UnavailableError
from buildctl.testing.report import Finding, Status


def finding(error: Exception) -> Finding:
    def check() -> str:
        raise error

    return _finding("bill", check)


def test_what_does_not_raise_has_passed() -> None:
    assert _finding("bill", lambda: "3 packages") == Finding(name="bill", status=Status.PASSED, detail="3 packages")


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (MissingError("none attached"), Status.NOT_RUN, "none attached"),
        (WrongError("it is about another image"), Status.FAILED, "it is about another image"),
        (LayoutError("cut short"), Status.FAILED, "cut short"),
        (AbsentError("no such blob"), Status.FAILED, "no such blob"),
        (KeyError("metadata"), Status.FAILED, "malformed (KeyError('metadata'))"),
        (ValueError("x"), Status.FAILED, "malformed (ValueError('x'))"),
        (RecursionError(), Status.FAILED, "malformed (RecursionError())"),
    ],
)
def test_every_fault_of_a_document_is_a_finding(error: Exception, status: Status, detail: str) -> None:
    found = finding(error)
    assert (found.status, found.detail) == (status, detail)


def test_a_registry_that_does_not_answer_says_nothing_about_the_image() -> None:
    with pytest.raises(UnavailableError):
        finding(UnavailableError("no answer"))
    with pytest.raises(ZeroDivisionError):  # a fault of ours is not the image's
        finding(ZeroDivisionError())


def test_one_failure_fails_and_what_was_not_run_does_not() -> None:
    bad, missing = finding(WrongError("x")), finding(MissingError("y"))
    assert Verified(name="n", digest="d", findings=(missing, bad)).failed
    assert not Verified(name="n", digest="d", findings=(missing,)).failed


def test_what_is_required_and_not_run_is_not_exit_0() -> None:
    ran = Finding(name="report", status=Status.PASSED, detail="")
    one = Verified(name="n", digest="d", findings=(ran, finding(MissingError("none attached"))))
    other = Verified(name="m", digest="e", findings=(ran,))
    assert exit_code([one, other]) == exit_code([one, other], ["report"]) == ExitCode.OK
    assert exit_code([one], ["bill"]) == exit_code([other], ["bill"]) == ExitCode.NOT_RUN
    assert exit_code([Verified(name="n", digest="d", findings=(finding(WrongError("x")),))], ["x"]) == ExitCode.FAILED


def test_the_checks_that_can_be_required_are_those_that_there_are() -> None:
    source = inspect.getsource(_Verification.findings)
    assert [name for name in CHECKS if f'"{name}"' not in source] == []


def test_findings_are_aligned() -> None:
    found = (
        Finding(name="a", status=Status.PASSED, detail="x"),
        Finding(name="bcd", status=Status.NOT_RUN, detail="y"),
    )
    assert Verified(name="n", digest="d", findings=found).text().splitlines() == [
        "n  d",
        "  PASSED   a    x",
        "  NOT RUN  bcd  y",
    ]
