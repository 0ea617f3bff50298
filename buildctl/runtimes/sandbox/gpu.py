"""What a container engine would put into a container for a GPU. For NVIDIA's, as its container toolkit does: device
nodes, the driver's libraries and nvidia-smi; for ROCm and XPU the device files.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from buildctl.ground.run import run, which
from buildctl.matrix.accelerators import AcceleratorKind
from buildctl.matrix.arch import ARCHES
from buildctl.runtimes.gpu_files import EMULATED, NOT_FOR_GPUS, files_here

# The driver's side of CUDA (NVIDIA_DRIVER_CAPABILITIES=compute,utility); everything else comes with the image.
_LIBRARY = re.compile(
    r"lib(cuda|cudadebugger|nvidia-(ml|ptxjitcompiler|nvvm|gpucomp|opencl|cfg|sandboxutils))\.so\.\d[\d.]*"
)
# Clusters that mount the driver into a machine put it here and point LD_LIBRARY_PATH at it.
_MOUNTED = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib")
NO_DEVICE = "no NVIDIA device on this host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passthrough:
    """`binds`: (path on the host, path in the image, writable). `reason` is why there are none."""

    binds: tuple[tuple[str, str, bool], ...] = ()
    reason: str = ""

    @property
    def available(self) -> bool:
        return bool(self.binds)


def passthrough(kind: AcceleratorKind, arch: str, *, emulated: bool, as_others: bool = False) -> Passthrough:
    """The GPUs of this host that an image of that kind can use. The ids of the sandbox are nobody's here with
    `as_others`.
    """
    if not kind.gpu:
        return Passthrough(reason=NOT_FOR_GPUS)
    if emulated:
        return Passthrough(reason=EMULATED)
    if kind.files is None:
        return find_gpus(arch, as_others=as_others)
    files, reason = files_here(kind)
    if as_others and (shut := _shut(map(Path, files))):
        return Passthrough(reason=shut)
    return Passthrough(binds=tuple((path, path.lstrip("/"), True) for path in files), reason=reason)


def find_gpus(
    arch: str, *, dev: Path = Path("/dev"), libraries: Iterable[Path] | None = None, as_others: bool = False
) -> Passthrough:
    """The host's GPUs as binds, all or nothing: a device without its driver library would only fail in odd ways. So
    would one that the ids of the sandbox may not open, which are nobody's here with `as_others`.
    """
    nodes = sorted(p for p in dev.glob("nvidia*") if re.fullmatch(r"nvidia(\d+|ctl|-uvm|-uvm-tools|-modeset)", p.name))
    nodes = [p for p in nodes if stat.S_ISCHR(p.stat().st_mode)]
    if not any(re.fullmatch(r"nvidia\d+", p.name) for p in nodes):
        return Passthrough(reason=NO_DEVICE)
    names = {p.name for p in nodes}
    missing = sorted({"nvidiactl", "nvidia-uvm"} - names)
    if missing:
        return Passthrough(reason=f"/dev/{missing[0]} is missing on this host (run `nvidia-modprobe -u`)")
    if as_others and (shut := _shut(nodes)):
        return Passthrough(reason=shut)
    found = {
        p.name: p for p in (_host_libraries(arch) if libraries is None else libraries) if _LIBRARY.fullmatch(p.name)
    }
    if "libcuda.so.1" not in found:
        return Passthrough(reason="this host has an NVIDIA device, but not the driver's libcuda.so.1")
    target = f"usr/lib/{ARCHES[arch].triplet}"
    binds = [(str(p), f"dev/{p.name}", True) for p in nodes]
    binds += [(str(p.resolve()), f"{target}/{name}", False) for name, p in sorted(found.items())]
    if smi := which("nvidia-smi"):
        binds.append((str(smi), "usr/bin/nvidia-smi", False))
    return Passthrough(binds=tuple(binds))


def _shut(nodes: Iterable[Path]) -> str:
    """Why the ids of a sandbox, which are nobody's here, cannot open one of these devices; empty when they can."""
    found = next((p for p in nodes if p.stat().st_mode & 0o6 != 0o6), None)
    return f"{found} is not accessible to everyone, and root in a sandbox is not root here" if found else ""


def _host_libraries(arch: str) -> list[Path]:
    """Every library the host's loader knows, by soname, of this machine's own architecture; the last one wins."""
    ldconfig = which("ldconfig")
    lines = run([ldconfig, "-p"], timeout=20, check=False).stdout.splitlines() if ldconfig else []
    known = [Path(line.rpartition("=> ")[2]) for line in lines if "=> " in line]
    told = [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    folders = [Path("/usr/lib") / ARCHES[arch].triplet, Path("/usr/lib64"), Path("/usr/lib/wsl/lib")]
    folders += [*map(Path, _MOUNTED), *told]
    known += [p for folder in folders if folder.is_dir() for p in sorted(folder.glob("lib*.so.*"))]
    return [p for p in known if p.exists()]
