"""MPS: PASSED where the Apple GPU computes, NOT RUN where this Mac has no working one, FAILED where torch lies."""

from __future__ import annotations

import math
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from buildctl.oci.digest import Digest
from buildctl.runtimes.sandbox.emulation import native_arch
from buildctl.testing import probes
from buildctl.testing.probes import judging_mps
from buildctl.testing.probes.expected import Expected
from buildctl.testing.report import Finding, Status

PASSED, FAILED, NOT_RUN = Status.PASSED, Status.FAILED, Status.NOT_RUN
EXPECTED = Expected(torch="2.6.0", python="3.13", arch="arm64", accelerator="mps", built=("mps",), native=True)
ABOUT = {"built": True, "available": True, "macos": "15.6", "virtual": False, "shell": {}}
GOOD = {"error": 2e-7}
# word for word, from actions/runner-images#9918
NO_MEMORY = (
    "MPS backend out of memory (MPS allocated: 0 bytes, other allocations: 0 bytes, max allowed: 7.93 GB). Tried to "
    "allocate 256 bytes on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory "
    "allocations (may cause system failure)."
)
COMPUTED = ["available", "matmul", "convolution", "autograd"]
QUESTIONS = {"available": "mps_tensor"}


def judged(name: str, answer: Any, **about: Any) -> tuple[Status, str]:
    question = QUESTIONS.get(name, f"mps_{name}")
    judge = getattr(judging_mps, name)
    verdict: tuple[Status, str] = judge(EXPECTED, {"mps": ABOUT | about, question: answer})
    return verdict


@pytest.mark.parametrize("name", COMPUTED)
def test_numbers_decide(name: str) -> None:
    assert judged(name, GOOD)[0] is PASSED
    for wrong in (0.3, math.nan, math.inf):
        status, detail = judged(name, {"error": wrong})
        assert (status, "expected an error of at most 0.005" in detail) == (FAILED, True)


@pytest.mark.parametrize("name", COMPUTED)
def test_a_virtual_mac_that_gives_no_memory_is_not_run(name: str) -> None:
    status, detail = judged(name, {"refused": NO_MEMORY}, virtual=True)
    assert status is NOT_RUN
    assert detail.startswith("MPS does not work on macOS 15.6, a virtual machine: MPS backend out of memory (MPS")
    assert "Tried to allocate 256 bytes on private pool" in detail


@pytest.mark.parametrize("name", COMPUTED)
def test_any_other_refusal_fails(name: str) -> None:
    status, detail = judged(name, {"refused": "Placeholder storage has not been allocated on MPS device!"})
    assert status is FAILED
    assert "Placeholder storage" in detail


@pytest.mark.parametrize("name", [*COMPUTED, "fallback"])
def test_built_and_not_available_is_not_run(name: str) -> None:
    status, detail = judged(name, None, available=False, macos="15.6", virtual=True)
    assert status is NOT_RUN
    assert "torch is built for MPS but finds no device on macOS 15.6, a virtual machine" in detail


def test_a_build_without_mps_fails_once() -> None:
    assert judging_mps.built(EXPECTED, ABOUT | {"built": False})[0] is FAILED
    assert judging_mps.built(EXPECTED, ABOUT)[0] is PASSED
    assert judged("matmul", None, built=False, available=False) == (NOT_RUN, "this torch is not built for MPS")


@pytest.mark.parametrize(
    ("answer", "shell", "status", "says"),
    [
        (
            {"without": {"refused": "NotImplementedError"}, "with": GOOD},
            {},
            PASSED,
            "qr is computed on the CPU, which fails without it; in your shell PYTORCH_ENABLE_MPS_FALLBACK is not set",
        ),
        (
            {"without": GOOD, "with": GOOD},
            {"PYTORCH_ENABLE_MPS_FALLBACK": "1"},
            PASSED,
            "torch.linalg.qr is computed, as without it; in your shell PYTORCH_ENABLE_MPS_FALLBACK=1",
        ),
        (
            {"without": GOOD, "with": {"error": 1.0}},
            {},
            FAILED,
            "with PYTORCH_ENABLE_MPS_FALLBACK=1, but it computes 1",
        ),
        (
            {"without": {"refused": "x"}, "with": {"refused": "NotImplementedError: aten::linalg_qr"}},
            {},
            FAILED,
            "torch refuses: NotImplementedError: aten::linalg_qr",
        ),
        (
            {"without": {"refused": NO_MEMORY}, "with": {"refused": f"RuntimeError: {NO_MEMORY}"}},
            {"PYTORCH_MPS_HIGH_WATERMARK_RATIO": "0.0"},
            NOT_RUN,
            "in your shell PYTORCH_ENABLE_MPS_FALLBACK is not set, PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0",
        ),
    ],
    ids=["fallback", "kernel", "wrong", "no fallback", "no memory"],
)
def test_the_fallback_is_shown_and_the_shell_stated(
    answer: Any, shell: Mapping[str, str], status: Status, says: str
) -> None:
    found = judged("fallback", answer, shell=shell)
    assert found[0] is status
    assert says in found[1]


# The probe itself, run against a package `torch` that only talks.
TORCH = """
import os
__version__ = "2.6.0"
class version:
    cuda = hip = git_version = None
class mps:
    is_built = staticmethod(lambda: {built})
    is_available = staticmethod(lambda: {available})
class backends:
    mps = mps
class _Refusing:
    def __getattr__(self, name):
        {refuse}
_refusing = _Refusing()
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(_refusing, name)
"""
MPS = ("mps built", "mps available", "matmul on mps", "convolution on mps", "autograd on mps", "mps fallback")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("native") / "environment"
    venv.create(target, with_pip=False)
    return target


def asked(environment: Path, **torch: str) -> Mapping[str, Finding]:
    site = next((environment / "lib").glob("python3*")) / "site-packages"
    (site / "torch").mkdir(exist_ok=True)
    (site / "torch" / "__init__.py").write_text(TORCH.format(**torch))
    for stale in (site / "torch").glob("__pycache__/*"):
        stale.unlink()
    expected = Expected(torch="2.6.0", python="3.13", arch=native_arch(), accelerator="mps", native=True)
    report = probes.test_native(environment, expected, cell="mps-2.6-arm64", lock=Digest.of(b"lock"))
    assert [f.name for f in report.findings] == probes.names_of(expected)
    return {f.name: f for f in report.findings}


@pytest.mark.parametrize(
    ("torch", "statuses"),
    [
        ({"built": "True", "available": "False", "refuse": "raise AttributeError(name)"}, [PASSED, *[NOT_RUN] * 5]),
        ({"built": "False", "available": "False", "refuse": "raise AttributeError(name)"}, [FAILED, *[NOT_RUN] * 5]),
        (
            {"built": "True", "available": "True", "refuse": f"raise RuntimeError({NO_MEMORY!r})"},
            [PASSED, *[NOT_RUN] * 5],
        ),
        (
            {"built": "True", "available": "True", "refuse": "raise RuntimeError('no such kernel')"},
            [PASSED, *[FAILED] * 5],
        ),
        ({"built": "True", "available": "True", "refuse": "os.abort()"}, [PASSED, *[FAILED] * 5]),
    ],
    ids=["unavailable", "not built", "no memory", "refuses", "dies"],
)
def test_the_probe_tells_them_apart(environment: Path, torch: dict[str, str], statuses: list[Status]) -> None:
    found = asked(environment, **torch)
    assert [found[name].status for name in MPS] == statuses, [found[name].detail for name in MPS]
    # the other processes are not touched by what happens on MPS
    assert found["torch"].status is PASSED
