"""`buildctl rebase`: move images to a base with patched packages; every layer above stays byte for byte.

Nothing is installed again: a layer of wheels does not depend on the base's bytes (`COPY --link` says so in the
Dockerfile), so the image gets new layers at the bottom, their diff ids and history, and keeps everything else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from buildctl.artifacts.store import Store
from buildctl.build.assembler import build_bases
from buildctl.build.cache.contents import packages_here
from buildctl.build.index import write_indexes
from buildctl.build.material import renewing
from buildctl.build.origin import note_rebased
from buildctl.console.table import size, table
from buildctl.ground.errors import LayoutError
from buildctl.lock.locked import LOCKED
from buildctl.lock.update import refuse_stale_bases, renew_base
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Cell, DebianBase
from buildctl.matrix.project import Project
from buildctl.oci.image import Descriptor, ImageConfig, Layer
from buildctl.oci.layout import Layout
from buildctl.publish.diff import package_changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebased:
    """One image: `new` and `kept` are bytes of layers."""

    cell: Cell
    before: Descriptor
    after: Descriptor
    new: int
    kept: int

    @property
    def moved(self) -> bool:
        return self.before.digest != self.after.digest

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.cell.id,
            "before": str(self.before.digest),
            "after": str(self.after.digest),
            "newBytes": self.new,
            "keptBytes": self.kept,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RebaseResult:
    """`packages` lists what moved, as `buildctl lock` does. `seconds` leave out resolving and making the bases."""

    images: tuple[Rebased, ...]
    packages: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "packages": list(self.packages),
            "images": [image.to_json() for image in self.images],
            "seconds": round(self.seconds, 3),
        }

    def text(self) -> str:
        rows = [
            (i.cell.id, size(i.new), size(i.kept), f"sha256:{i.before.digest.short}", f"sha256:{i.after.digest.short}")
            for i in self.images
        ]
        answer = table(("CELL", "NEW", "KEPT", "WAS", "IS"), rows, right=frozenset({1, 2}))
        moved = sum(image.moved for image in self.images)
        return "\n".join([*self.packages, answer, f"{moved} of {len(rows)} images moved, {self.seconds:.1f} s"])


def rebase_images(project: Project, cells: Sequence[Cell], *, locked: bool, jobs: int | None = None) -> RebaseResult:
    """Resolve the bases again (with `locked`: as locked), build them, and put them below the built images.

    Raises LayoutError for an image that is not built, or not on the base in its layout.
    """
    layout, store = Layout(project.layout), Store.default()
    asked, cells = cells, [cell for cell in cells if isinstance(cell.base, DebianBase)]
    if not cells:
        raise LayoutError(
            f"nothing to rebase: {', '.join(c.id for c in asked) or 'no image'} has a Debian base",
            hint="`rebase` moves Debian packages below images; for other bases change the digest in matrix.yaml",
        )
    old = {cell.id: _base(layout, cell) for cell in cells}
    if locked:
        refuse_stale_bases(project, cells, LOCKED)
    for cell in cells:
        _above(layout, layout.resolve(cell.id, cell.arch), old[cell.id], cell.id)  # refuse before anything changes
    lines: list[str] = [] if locked else _renew(project, cells)
    renewing(project, lambda: build_bases(project, cells, store, layout, jobs=jobs), locked=True)
    if locked:
        lines = _moved(layout, cells, old, store)
    start = time.perf_counter()
    images = [_rebase(layout, cell, old[cell.id], _base(layout, cell)) for cell in cells]
    for image in images:
        note_rebased(project, image.cell, image.before.digest, image.after.digest)
    write_indexes(project, {image.cell.id: image.after for image in images}, layout)
    return RebaseResult(images=tuple(images), packages=tuple(lines), seconds=time.perf_counter() - start)


def _renew(project: Project, cells: Sequence[Cell]) -> list[str]:
    """Every architecture of every base: they come from one state of the archive."""
    bases = dict.fromkeys(cell.base for cell in cells if isinstance(cell.base, DebianBase))
    return [line for base in bases for arch in ARCHES for line in renew_base(project, base, arch)]


def _moved(layout: Layout, cells: Sequence[Cell], old: Mapping[str, Descriptor], store: Store) -> list[str]:
    """Compares the packages of the old and new bases, since nothing was resolved."""
    lines: dict[str, list[str]] = {}
    for cell in cells:
        name, before, after = f"{cell.base_image}-{cell.arch}", old[cell.id], _base(layout, cell)
        if before.digest != after.digest and name not in lines:
            found = package_changes(*(packages_here(layout, side, store=store) for side in (before, after)))
            lines[name] = [f"{name}:", *(f"  {change.line()}" for change in found)]
    return [line for block in lines.values() for line in block]


def _base(layout: Layout, cell: Cell) -> Descriptor:
    try:
        return layout.resolve(f"{cell.base_image}-{cell.arch}", cell.arch)
    except LayoutError as error:
        raise LayoutError(
            f"{cell.id}: its base is not in {layout.root}", hint=f"buildctl build {cell.image}"
        ) from error


def _above(layout: Layout, image: Descriptor, base: Descriptor, name: str) -> tuple[Layer, ...]:
    """The layers of the image that are not its base's. Raises LayoutError if it is not on that base."""
    manifest, config = layout.manifest(image), layout.config(image)
    below = layout.manifest(base).layers
    if [d.digest for d in manifest.layers[: len(below)]] != [d.digest for d in below]:
        raise LayoutError(
            f"{name} is not on the base sha256:{base.digest.short} in {layout.root}",
            hint="build the image again",
        )
    pairs = zip(manifest.layers, config.diff_ids, strict=True)
    layers = tuple(Layer(descriptor=d, diff_id=diff_id, uncompressed_size=0) for d, diff_id in pairs)
    return layers[len(below) :]


def _rebase(layout: Layout, cell: Cell, old: Descriptor, new: Descriptor) -> Rebased:
    image = layout.resolve(cell.id, cell.arch)
    above = _above(layout, image, old, cell.id)
    below = _layers(layout, new)
    kept = sum(layer.descriptor.size for layer in above)
    if old.digest == new.digest:
        return Rebased(cell=cell, before=image, after=image, new=0, kept=kept + _size(below))
    before, after, config = layout.config(old), layout.config(new), layout.config(image)
    if _settings(before) != _settings(after):
        raise LayoutError(f"{cell.id}: the base's own settings changed", hint=f"buildctl build {cell.image}")
    known = {layer.digest for layer in layout.manifest(image).layers}
    created = max(config.created, after.created)  # both are RFC 3339 in UTC
    history = (*after.history, *config.history[len(before.history) :])
    descriptor = layout.put_image(
        name=cell.id,
        config=replace(
            config, diff_ids=(), created=created, history=tuple(replace(step, created=created) for step in history)
        ),
        layers=(*below, *above),
        blob=layout.blob_path,
        annotations=layout.manifest(image).annotations,
    )
    fresh = [layer for layer in below if layer.descriptor.digest not in known]
    kept += _size(below) - _size(fresh)
    return Rebased(cell=cell, before=image, after=descriptor, new=_size(fresh), kept=kept)


def _layers(layout: Layout, image: Descriptor) -> tuple[Layer, ...]:
    pairs = zip(layout.manifest(image).layers, layout.config(image).diff_ids, strict=True)
    return tuple(Layer(descriptor=d, diff_id=diff_id, uncompressed_size=0) for d, diff_id in pairs)


def _size(layers: Sequence[Layer]) -> int:
    return sum(layer.descriptor.size for layer in layers)


def _settings(config: ImageConfig) -> ImageConfig:
    """What an image inherits besides files."""
    return replace(config, diff_ids=(), history=(), created="")
