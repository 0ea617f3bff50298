"""A bounded run of the campaign of `make chaos`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

ATTACKS = ["kill build", "kill lock", "kill publish", "kill promote", "kill rebase", "full disk", "crowd", "rot"]


@pytest.mark.big
@pytest.mark.network
@pytest.mark.parametrize(
    "options",
    [["--kills", "50", *ATTACKS], ["--every", "25", "strace build", "strace publish"]],
    ids=["faults", "calls"],
)
def test_nothing_is_wrong_lost_or_left_behind(options: list[str]) -> None:
    argv = [sys.executable, "-m", "tests.chaos", *options]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong 0, lost 0, left behind 0" in done.stdout.splitlines()[-1]
