"""`scripts/gpu-proof run`: what it writes, and what it says if something is missing. No GPU needed."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from buildctl.host.facts import read_host
from tests.conftest import ROOT
from tests.support.environments import put_torch

SCRIPT = ROOT / "scripts" / "gpu-proof"


def proof(*args: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, SCRIPT, "run", *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_without_wheels_it_says_how_to_make_them(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    done = proof(tmp_path / "out", "--wheels", tmp_path / folder)
    assert done.returncode == 3
    assert f"missing: wheels: {tmp_path / folder} has none" in done.stderr
    assert f"scripts/gpu-proof wheels {tmp_path / folder}" in done.stderr
    assert "Traceback" not in done.stderr


def test_wheels_that_do_not_do_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "click-8.9-py3-none-any.whl").write_bytes(b"no zip")
    done = proof(tmp_path / "out", "--wheels", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: cannot install buildctl's requirements from")


def test_it_writes_facts_verdicts_and_a_report(tmp_path: Path) -> None:
    folder, out = tmp_path / "environment", tmp_path / "out"
    venv.create(folder, with_pip=False)
    put_torch(folder, body="__version__ = '2.0'\n")
    done = proof(out, "--env", folder)
    assert done.returncode == 1, done.stderr  # this torch is not what its files say
    names = ["check", "check-docker", "doctor", "host", "host-docker", "proof", "report"]
    assert sorted(path.stem for path in out.glob("*.json")) == names
    facts, assumed = read_host(out / "host.json"), read_host(out / "host-docker.json")
    assert (assumed.gpus, assumed.driver, assumed.arch) == (facts.gpus, facts.driver, facts.arch)
    assert assumed.engine is not None
    assert assumed.engine.gpus
    assert "composed" in assumed.note
    (report,) = json.loads((out / "report.json").read_text())["reports"]
    assert report["cell"] == f"env:{folder}"
    steps = json.loads((out / "proof.json").read_text())["steps"]
    assert [step["name"] for step in steps] == ["host", "verdicts", "doctor", "probes"]
    assert all(step["seconds"] >= 0 for step in steps)
