"""`buildctl inspect`: what an image says of itself, without running it and without reading its layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildctl.claims import LABEL, Claims, claims_path, label_values, read_claims, read_labels
from buildctl.errors import LayoutError, LockError
from buildctl.oci.image import Descriptor, ImageConfig
from buildctl.oci.layout import INDEX_TYPES, MANIFEST_TYPES, Layout
from buildctl.project import Project
from buildctl.table import size

# What images of others often say in their environment: not a claim of ours, but better than nothing.
_ENVIRONMENT = {
    "PYTORCH_VERSION": "torch",
    "CUDA_VERSION": "cuda",
    "PYTHON_VERSION": "python",
    "NV_CUDNN_VERSION": "cudnn",
    "NV_LIBNCCL_PACKAGE_VERSION": "nccl",
    "NVIDIA_REQUIRE_CUDA": "nvidia-require-cuda",
}
_SHOWN = (
    "torch", "torchvision", "torchaudio", "accelerator", "cuda", "cudnn", "nccl", "gpu-architectures", "ptx",
    "driver-floor", "nvidia-require-cuda", "python", "glibc", "devices.built", "devices.never",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One image on one platform. `source` says where `says` comes from: labels, environment, or the file of claims of
    what is not built (then there is no digest, and `size` is 0). `size` is compressed, in bytes.
    """

    name: str
    platform: str
    digest: str
    size: int
    layers: int
    created: str
    source: str
    says: Mapping[str, str]
    tested: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "platform": self.platform,
            "digest": self.digest or None,
            "size": self.size,
            "layers": self.layers,
            "created": self.created or None,
            "source": self.source,
            "claims": dict(self.says),
            "tested": self.tested or None,
        }

    def lines(self) -> Iterator[str]:
        yield f"{self.name}  {self.platform}"
        if self.digest:
            made = f", created {self.created}" if self.created else ""
            yield f"  {self.digest}, {size(self.size)} in {self.layers} layers{made}"
        yield f"  from its {self.source}:"
        known = [key for key in _SHOWN if key in self.says]
        rest = sorted(self.says.keys() - set(known))
        width = max((len(key) for key in self.says), default=0)
        yield from (f"    {key:<{width}}  {self.says[key]}" for key in (*known, *rest))
        if not self.says:
            yield "    nothing about PyTorch"
        if self.tested:
            yield f"  tested: {self.tested}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    images: tuple[Seen, ...]

    def to_json(self) -> dict[str, Any]:
        return {"images": [image.to_json() for image in self.images]}

    def text(self) -> str:
        return "\n\n".join("\n".join(image.lines()) for image in self.images)


def inspect_images(open_project: Callable[[], Project], target: str, *, arch: str | None) -> Inspection:
    """`target`: a name of ours, or PATH or PATH:NAME of an OCI layout. Raises BuildctlError when there is no such."""
    if found := _as_layout(target):
        layout, name = found
        images = [seen for n in ([name] if name else layout.names()) for seen in _in_layout(layout, n)]
    else:
        project = open_project()
        images = _of_project(project, target)
    chosen = list({(i.digest or i.name, i.platform): i for i in images if arch in {None, _arch(i.platform)}}.values())
    if not chosen:
        raise LayoutError(f"{target} has no image{f' for {arch}' if arch else ''}")
    return Inspection(images=tuple(chosen))


def _arch(platform: str) -> str:
    return platform.split("/")[1]


def _as_layout(target: str) -> tuple[Layout, str] | None:
    path, _, name = target.removeprefix("oci:").rpartition(":")
    for folder, wanted in ((target.removeprefix("oci:"), ""), (path, name)):
        if folder and (Path(folder) / "index.json").is_file():
            return Layout(Path(folder)), wanted
    if target.startswith(("oci:", "/", "./", "../")):
        raise LayoutError(f"{target} is no OCI layout: it has no index.json", hint="PATH or PATH:NAME")
    return None


def _of_project(project: Project, name: str) -> list[Seen]:
    """Built or not; a built image's labels say what is in it, the file of claims what would be."""
    layout = Layout(project.layout)
    try:
        if name in layout.names():
            return [_with_report(project, seen) for seen in _in_layout(layout, name)]
    except LayoutError:
        pass
    cells = [c for c in project.matrix.cells if name in {c.image, c.id}]
    if not cells:
        project.matrix.select([name])  # says why there is none, or what was meant
    found = []
    for cell in cells:
        try:
            claims = read_claims(claims_path(project.images, cell.name, cell.arch))
        except LockError as error:
            raise LayoutError(
                f"{cell.id} is not built, and nobody has looked into its wheels: {error.message}",
                hint=f"buildctl claims {cell.name}, or buildctl build {cell.image}",
            ) from error
        found.append(_unbuilt(cell.image, claims))
    return found


def _unbuilt(name: str, claims: Claims) -> Seen:
    says = label_values(claims) | ({"macos": claims.macos} if claims.macos else {})
    return Seen(
        name=name, platform=claims.platform, digest="", size=0, layers=0, created="",
        source="locked wheels (not built)" if claims.platform.startswith("linux/") else "locked wheels (native)",
        says=says,
    )  # fmt: skip


def _in_layout(layout: Layout, name: str) -> list[Seen]:
    return [_seen(layout, name, d) for d in _manifests(layout, layout.resolve(name))]


def _manifests(layout: Layout, descriptor: Descriptor) -> Iterator[Descriptor]:
    """What is an image below an index; attestations, which claim to be for no platform, are none."""
    if descriptor.media_type in INDEX_TYPES:
        for child in layout.index(descriptor).manifests:
            if child.platform is None or child.platform.architecture != "unknown":
                yield from _manifests(layout, child)
    elif descriptor.media_type in MANIFEST_TYPES:
        yield descriptor


def _seen(layout: Layout, name: str, descriptor: Descriptor) -> Seen:
    manifest, config = layout.manifest(descriptor), layout.config(descriptor)
    source, says = told_by(config)
    return Seen(
        name=name,
        platform=str(config.platform),
        digest=str(descriptor.digest),
        size=sum(layer.size for layer in manifest.layers),
        layers=len(manifest.layers),
        created=config.created,
        source=source,
        says=says,
    )


def told_by(config: ImageConfig) -> tuple[str, dict[str, str]]:
    """(labels or environment, what they say)."""
    if any(key.startswith(LABEL) for key in config.labels):
        return "labels", read_labels(config.labels, config.platform.architecture)
    return "environment", {_ENVIRONMENT[key]: value for key, value in config.env if key in _ENVIRONMENT and value}


def _with_report(project: Project, seen: Seen) -> Seen:
    """With the verdict of the report about exactly this digest."""
    for path in sorted(project.reports.glob("*.json")) if project.reports.is_dir() else ():
        try:
            report = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(report, dict) and report.get("digest") == seen.digest:
            counts = report.get("counts", {})
            text = ", ".join(f"{count} {status.lower()}" for status, count in counts.items() if count)
            return replace(seen, tested=f"{report.get('verdict')} ({text})")
    return seen
