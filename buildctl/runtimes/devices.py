"""Device files of GPUs that a container gets as files: who made the GPU, and which of them it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from buildctl.matrix.accelerators import VERSIONED, DeviceFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device file of a GPU: `vendor` is the PCI id of who made it (0x1002), empty if unknown."""

    path: str
    vendor: str = ""


def gpu_nodes(dev: Path = Path("/dev"), sys: Path = Path("/sys")) -> tuple[DeviceNode, ...]:
    """Device files of GPUs that containers get as files: compute (/dev/kfd) and render nodes, with who made the GPU."""
    wanted = [Path(path) for kind in VERSIONED if kind.files for path in kind.files.needed]
    found = [DeviceNode(path=str(path)) for path in wanted if (dev / path.relative_to("/dev")).exists()]
    for path in sorted((dev / "dri").glob("renderD*")):
        vendor = read_some(sys / "class" / "drm" / path.name / "device" / "vendor", 64).strip()
        found.append(DeviceNode(path=f"/dev/dri/{path.name}", vendor=vendor))
    return tuple(found)


def device_files(files: DeviceFiles, nodes: Iterable[DeviceNode]) -> tuple[tuple[str, ...], str]:
    """(paths to pass to a container, why there are none): all of them or nothing."""
    nodes = tuple(nodes)
    renders = tuple(node.path for node in nodes if node.vendor == files.vendor)
    if not renders:
        return (), f"no {files.maker} GPU (no {files.maker} render node in /dev/dri)"
    if missing := sorted(set(files.needed) - {node.path for node in nodes}):
        return (), f"an {files.maker} GPU, but no {missing[0]}: the compute kernel driver is not loaded"
    return (*files.needed, *renders), ""


def read_some(path: Path, limit: int) -> str:
    try:
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""
