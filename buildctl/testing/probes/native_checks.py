"""Which findings there are about an environment without a container, ours (macOS) or anyone's: those of images
that make sense there, and those about MPS.

It omits findings about what only images have: another user, a read-only root, an entrypoint, a base, labels. They
are omitted rather than NOT RUN, because no machine could ever answer them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from buildctl.matrix.accelerators import MPS
from buildctl.testing.probes import checks, judging, judging_environment, judging_mps
from buildctl.testing.probes.checks import Check, Run
from buildctl.testing.probes.expected import Expected

RUNS: Mapping[str, Run] = {
    # MPS has its own process: where it does not work, everything else still answers
    "torch": Run(probe="torch_report", deadline=240, options={"workers_s": 90, "apart": ["mps"]}),
    "mps": Run(probe="mps", deadline=180),
    "packages": Run(
        probe="packages",
        deadline=90,
        options={"questions": ["distributions", "console_scripts", "pip"], "pip": ["check"]},
    ),
    "onnx": checks.RUNS["onnx"],
    "two processes": checks.RUNS["two processes"],
    "libraries": checks.RUNS["libraries"],
    "compile": checks.RUNS["compile"],
}

_OF_IMAGES = (
    "platform", "python", "torch", "torchvision", "torchaudio", "cuda version", "backends", "torch build", "devices",
    "matmul on cpu", "convolution on cpu", "autograd on cpu", "without a gpu", "works on the gpu", "numpy",
    "dataloader", "torch.save", "torchscript", "torch.export", "helper packages", "onnx runtime", "onnx model",
    "two processes",
)  # fmt: skip
_OF_IMAGES_ON_LINUX = ("gpu architectures", "cudnn version", "nccl version", "glibc", "libraries")
_OF_LOCKED = ("distributions", "console scripts", "pip check")  # a lock promises more than somebody else's environment


def is_mps(expected: Expected) -> bool:
    return expected.kind is MPS


def is_locked(expected: Expected) -> bool:
    return not expected.environment


def is_somebodys(expected: Expected) -> bool:
    return expected.environment


def _of_images(*runs: str) -> tuple[Check, ...]:
    """In the order of images, of these runs."""
    found = [check for check in checks.CHECKS if check.run in runs]
    return tuple(adapted for check in found if (adapted := _adapted(check)))


def _adapted(check: Check) -> Check | None:
    if check.name in _OF_IMAGES:
        return check
    if check.name in _OF_LOCKED:
        return replace(check, applies=lambda e: is_locked(e) and check.applies(e))
    if check.name in _OF_IMAGES_ON_LINUX:
        return replace(check, applies=lambda e: e.system == "Linux" and check.applies(e))
    return None


def _mps(name: str, question: str, judge: judging.Judge) -> Check:
    return Check(name=name, run="mps", questions=tuple(dict.fromkeys(["mps", question])), judge=judge, applies=is_mps)


CHECKS = (
    *_of_images("torch"),
    _mps("mps built", "mps", judging_mps.built),
    _mps("mps available", "mps_tensor", judging_mps.available),
    _mps("matmul on mps", "mps_matmul", judging_mps.matmul),
    _mps("convolution on mps", "mps_convolution", judging_mps.convolution),
    _mps("autograd on mps", "mps_autograd", judging_mps.autograd),
    _mps("mps fallback", "mps_fallback", judging_mps.fallback),
    Check(
        name="distributions",
        run="packages",
        questions=("distributions",),
        judge=judging_environment.distributions,
        applies=is_somebodys,
    ),
    *_of_images("packages"),
    Check(
        name="pip check",
        run="packages",
        questions=("pip",),
        judge=judging_environment.pip_check,
        applies=is_somebodys,
    ),
    *_of_images("libraries", "onnx", "two processes"),
    Check(
        name="torch.compile",
        run="compile",
        questions=("compiler", "compiled"),
        judge=judging_environment.compiled,
        applies=is_somebodys,
    ),
)
