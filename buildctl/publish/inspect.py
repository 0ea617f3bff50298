"""`buildctl inspect`: what an image claims, without running it or reading its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from buildctl.console.table import size
from buildctl.ground.errors import BuildctlError, LayoutError, LockError
from buildctl.lock.claims import LABEL, Claims, label_values, read_labels
from buildctl.lock.locked import load_locked
from buildctl.matrix.accelerators import VERSIONED
from buildctl.matrix.project import Project
from buildctl.oci.chunked.table import TABLE
from buildctl.oci.chunked.twin import OF, STARGZ_TABLE
from buildctl.oci.image import ImageConfig
from buildctl.oci.layout import Layout
from buildctl.registry.target import Image, Target, find_target, in_layout
from buildctl.testing.merge import merged, read_report
from buildctl.testing.report import Report, Status

# What foreign images often say in their environment: not our claims, but better than nothing.
_ENVIRONMENT = {
    "PYTORCH_VERSION": "torch",
    "CUDA_VERSION": "cuda",
    "PYTHON_VERSION": "python",
    "NV_CUDNN_VERSION": "cudnn",
    "NV_LIBNCCL_PACKAGE_VERSION": "nccl",
    "NVIDIA_REQUIRE_CUDA": "nvidia-require-cuda",
}
_SHOWN = (
    "torch", "torchvision", "torchaudio", "accelerator", *(kind.name for kind in VERSIONED),
    "cudnn", "nccl", "gpu-architectures", "ptx", "driver-floor", "nvidia-require-cuda",
    "python", "glibc", "devices.built", "devices.never",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedImage:
    """One image on one platform. `source` is where `says` comes from: labels, environment, or the file of claims of
    what is not built (then there is no digest, and `size` is 0). `size` is compressed, in bytes. `report` is about this
    exact digest; `attached` are the documents that a registry lists for it, media type and digest. `compressions` are
    those of the layers; `chunked` counts the layers that clients can read file by file; `twin_of` is the image of which
    this is the twin.
    """

    name: str
    platform: str
    digest: str
    size: int
    layers: int
    created: str
    source: str
    says: Mapping[str, str]
    report: Report | None = None
    attached: tuple[tuple[str, str], ...] = ()
    compressions: tuple[str, ...] = ()
    chunked: int = 0
    twin_of: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "platform": self.platform,
            "digest": self.digest or None,
            "size": self.size,
            "layers": self.layers,
            "compressions": list(self.compressions),
            "chunkedLayers": self.chunked,
            "twinOf": self.twin_of or None,
            "created": self.created or None,
            "source": self.source,
            "claims": dict(self.says),
            "tested": tested(self.report) or None,
            "report": self.report.to_json() if self.report else None,
            "attached": [{"kind": kind, "digest": digest} for kind, digest in self.attached],
        }

    def lines(self) -> Iterator[str]:
        yield f"{self.name}  {self.platform}"
        if self.digest:
            made = f", created {self.created}" if self.created else ""
            layers = f"{self.layers} layer{'s' * (self.layers != 1)} ({', '.join(self.compressions)})"
            yield f"  {self.digest}"
            yield f"  {size(self.size)} in {layers}{made}"
            if self.chunked:
                who = f"stargz, twin of {self.twin_of}" if self.twin_of else "podman; for stargz the tag with -lazy"
                yield f"  zstd:chunked: {self.chunked} of {self.layers} layers, file by file for {who}"
        yield f"  from its {self.source}:"
        known = [key for key in _SHOWN if key in self.says]
        rest = sorted(self.says.keys() - set(known))
        width = max((len(key) for key in self.says), default=0)
        yield from (f"    {key:<{width}}  {self.says[key]}" for key in (*known, *rest))
        if not self.says:
            yield "    no claims about PyTorch"
        if self.report:
            yield f"  tested: {tested(self.report)}"
            yield from (f"    {f.status}  {f.name}" for f in self.report.findings if f.status is not Status.PASSED)
        yield from (f"  attached: {kind}  {digest}" for kind, digest in self.attached)


def tested(report: Report | None) -> str:
    """`PASSED (38 passed, 2 not run)`"""
    if report is None:
        return ""
    counts = [f"{report.count(status)} {status.lower()}" for status in Status if report.count(status)]
    return f"{report.verdict} ({', '.join(counts)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """`indexes` are annotations of image indexes, by name."""

    images: tuple[InspectedImage, ...]
    indexes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        indexes = {name: dict(said) for name, said in self.indexes.items()}
        return {"images": [image.to_json() for image in self.images], "indexes": indexes}

    def text(self) -> str:
        parts = ["\n".join(image.lines()) for image in self.images]
        parts += ["\n".join(self._index(name, said)) for name, said in self.indexes.items() if said]
        return "\n\n".join(parts)

    def _index(self, name: str, said: Mapping[str, str]) -> Iterator[str]:
        """What the labels also say is counted, not repeated."""
        same = {k for k, v in said.items() if all(i.says.get(k.removeprefix(LABEL)) == v for i in self.images)}
        yield f"index {name}"
        count = f" {len(same)} claims that hold on every platform, same as the labels" if same else ""
        yield f"  annotations:{count}"
        width = max((len(key) for key in said.keys() - same), default=0)
        yield from (f"    {key:<{width}}  {said[key]}" for key in sorted(said.keys() - same))


def inspect_images(open_project: Callable[[], Project], target: str, *, arch: str | None) -> Inspection:
    """`target`: a name of ours, a reference to a registry, or PATH or PATH:NAME of an OCI layout.

    Raises BuildctlError if it does not exist.
    """
    found = find_target(target)
    if found is None:
        return _of_project(open_project(), target, arch)
    return _inspection(found, arch, reports=found.layout.root / "reports" if found.layout else None)


def _inspection(target: Target, arch: str | None, *, reports: Path | None) -> Inspection:
    images = [_seen(image) for image in target.of(arch)]
    if target.repository is not None:
        images = [_with_referrers(target, seen, image) for seen, image in zip(images, target.of(arch), strict=True)]
    elif reports is not None:
        kept = _kept(reports)
        images = [replace(seen, report=kept.get(seen.digest)) for seen in images]
    return Inspection(images=tuple(images), indexes=target.indexes)


def _of_project(project: Project, name: str, arch: str | None) -> Inspection:
    """Built or not; for a built image from its labels, else from the claims file."""
    layout = Layout(project.layout)
    with suppress(LayoutError):
        if name in layout.names():
            return _inspection(in_layout(layout, name), arch, reports=project.reports)
    cells = [c for c in project.matrix.cells if name in {c.image, c.id}]
    if not cells:
        project.matrix.select([name])  # raises, with the reason or a suggestion
    found = []
    for cell in cells:
        try:
            (locked,) = load_locked(project, [cell])
        except LockError as error:
            raise LayoutError(
                f"{cell.id} is not built, and its wheels have no claims file: {error.message}",
                hint=f"buildctl claims {cell.name}, or buildctl build {cell.image}",
            ) from error
        found.append(_unbuilt(cell.image, locked.claims))
    chosen = tuple(seen for seen in found if arch in {None, seen.platform.split("/")[1]})
    if not chosen:
        raise LayoutError(f"{name} has no image for {arch}")
    return Inspection(images=chosen)


def _unbuilt(name: str, claims: Claims) -> InspectedImage:
    says = label_values(claims) | ({"macos": claims.macos} if claims.macos else {})
    return InspectedImage(
        name=name, platform=claims.platform, digest="", size=0, layers=0, created="",
        source="locked wheels (not built)" if claims.platform.startswith("linux/") else "locked wheels (native)",
        says=says,
    )  # fmt: skip


def _seen(image: Image) -> InspectedImage:
    source, says = told_by(image.config)
    return InspectedImage(
        name=image.name,
        platform=str(image.config.platform),
        digest=str(image.descriptor.digest),
        size=sum(layer.size for layer in image.manifest.layers),
        layers=len(image.manifest.layers),
        compressions=tuple(sorted({_compression(layer.media_type) for layer in image.manifest.layers})),
        chunked=sum(not {TABLE, STARGZ_TABLE}.isdisjoint(layer.annotations) for layer in image.manifest.layers),
        twin_of=image.manifest.annotations.get(OF, ""),
        created=image.config.created,
        source=source,
        says=says,
    )


def _compression(media_type: str) -> str:
    """From the end of any media type, OCI's or Docker's: `zstd`, `gzip`, `uncompressed`."""
    _, found, end = media_type.rpartition("tar")
    return (end[1:] or "uncompressed") if found else media_type


def told_by(config: ImageConfig) -> tuple[str, dict[str, str]]:
    """(labels or environment, what they say)."""
    if any(key.startswith(LABEL) for key in config.labels):
        return "labels", read_labels(config.labels, config.platform.architecture)
    return "environment", {_ENVIRONMENT[key]: value for key, value in config.env if key in _ENVIRONMENT and value}


def _kept(folder: Path) -> dict[str, Report]:
    """By digest; skips what is not a report."""
    found: dict[str, Report] = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        with suppress(BuildctlError):
            if report := read_report(path):
                found[str(report.digest)] = report
    return found


def _with_referrers(target: Target, seen: InspectedImage, image: Image) -> InspectedImage:
    from buildctl.registry.referrers import referrers  # noqa: PLC0415
    from buildctl.testing.attached import attached_reports  # noqa: PLC0415 - only for references

    assert target.repository is not None  # noqa: S101 - decided before
    digest = image.descriptor.digest
    listed = referrers(target.repository, digest)
    report = merged(attached_reports(target.repository, digest)) if listed else None
    return replace(seen, report=report, attached=tuple((r.kind, str(r.descriptor.digest)) for r in listed))
