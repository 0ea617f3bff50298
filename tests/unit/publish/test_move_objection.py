from __future__ import annotations

import pytest

from buildctl.oci.digest import Digest
from buildctl.publish.move import objection
from buildctl.testing.merge import merged
from buildctl.testing.probes.known import known_findings
from buildctl.testing.report import Finding, Report, Status

IMAGE, OTHER = Digest("a" * 64), Digest("b" * 64)


def report(digest: Digest = IMAGE, **findings: Status) -> Report:
    found = tuple(Finding(name=n, status=s, detail="d", seconds=1.5) for n, s in findings.items())
    return Report(cell="c", digest=digest, arch="amd64", runtime="r", emulated=None, gpus=False, findings=found)


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        (None, "not tested"),
        (report(OTHER, a=Status.PASSED), "the report is about sha256:bbbbbbbbbbbb"),
        (report(a=Status.PASSED, b=Status.FAILED), "FAILED: b"),
        (report(), "no finding applies"),
        (report(gpu=Status.NOT_RUN), "every finding is NOT RUN"),
        (report(a=Status.PASSED, x=Status.NOT_RUN), "NOT RUN without permission: x"),
    ],
)
def test_what_does_not_pass_is_said(about: Report | None, expected: str) -> None:
    assert expected in (objection(about, IMAGE, frozenset({"gpu"})) or "")


def test_passed_with_what_is_allowed_to_be_not_run_passes() -> None:
    assert objection(report(a=Status.PASSED, gpu=Status.NOT_RUN), IMAGE, frozenset({"gpu"})) is None


def test_a_name_that_is_allowed_to_be_not_run_is_not_allowed_to_fail() -> None:
    assert objection(report(a=Status.PASSED, gpu=Status.FAILED), IMAGE, frozenset({"gpu"})) == "FAILED: gpu"


def test_what_is_required_must_have_run_whatever_is_allowed() -> None:
    gpu = frozenset({"gpu"})
    not_run = report(a=Status.PASSED, gpu=Status.NOT_RUN)
    assert objection(not_run, IMAGE, gpu, gpu) == "required and NOT RUN: gpu"
    assert objection(report(a=Status.PASSED), IMAGE, gpu, gpu) == "required and NOT RUN: gpu", "not even in the report"
    assert objection(report(a=Status.PASSED, gpu=Status.PASSED), IMAGE, frozenset(), gpu) is None
    both = report(a=Status.PASSED, gpu=Status.NOT_RUN, x=Status.NOT_RUN)
    assert objection(both, IMAGE, frozenset(), gpu) == "required and NOT RUN: gpu; NOT RUN without permission: x"


def test_findings_are_known_by_the_names_that_the_probes_have() -> None:
    known = known_findings()
    assert {"torch", "works on the gpu", "torch.compile", "entrypoint", "labels", "matmul on mps"} <= set(known)
    assert len(set(known)) == len(known)


def test_a_machine_with_a_gpu_fills_in_what_another_could_not_ask() -> None:
    both = merged([report(a=Status.PASSED, gpu=Status.NOT_RUN), report(a=Status.PASSED, gpu=Status.PASSED)])
    assert objection(both, IMAGE, frozenset()) is None


def test_one_machine_on_which_it_failed_is_enough() -> None:
    both = merged([report(a=Status.PASSED), report(a=Status.FAILED)])
    assert objection(both, IMAGE, frozenset()) == "FAILED: a"
