"""Which findings there are about a native environment: those of images that make sense there, and those about MPS.

Absent are findings about what only an image has: another user, a read-only root, an entrypoint, a base, labels, ELF.
"""

from __future__ import annotations

from collections.abc import Mapping

from buildctl.probes import checks, judging_mps
from buildctl.probes.checks import Check, Run

RUNS: Mapping[str, Run] = {
    # MPS is asked in a process of its own: on a machine where it does not work, everything else still answers
    "torch": Run(probe="torch_report", deadline=180, options={"workers_s": 90, "apart": ["mps"]}),
    "mps": Run(probe="mps", deadline=180),
    "packages": Run(
        probe="packages",
        deadline=90,
        options={"questions": ["distributions", "console_scripts", "pip"], "pip": ["check"]},
    ),
    "files": checks.RUNS["files"],
    "onnx": checks.RUNS["onnx"],
    "two processes": checks.RUNS["two processes"],
}

_OF_IMAGES = (
    "platform", "python", "torch", "torchvision", "torchaudio", "cuda version", "backends", "torch build", "devices",
    "matmul on cpu", "convolution on cpu", "autograd on cpu", "numpy", "dataloader", "distributions", "console scripts",
    "pip check", "torch.save", "torchscript", "torch.export", "onnx runtime",
    "onnx model", "two processes",
)  # fmt: skip

CHECKS = (
    *(check for check in checks.CHECKS if check.name in _OF_IMAGES and check.run == "torch"),
    Check(name="mps built", run="mps", questions=("mps",), judge=judging_mps.built),
    Check(name="mps available", run="mps", questions=("mps", "mps_tensor"), judge=judging_mps.available),
    Check(name="matmul on mps", run="mps", questions=("mps", "mps_matmul"), judge=judging_mps.matmul),
    Check(name="convolution on mps", run="mps", questions=("mps", "mps_convolution"), judge=judging_mps.convolution),
    Check(name="autograd on mps", run="mps", questions=("mps", "mps_autograd"), judge=judging_mps.autograd),
    Check(name="mps fallback", run="mps", questions=("mps", "mps_fallback"), judge=judging_mps.fallback),
    *(check for check in checks.CHECKS if check.name in _OF_IMAGES and check.run != "torch"),
)
