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
    "torch": Run(probe="torch_report", deadline=120, options={"workers_s": 60}, user=STRANGER),
    "packages": Run(probe="packages", deadline=90, read_only=False),
    "stranger's files": Run(
        probe="packages", deadline=20, options={"questions": ["writable"]}, user=STRANGER, read_only=False
    ),
    "compile": Run(probe="compile_cpu", deadline=180),
    "libraries": Run(probe="libraries", deadline=60),
    "files": Run(probe="model_files", deadline=90),
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


CHECKS = (
    Check(name="platform", run="torch", questions=("python",), judge=judging.platform),
    Check(name="python", run="torch", questions=("python",), judge=judging.python),
    Check(name="torch", run="torch", questions=("torch",), judge=judging.torch),
    Check(name="torchvision", run="torch", questions=("torchvision",), judge=judging.torchvision),
    Check(name="torchaudio", run="torch", questions=("torchaudio",), judge=judging.torchaudio),
    Check(name="cuda version", run="torch", questions=("torch",), judge=judging.cuda_version),
    Check(name="backends", run="torch", questions=("backends",), judge=judging.backends),
    Check(
        name="gpu architectures",
        run="torch",
        questions=("gpu_architectures",),
        judge=judging.gpu_architectures,
        applies=claims_architectures,
    ),
    Check(name="torch build", run="torch", questions=("torch",), judge=judging.torch_build, applies=claims_build),
    Check(
        name="cudnn version", run="torch", questions=("libraries",), judge=judging.cudnn_version, applies=claims_cudnn
    ),
    Check(name="nccl version", run="torch", questions=("libraries",), judge=judging.nccl_version, applies=claims_nccl),
    Check(name="glibc", run="torch", questions=("libraries",), judge=judging.glibc, applies=claims_glibc),
    Check(name="devices", run="torch", questions=("devices",), judge=judging.devices),
    Check(
        name="torch in layers",
        run="torch",
        questions=("python", "torch", "gpu_architectures"),
        judge=judging_outside.torch,
        applies=is_read_from_outside,
    ),
    Check(name="matmul on cpu", run="torch", questions=("matmul",), judge=judging.matmul_cpu),
    Check(name="convolution on cpu", run="torch", questions=("convolution",), judge=judging.convolution_cpu),
    Check(name="autograd on cpu", run="torch", questions=("autograd",), judge=judging.autograd_cpu),
    Check(
        name="without a gpu",
        run="torch",
        questions=("without_gpu",),
        judge=judging.without_gpu,
        applies=is_for_gpu,
        blocked=has_gpu,
    ),
    Check(
        name="works on the gpu",
        run="torch",
        questions=("devices", "matmul", "convolution", "autograd", "gpu_architectures", "gpus"),
        judge=judging.gpu,
        applies=is_for_gpu,
        blocked=no_gpu,
    ),
    Check(name="numpy", run="torch", questions=("numpy_bridge",), judge=judging.numpy_bridge),
    Check(name="dataloader", run="torch", questions=("dataloader",), judge=judging.dataloader),
    Check(name="bytecode", run="torch", questions=("bytecode",), judge=judging.bytecode),
    Check(name="any uid", run="torch", questions=("python", "torch", "user_name"), judge=judging.any_uid),
    Check(name="distributions", run="packages", questions=("distributions",), judge=judging_packages.distributions),
    Check(
        name="distributions in layers",
        run="packages",
        questions=("distributions",),
        judge=judging_outside.distributions,
        applies=is_read_from_outside,
    ),
    Check(
        name="no cuda",
        run="packages",
        questions=("nvidia", "distributions"),
        judge=judging.no_cuda,
        applies=has_no_vendors_libraries,
    ),
    Check(
        name="cuda libraries",
        run="packages",
        questions=("nvidia",),
        judge=judging.nvidia_environment,
        applies=has_vendors_libraries,
    ),
    Check(
        name="console scripts", run="packages", questions=("console_scripts",), judge=judging_packages.console_scripts
    ),
    Check(name="pip check", run="packages", questions=("pip",), judge=judging_packages.pip_check),
    Check(name="pip install", run="packages", questions=("pip",), judge=judging_packages.pip_install),
    Check(name="pip keeps torch", run="packages", questions=("kept",), judge=judging_python.kept),
    Check(name="login shell", run="packages", questions=("login_shell",), judge=judging_python.login_shell),
    Check(
        name="standard library", run="packages", questions=("standard_library",), judge=judging_python.standard_library
    ),
    Check(name="locale", run="packages", questions=("locale",), judge=judging.locale),
    Check(name="certificates", run="packages", questions=("certificates",), judge=judging.certificates),
    Check(name="home and workdir", run="packages", questions=("writable",), judge=judging.writable),
    Check(name="any uid's files", run="stranger's files", questions=("writable",), judge=judging.writable),
    Check(name="libraries", run="libraries", questions=("libraries",), judge=judging.libraries),
    Check(name="torch.save", run="files", questions=("saved",), judge=judging.saved),
    Check(name="torchscript", run="files", questions=("scripted",), judge=judging.scripted),
    Check(name="torch.export", run="files", questions=("exported",), judge=judging.exported),
    Check(
        name="onnx runtime", run="onnx", questions=("onnx_runtime",), judge=judging_onnx.onnx_runtime, applies=has_onnx
    ),
    Check(name="onnx model", run="onnx", questions=("onnx_model",), judge=judging_onnx.onnx_model, applies=has_onnx),
    Check(name="two processes", run="two processes", questions=("two_processes",), judge=judging.two_processes),
    Check(
        name="torch.compile",
        run="compile",
        questions=("compiler", "compiled"),
        judge=judging.compiled,
        blocked=not_devel,
    ),
)
