"""Machines to choose from in three lists, as facts that files of `buildctl check --save` hold too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from buildctl.host.catalogue import Subject
from buildctl.host.facts import ContainerEngine, Gpu, Host
from buildctl.host.requirement import CUDA_OF_DRIVER
from buildctl.host.verdict import decide
from buildctl.lock.claims import Claims
from buildctl.matrix.cells import Cell
from buildctl.publish.page.generations import GENERATIONS
from buildctl.runtimes.devices import DeviceNode

_LINUX, _MAC = "6.12.0", "24.6.0"  # kernels that nothing depends on
_NEWEST_DRIVER = "9999"


def _docker(arch: str, *, desktop: bool = False, gpus: bool = False) -> ContainerEngine:
    return ContainerEngine(name="Docker", version="28", arch=arch, desktop=desktop, gpus=gpus)


_MACHINES: dict[str, Host] = {
    "Linux, x86-64": Host(
        system="linux", arch="amd64", kernel=_LINUX, engine=_docker("amd64", gpus=True), toolkit="nvidia-ctk"
    ),
    "Linux, arm64 (Grace, Graviton, Ampere Altra)": Host(
        system="linux", arch="arm64", kernel=_LINUX, engine=_docker("arm64", gpus=True), toolkit="nvidia-ctk"
    ),
    "Windows: WSL2 with Docker Desktop": Host(
        system="linux", arch="amd64", kernel=f"{_LINUX}-microsoft-standard-WSL2", wsl=True,
        engine=_docker("amd64", desktop=True), emulates=("arm64",),
    ),
    "Mac with Apple silicon": Host(
        system="macos", arch="arm64", kernel=_MAC, macos="15.6", chip="Apple silicon",
        engine=_docker("arm64", desktop=True),
    ),
    "Mac with an Intel processor": Host(
        system="macos", arch="amd64", kernel=_MAC, macos="15.6", engine=_docker("amd64", desktop=True)
    ),
    "NVIDIA Jetson, JetPack 7": Host(
        system="linux", arch="arm64", kernel="6.8.12-tegra", engine=_docker("arm64", gpus=True), toolkit="nvidia-ctk"
    ),
    "NVIDIA Jetson, JetPack 6 or older": Host(
        system="linux", arch="arm64", kernel="5.15.148-tegra", engine=_docker("arm64", gpus=True), toolkit="nvidia-ctk"
    ),
}  # fmt: skip

FIRST = "Ada: RTX 40, L4, L40S"  # what the list of GPUs shows first

Choice = dict[str, Any]  # label, and the facts that it sets


def choices() -> dict[str, list[Choice]]:
    """By list. The facts of a GPU and of a driver go on top of those of the machine."""
    machines = [{"label": label, "facts": host.to_json()} for label, host in _MACHINES.items()]
    gpus: list[Choice] = [{"label": "no NVIDIA GPU", "facts": {"gpus": []}}]
    for generation in reversed(GENERATIONS):
        for model in generation.models:
            gpu = {"name": model.products, "capability": model.capability}
            gpus.append({"label": f"{generation.name}: {model.products}", "facts": {"gpus": [gpu]}})
    drivers: list[Choice] = [
        {"label": f"{branch} (CUDA {cuda})", "facts": {"driver": str(branch)}}
        for branch, cuda in sorted(CUDA_OF_DRIVER.items(), reverse=True)
    ]
    missing: dict[str, Any] = {"driver": None, "gpus": [], "gpuProblem": "the NVIDIA driver is not installed"}
    drivers.append({"label": "not installed", "facts": missing})
    return {"machine": machines, "gpu": gpus, "driver": drivers}


def start_command(cell: Cell, claims: Claims, subjects: Sequence[Subject], *, there: bool) -> str:
    """How an image starts on a machine that has all it wants: what `buildctl check` would answer there."""
    subject = next((s for s in subjects if s.name == cell.name), Subject(name=cell.name, claims=(claims,), built=there))
    start = subject.start.replace(f":{cell.name}", f":{cell.image}") if subject.start else ""
    subject = replace(subject, name=cell.image, claims=(claims,), built=there, start=start)
    return decide(subject, _ideal(claims)).next_step


def _ideal(claims: Claims) -> Host:
    files = claims.kind.files
    if claims.platform.startswith("darwin/"):
        return _MACHINES["Mac with Apple silicon"]
    renders = [DeviceNode(path="/dev/dri/renderD128", vendor=files.vendor)] if files else []
    needed = [DeviceNode(path=path) for path in files.needed] if files else []
    return Host(
        system="linux", arch=claims.arch, kernel=_LINUX, engine=_docker(claims.arch, gpus=True), toolkit="nvidia-ctk",
        driver=_NEWEST_DRIVER, gpus=(Gpu(name="", capability=None),), nodes=(*needed, *renders),
    )  # fmt: skip
