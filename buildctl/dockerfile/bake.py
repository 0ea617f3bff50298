"""The bake file: the targets of `docker buildx bake`, one for each cell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from buildctl.lock.inside.base_image import ImageLock, image_of
from buildctl.matrix.cells import Cell, DebianBase, ImageBase
from buildctl.oci.entry import EPOCH
from buildctl.registry.bases import mirrored

UV = "uv"  # the image that holds /uv and nothing else, a named context of every Dockerfile


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeTarget:
    """One cell to build. `dockerfile` is relative to `context`; `contexts` are named contexts, as buildx writes them
    (`oci-layout://DIR:NAME`, a folder, `docker-image://...`). `fixed_times` says that no layer of it can hold a time
    stamp of the build, so that none has to be rewritten. `created` is the time of the image in seconds since 1970.
    """

    name: str
    arch: str
    dockerfile: str
    context: str
    contexts: Mapping[str, str] = field(default_factory=dict)
    args: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    fixed_times: bool = False
    created: int | None = None


def bake_definition(targets: Sequence[BakeTarget]) -> dict[str, Any]:
    """The file for `docker buildx bake`: a target per cell, all in the group `default`."""
    return {
        "group": {"default": {"targets": [bake_name(t.name) for t in targets]}},
        "target": {bake_name(t.name): _target(t) for t in targets},
    }


def bake_name(name: str) -> str:
    """Bake allows letters, digits, `_` and `-` in a target's name: cpu-2.6-arm64 -> cpu-2_6-arm64."""
    return name.replace(".", "_")


def _target(target: BakeTarget) -> dict[str, Any]:
    out: dict[str, Any] = {
        "context": target.context,
        "dockerfile": target.dockerfile,
        "platforms": [f"linux/{target.arch}"],
        "contexts": dict(sorted(target.contexts.items())),
        # provenance and SBOM change the digest and hide the image behind an index; they are attached when publishing
        "attest": [{"type": "provenance", "disabled": "true"}, {"type": "sbom", "disabled": "true"}],
    }
    if target.args:
        out["args"] = dict(sorted(target.args.items()))
    if target.tags:
        out["tags"] = list(target.tags)
    return out


def target_of(cell: Cell, *, context: Path, layout: Path, image: ImageLock | None = None) -> BakeTarget:
    """The bake target of a cell, with its base and uv as named contexts; `image` is the lock of a base that is one."""
    base = cell.base
    if isinstance(base, DebianBase):
        where = f"oci-layout://{layout}:{cell.base_image}"
    else:
        where = _image_context(base, image.reference if image else image_of(base, cell.flavour), root=context.parent)
    return BakeTarget(
        name=cell.id,
        arch=cell.arch,
        dockerfile=f"{cell.name}/Dockerfile",
        context=str(context),
        contexts={"base": where, UV: f"oci-layout://{layout}:{UV}"},
        tags=(f"pytorch:{cell.id}",),
    )


def _image_context(base: ImageBase, reference: str, *, root: Path) -> str:
    if base.layout is None:
        return f"docker-image://{mirrored(reference, base.mirrors)}"
    return f"oci-layout://{root / base.layout}@{reference.partition('@')[2]}"


def bake_file(
    cells: Iterable[Cell],
    image_of_cell: Callable[[Cell], ImageLock | None] = lambda _: None,
    created_of_cell: Callable[[Cell], int] = lambda _: EPOCH,
) -> str:
    """docker-bake.json for a clone: relative paths, the layout in dist/, two builds of one checkout agree.

    A base that is an image is named by its digest once it is locked.
    """
    where = {"context": Path("images"), "layout": Path("dist")}
    targets = [
        replace(
            target_of(cell, **where, image=image_of_cell(cell)), args={"SOURCE_DATE_EPOCH": str(created_of_cell(cell))}
        )
        for cell in cells
        if not cell.native
    ]
    return json.dumps(bake_definition(targets), indent=2) + "\n"
