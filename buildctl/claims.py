"""What an image says of itself, derived from its locked wheels without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.version import Version

from buildctl.errors import LockError
from buildctl.lock import WheelLock
from buildctl.matrix import Cell

# NVIDIA's minor-version compatibility: any 12.x runs on a driver of at least 525, any 13.x on 580
# (CUDA compatibility guide, table "minor version compatibility"). The floor is the major's, not the minor's.
DRIVER_FLOORS: Mapping[int, str] = {12: "525", 13: "580"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Versions as in the distributions' metadata; `cuda` is MAJOR.MINOR, None where torch has no CUDA in it."""

    torch: str
    python: str
    arch: str
    accelerator: str
    torchvision: str | None = None
    torchaudio: str | None = None
    cuda: str | None = None

    @property
    def driver_floor(self) -> str | None:
        return DRIVER_FLOORS[Version(self.cuda).major] if self.cuda else None


def claims_of(cell: Cell, lock: WheelLock) -> Claims:
    """Raises LockError when the locked wheels cannot be what the cell's accelerator declares."""
    versions = {wheel.name: wheel.version for wheel in lock.wheels}
    if "torch" not in versions:
        raise LockError(f"{cell.id}: the lock holds no torch", hint=f"buildctl lock {cell.name}")
    cuda = _cuda_version(versions)
    if cell.accelerator.name == "cuda" and cuda is None:
        raise LockError(
            f"{cell.id}: torch {versions['torch']} is locked without a CUDA runtime: this is a CPU build",
            hint=f"this index has no CUDA build of torch for {cell.platform}; exclude the cell or set another index",
        )
    if cell.accelerator.name == "cpu" and (nvidia := sorted(n for n in versions if n.startswith("nvidia-"))):
        raise LockError(
            f"{cell.id}: a cpu image would hold {', '.join(nvidia[:3])}: this torch is a CUDA build",
            hint=f"this index has no CPU build of torch for {cell.platform}; exclude the cell or set another index",
        )
    if cuda is not None and Version(cuda).major not in DRIVER_FLOORS:
        raise LockError(f"{cell.id}: the minimum driver of CUDA {cuda} is not known", hint="add it to DRIVER_FLOORS")
    return Claims(
        torch=versions["torch"],
        torchvision=versions.get("torchvision"),
        torchaudio=versions.get("torchaudio"),
        cuda=cuda,
        python=cell.python,
        arch=cell.arch,
        accelerator=cell.accelerator.name,
    )


def _cuda_version(versions: Mapping[str, str]) -> str | None:
    """The CUDA runtime's distribution is `nvidia-cuda-runtime-cu12` up to CUDA 12, `nvidia-cuda-runtime` from 13."""
    for name, version in sorted(versions.items()):
        if name == "nvidia-cuda-runtime" or name.startswith("nvidia-cuda-runtime-cu"):
            release = Version(version).release
            return f"{release[0]}.{release[1]}"
    return None
