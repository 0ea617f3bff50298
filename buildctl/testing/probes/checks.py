"""All findings: what each needs to run, which function judges it, where it applies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from buildctl.runtimes.api import Session
from buildctl.testing.probes import judging, judging_onnx, judging_outside, judging_packages, judging_python
from buildctl.testing.probes.expected import Expected

STRANGER = "12345:12345"  # a user unknown to every image


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a probe file, which answers several questions; `deadline` in seconds without emulation."""

    probe: str
    deadline: float
    options: Mapping[str, Any] = field(default_factory=dict)
    user: str | None = None
    read_only: bool = True


RUNS: Mapping[str, Run] = {
    # torchrun, among the commands, imports torch as the default user
    "torch": Run(probe="torch_report", deadline=180, options={"workers_s": 60}, user=STRANGER),
    "packages": Run(probe="packages", deadline=90, read_only=False),
    "stranger's files": Run(
        probe="packages", deadline=20, options={"questions": ["writable"]}, user=STRANGER, read_only=False
    ),
    "compile": Run(probe="compile_cpu", deadline=180),
    "libraries": Run(probe="libraries", deadline=60),
    "onnx": Run(probe="onnx_runtime", deadline=60),
    "two processes": Run(probe="two_processes", deadline=120, options={"backend": "gloo", "seconds": 90}),
}


def always(_: Expected) -> bool:
    return True


def never_blocked(_expected: Expected, _session: Session) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. A judge gets the answer to a single question, or a dict of several.

    `applies` omits the finding for images it makes no sense for; `blocked` gives the reason for NOT RUN.
    """

    name: str
    run: str
    questions: tuple[str, ...]
    judge: judging.Judge
    applies: Callable[[Expected], bool] = always
    blocked: Callable[[Expected, Session], str] = never_blocked


def is_for_gpu(expected: Expected) -> bool:
    return expected.kind.gpu


def has_vendors_libraries(expected: Expected) -> bool:
    return expected.kind.own_libraries


def has_no_vendors_libraries(expected: Expected) -> bool:
    return not expected.kind.own_libraries


def claims_architectures(expected: Expected) -> bool:
    """Claims nothing about kernels that are not read from torch's wheel."""
    return expected.kind.architectures or not expected.kind.gpu


def claims_cudnn(expected: Expected) -> bool:
    return expected.cudnn is not None or not expected.kind.bundled


def claims_nccl(expected: Expected) -> bool:
    return expected.nccl is not None or not expected.kind.bundled


def no_gpu(_: Expected, session: Session) -> str:
    return "" if session.gpus else session.gpus_reason


def has_gpu(_: Expected, session: Session) -> str:
    return "this host has a GPU" if session.gpus else ""


def not_devel(expected: Expected, _session: Session) -> str:
    if expected.flavour == "devel":
        return ""
    return f"not claimed: only the devel flavour has a C++ compiler, not {expected.flavour}"


def claims_build(expected: Expected) -> bool:
    return expected.build is not None


def claims_glibc(expected: Expected) -> bool:
    return expected.glibc is not None


def has_onnx(expected: Expected) -> bool:
    return "onnx" in expected.extras


def is_read_from_outside(expected: Expected) -> bool:
    return expected.outside is not None


def _check(
    name: str,
    run: str,
    judge: judging.Judge,
    *questions: str,
    applies: Callable[[Expected], bool] = always,
    blocked: Callable[[Expected, Session], str] = never_blocked,
) -> Check:
    return Check(name=name, run=run, questions=questions, judge=judge, applies=applies, blocked=blocked)


CHECKS = (
    _check("platform", "torch", judging.platform, "python"),
    _check("python", "torch", judging.python, "python"),
    _check("torch", "torch", judging.torch, "torch"),
    _check("torchvision", "torch", judging.torchvision, "torchvision"),
    _check("torchaudio", "torch", judging.torchaudio, "torchaudio"),
    _check("cuda version", "torch", judging.cuda_version, "torch"),
    _check("backends", "torch", judging.backends, "backends"),
    _check("gpu architectures", "torch", judging.gpu_architectures, "gpu_architectures", applies=claims_architectures),
    _check("torch build", "torch", judging.torch_build, "torch", applies=claims_build),
    _check("cudnn version", "torch", judging.cudnn_version, "libraries", applies=claims_cudnn),
    _check("nccl version", "torch", judging.nccl_version, "libraries", applies=claims_nccl),
    _check("glibc", "torch", judging.glibc, "libraries", applies=claims_glibc),
    _check("devices", "torch", judging.devices, "devices"),
    _check(
        "torch in layers",
        "torch",
        judging_outside.torch,
        "python",
        "torch",
        "gpu_architectures",
        applies=is_read_from_outside,
    ),
    _check("matmul on cpu", "torch", judging.matmul_cpu, "matmul"),
    _check("convolution on cpu", "torch", judging.convolution_cpu, "convolution"),
    _check("autograd on cpu", "torch", judging.autograd_cpu, "autograd"),
    _check("without a gpu", "torch", judging.without_gpu, "without_gpu", applies=is_for_gpu, blocked=has_gpu),
    _check(
        "works on the gpu",
        "torch",
        judging.gpu,
        "devices",
        "matmul",
        "convolution",
        "autograd",
        "gpu_architectures",
        "gpus",
        applies=is_for_gpu,
        blocked=no_gpu,
    ),
    _check("numpy", "torch", judging.numpy_bridge, "numpy_bridge"),
    _check("dataloader", "torch", judging.dataloader, "dataloader"),
    _check("bytecode", "torch", judging.bytecode, "bytecode"),
    _check("torch.save", "torch", judging.saved, "saved"),
    _check("torchscript", "torch", judging.scripted, "scripted"),
    _check("torch.export", "torch", judging.exported, "exported"),
    _check("helper packages", "torch", judging_packages.helpers, "helpers"),
    _check("any uid", "torch", judging.any_uid, "python", "torch", "user_name"),
    _check("distributions", "packages", judging_packages.distributions, "distributions"),
    _check(
        "distributions in layers",
        "packages",
        judging_outside.distributions,
        "distributions",
        applies=is_read_from_outside,
    ),
    _check("no cuda", "packages", judging.no_cuda, "nvidia", "distributions", applies=has_no_vendors_libraries),
    _check("cuda libraries", "packages", judging.nvidia_environment, "nvidia", applies=has_vendors_libraries),
    _check("console scripts", "packages", judging_packages.console_scripts, "console_scripts"),
    _check("pip check", "packages", judging_packages.pip_check, "pip"),
    _check("pip install", "packages", judging_packages.pip_install, "pip"),
    _check("pip keeps torch", "packages", judging_python.kept, "kept"),
    _check("login shell", "packages", judging_python.login_shell, "login_shell"),
    _check("standard library", "packages", judging_python.standard_library, "standard_library"),
    _check("locale", "packages", judging.locale, "locale"),
    _check("certificates", "packages", judging.certificates, "certificates"),
    _check("home and workdir", "packages", judging.writable, "writable"),
    _check("any uid's files", "stranger's files", judging.writable, "writable"),
    _check("libraries", "libraries", judging.libraries, "libraries"),
    _check("onnx runtime", "onnx", judging_onnx.onnx_runtime, "onnx_runtime", applies=has_onnx),
    _check("onnx model", "onnx", judging_onnx.onnx_model, "onnx_model", applies=has_onnx),
    _check("two processes", "two processes", judging.two_processes, "two_processes"),
    _check("torch.compile", "compile", judging.compiled, "compiler", "compiled", blocked=not_devel),
)
