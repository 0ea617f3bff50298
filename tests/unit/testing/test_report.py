from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from buildctl.ground.errors import BuildctlError
from buildctl.oci.digest import Digest
from buildctl.testing.report import Finding, Report, Status, counts_line, junit_xml

PASSED = Finding(name="torch", status=Status.PASSED, detail="torch 2.6.0+cu124", seconds=1.25)
FAILED = Finding(
    name="python", status=Status.FAILED, detail="expected Python 3.13, image reports 3.9\nsecond", seconds=2
)
NOT_RUN = Finding(name="gpu", status=Status.NOT_RUN, detail="no NVIDIA device on this host")


def report(*findings: Finding) -> Report:
    return Report(
        cell="cuda-2.6-amd64",
        digest=Digest("ab" * 32),
        arch="amd64",
        runtime="sandbox",
        emulated=None,
        gpus=False,
        findings=findings,
    )


def test_json_comes_back_the_same() -> None:
    before = report(PASSED, FAILED, NOT_RUN)
    assert Report.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_the_schema_is_stable() -> None:
    value = report(PASSED).to_json()
    assert list(value) == [
        "schema", "cell", "digest", "arch", "runtime", "emulated", "gpus", "verdict", "counts", "findings",
    ]  # fmt: skip
    assert value["counts"] == {"PASSED": 1, "FAILED": 0, "NOT RUN": 0}
    assert value["findings"] == [{"name": "torch", "status": "PASSED", "detail": "torch 2.6.0+cu124", "seconds": 1.25}]


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"digest": "md5:1"}, {"findings": [{"name": "a"}]}, {"findings": 3},
     {"findings": [{"name": "a", "status": "MAYBE", "detail": "", "seconds": 0}]}],
)  # fmt: skip
def test_another_shape_is_an_error_with_a_way_out(change: dict[str, object]) -> None:
    with pytest.raises(BuildctlError) as caught:
        Report.from_json({**report(PASSED).to_json(), **change})
    if "digest" not in change:
        assert caught.value.hint == "run `buildctl test` again"


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ((PASSED,), Status.PASSED),
        ((PASSED, NOT_RUN), Status.PASSED),
        ((PASSED, NOT_RUN, FAILED), Status.FAILED),
        ((NOT_RUN,), Status.NOT_RUN),
        ((), Status.NOT_RUN),
    ],
)
def test_what_did_not_run_never_passes(findings: tuple[Finding, ...], verdict: Status) -> None:
    assert report(*findings).verdict is verdict


def test_junit_counts_and_reasons() -> None:
    root = ET.fromstring(junit_xml([report(PASSED, FAILED, NOT_RUN), report(PASSED)]))
    suite = root.findall("testsuite")[0]
    assert {key: suite.get(key) for key in ("name", "tests", "failures", "skipped", "errors")} == {
        "name": "cuda-2.6-amd64", "tests": "3", "failures": "1", "skipped": "1", "errors": "0",
    }  # fmt: skip
    failure, skipped = suite.find("testcase/failure"), suite.find("testcase/skipped")
    assert failure is not None
    assert (failure.get("message"), failure.text) == (FAILED.detail.splitlines()[0], FAILED.detail)
    assert skipped is not None
    assert skipped.get("message") == NOT_RUN.detail
    assert len(root.findall("testsuite")) == 2


def test_junit_survives_what_programs_print() -> None:
    nasty = "\x1b[31m<b>&\x00\ud800]]>\ufffe ä"
    root = ET.fromstring(junit_xml([report(Finding(name=nasty, status=Status.FAILED, detail=nasty))]))
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.text == "?[31m<b>&??]]>? ä"


def test_json_is_text_whatever_an_image_said() -> None:
    found = Finding(name="a", status=Status.FAILED, detail="torch \ud800\x1b").to_json()
    assert found["detail"] == "torch ??"


def test_an_empty_report_says_so() -> None:
    assert counts_line(report()) == "nothing was checked, 0.0 s"
