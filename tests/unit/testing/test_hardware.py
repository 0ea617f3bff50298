"""What `scripts/gpu-proof` brought back from machines with a GPU (tests/hardware/MACHINE/), as today's code reads it.

Without such a folder there is nothing to read, and no test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from buildctl.host.check import check_images
from buildctl.host.facts import read_host
from buildctl.host.verdict import VerdictKind
from buildctl.testing.merge import parse_report
from buildctl.testing.report import Report, Status
from tests.conftest import ROOT

PROOFS = sorted(path.parent for path in (Path(__file__).parents[2] / "hardware").glob("*/host.json"))
GPU = "works on the gpu"


def report_in(folder: Path, name: str) -> Report:
    (one,) = json.loads((folder / name).read_bytes())["reports"]
    return parse_report(json.dumps(one).encode(), str(folder / name))


def verdicts(answer: dict[str, Any]) -> dict[str, str]:
    return {verdict["name"]: verdict["verdict"] for verdict in answer["verdicts"]}


if PROOFS:

    @pytest.fixture(params=PROOFS, ids=lambda path: path.name)
    def proof(request: pytest.FixtureRequest) -> Path:
        folder: Path = request.param
        return folder

    def test_the_machine_has_a_gpu_whose_driver_is_understood(proof: Path) -> None:
        host = read_host(proof / "host.json")
        assert host.gpus, host.gpu_problem
        assert host.driver
        assert all(gpu.capability for gpu in host.gpus)

    def test_torch_computed_on_that_gpu(proof: Path) -> None:
        host, report = read_host(proof / "host.json"), report_in(proof, "report.json")
        found = {finding.name: finding for finding in report.findings}
        assert found[GPU].status is Status.PASSED, found[GPU].detail
        assert host.gpus[0].name in found[GPU].detail
        assert (report.runtime, report.gpus) == ("native", True)
        assert found["without a gpu"].status is Status.NOT_RUN
        failed = {finding.name for finding in report.findings if finding.status is Status.FAILED}
        assert failed <= {"distributions", "pip check"}  # how tidy somebody's environment is, and not what it computes

    def test_in_the_sandbox_too_where_it_was_asked(proof: Path) -> None:
        if (proof / "sandbox.json").exists():
            report = report_in(proof, "sandbox.json")
            assert (report.runtime, report.gpus) == ("sandbox", True)
            assert {f.name: f.status for f in report.findings}[GPU] is Status.PASSED

    def test_with_docker_it_gets_the_verdicts_of_that_day(proof: Path, tmp_path: Path) -> None:
        """A version that the matrix has no more, or has since, is not compared."""
        host = proof / "host-docker.json"
        then = verdicts(json.loads((proof / "check-docker.json").read_bytes()))
        today = verdicts(check_images(ROOT, tmp_path, [], host_file=host, save=None).to_json())
        both = then.keys() & today.keys()
        assert {name: today[name] for name in both} == {name: then[name] for name in both}
        assert VerdictKind.GPU in today.values()
