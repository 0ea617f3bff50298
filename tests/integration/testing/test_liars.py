"""`buildctl test` on images whose own word is false, from a layout and from a registry: FAILED for what is false."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.testing.references import test_targets as run_on_targets
from buildctl.testing.report import Finding, Status
from tests.support.liars import liar

FAILED, PASSED = Status.FAILED, Status.PASSED
OUTSIDE = {"python in layers", "claims in layers", "torch in layers", "distributions in layers"}
# image -> finding -> what it says
FALSE: dict[str, dict[str, str]] = {
    "an honest one": {},
    "a script": dict.fromkeys(
        OUTSIDE - {"claims in layers"}, "`python` is /usr/bin/python, a script (#!/bin/sh), not a Python interpreter"
    )
    | {"claims in layers": "torch 2.6.0 is claimed, the layers have none"},
    "a script that dies": {"python in layers": "a script", "matmul on cpu": "killed by SIGKILL"},
    "another program": {"python in layers": "/usr/bin/true, a program, but not CPython"},
    "another torch": {
        "torch in layers": "torch: the image reports 2.6.0, its file says 2.5.1",
        "claims in layers": "torch 2.6.0 is claimed, the layers have 2.5.1",
    },
    "another list": {"distributions in layers": "vllm 0.9.0: reported, but not in /"},
    "another name": {"torch in layers": "the image reports /opt/conda/bin/python, `python` is /"},
    "an early end": {"matmul on cpu": "killed by SIGKILL"},
}


def found(name: str, root: Path, runtime: str, *, torch: str = "2.6.0") -> dict[str, Finding]:
    image = liar(name, root, torch=torch)
    result = run_on_targets([str(image.layout)], arch=None, runtime=runtime)
    (report,) = result.reports
    if report.verdict is Status.NOT_RUN:
        pytest.skip(f"NOT RUN: {report.findings[0].detail}")
    return {finding.name: finding for finding in report.findings}


def judge(name: str, findings: dict[str, Finding]) -> None:
    for finding, text in FALSE[name].items():
        assert finding in findings, sorted(findings)
        assert findings[finding].status is FAILED
        assert text in findings[finding].detail
    if name == "an honest one":
        assert {findings[n].status for n in OUTSIDE} == {PASSED}, [findings[n] for n in OUTSIDE]
    elif "script" in name or name in ("another torch", "another name"):
        assert findings["torch"].status is PASSED, "the lie works"


def test_a_script_that_prints_good_answers_fails(tmp_path: Path) -> None:
    judge("a script", found("a script", tmp_path, "sandbox"))


def test_a_claim_that_the_layers_do_not_hold_fails(tmp_path: Path) -> None:
    findings = found("an honest one", tmp_path, "sandbox", torch="2.7.0")
    assert findings["claims in layers"].status is FAILED
    assert "torch 2.7.0 is claimed, the layers have 2.6.0" in findings["claims in layers"].detail
    assert {findings[name].status for name in OUTSIDE - {"claims in layers"}} == {PASSED}


@pytest.mark.big
@pytest.mark.parametrize("name", [name for name in FALSE if name != "a script"])
def test_every_other_lie_fails_too(name: str, tmp_path: Path) -> None:
    judge(name, found(name, tmp_path, "sandbox"))


@pytest.mark.big
@pytest.mark.docker
@pytest.mark.usefixtures("docker_client")
@pytest.mark.parametrize("name", FALSE)
def test_docker_is_told_the_same_lies(name: str, tmp_path: Path) -> None:
    judge(name, found(name, tmp_path, "docker"))
