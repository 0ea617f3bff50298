"""The assemble engine: locked cells and their bases, planned, fetched, made and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from buildctl.artifacts.debian.python import build_arch
from buildctl.artifacts.store import LayerStore, Store
from buildctl.build.assemble import Made, Shown, at_hand, make_layers, source_date_epoch, write_image
from buildctl.build.cache.overlaps import note_checked, refuse_conflicts, was_checked
from buildctl.build.cache.session import CacheSession, opened
from buildctl.build.engine import Built, Order
from buildctl.build.material import missing_in
from buildctl.build.planner import Planned, Planner
from buildctl.build.recipes import base_image, material_size
from buildctl.build.supply import supplied
from buildctl.console.log import say
from buildctl.console.progress import open_progress
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Cell, DebianBase
from buildctl.matrix.project import Project
from buildctl.oci.compression import Compression
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout

# Bytes in a layer for each byte of its packages: 1.8 (NVIDIA) to 4.6 (torch for CPUs); to say how long it takes.
_UNPACKED = 3


def assemble_images(order: Order) -> list[Built]:
    """An `Engine`: the images of these cells and their bases, without Docker."""
    store, layout, epoch = Store.default(), order.layout, order.epoch
    planner = Planner(project=order.project, compression=order.compression)
    planned = [planner.plan(cell) for cell in order.locked]
    with opened(order.cache, planned, store, order.layers) as session:
        layers = session.layers
        made = _make(order.project, session, order.jobs)
        session.note_places(layout)
        _write_bases(planned, made, layout, layers, epoch)
        built, fresh = list[Built](), dict(made)
        for p in planned:
            built.append(write_image(p.recipe, made, layout=layout, layers=layers, epoch=epoch))
            # the next image finds what this one made
            made |= {r.key: replace(made[r.key], fresh=False) for r in p.recipe.layers}
        session.write(fresh, layout)
    return built


def build_bases(
    project: Project,
    cells: Sequence[Cell],
    layers: LayerStore,
    layout: Layout,
    *,
    compression: Compression,
    jobs: int | None = None,
) -> tuple[str, ...]:
    """Only the bases of these cells, into the layout, for `FROM base` under Docker; their names.

    Raises BuildctlError, among them VanishedDebError.
    """
    store, planner = Store.default(), Planner(project=project, compression=compression)
    planned = [planner.plan_base(cell) for cell in cells]
    with opened(None, planned, store, layers) as session:
        made = _make(project, session, jobs)
    _write_bases(planned, made, layout, layers, source_date_epoch())
    return tuple(dict.fromkeys(p.base.name for p in planned))


def bases_under(cells: Iterable[Cell]) -> list[Cell]:
    """Cells that represent the Debian bases of `cells`, for the architecture of the image and of this machine."""
    found: dict[tuple[str, str], Cell] = {}
    for cell in (cell for cell in cells if isinstance(cell.base, DebianBase)):
        for arch in (cell.arch, build_arch()):
            found[cell.base_image, arch] = replace(cell, arch=arch)
    return list(found.values())


def _make(project: Project, session: CacheSession, jobs: int | None) -> dict[str, Made]:
    """Make missing layers, each as soon as its material has arrived. Images that were not checked before are checked
    for wheels that overwrite each other.
    """
    recipes = list({r.key: r for p in session.planned for r in p.recipes}.values())
    missing = missing_in(session.planned, session.layers)
    unchecked = {(p.cell.name, p.cell.arch): p for p in session.planned if not _is_checked(p, session)}
    said: set[str] = set()

    def check(planned: Planned) -> None:
        for note in _compared(planned, session):
            if note not in said:
                say(f"note: {note}")
            said.add(note)

    if not missing:
        for planned in unchecked.values():
            check(planned)
        return at_hand(recipes, session.layers)
    with (
        open_progress("fetched") as progress,
        supplied(project, session, missing, [*unchecked.values()], check, progress) as supply,
    ):
        return make_layers(
            recipes,
            store=session.inputs,
            layers=session.layers,
            jobs=jobs,
            progress=progress.of("made layer"),
            ready=supply.ready,
            meanwhile=supply.look,
            shown=_shown(session.planned),
        )


def _compared(planned: Planned, session: CacheSession) -> tuple[str, ...]:
    notes = refuse_conflicts(planned.recipe, session.store, session.layers, session.known_files)
    note_checked(planned.recipe, session.store)
    return notes


def _is_checked(planned: Planned, session: CacheSession) -> bool:
    """What this run signs as checked it checks itself, unless a valid set says so."""
    return planned.keys in session.unlapped or (session.scratch is None and was_checked(planned.recipe, session.store))


def _shown(planned: Sequence[Planned]) -> dict[str, Shown]:
    """Each layer with its image, or with how many share it."""
    images: dict[str, dict[str, None]] = {}
    recipes = {r.key: r for p in planned for r in p.recipes}
    for p in planned:
        for recipe in p.recipes:
            images.setdefault(recipe.key, {})[p.cell.id] = None
    whose = {key: next(iter(names)) if len(names) == 1 else f"{len(names)} images" for key, names in images.items()}
    return {
        key: Shown(label=f"{r.label} ({whose[key]})", size=material_size(r) * _UNPACKED) for key, r in recipes.items()
    }


def _write_bases(
    planned: Sequence[Planned], made: Mapping[str, Made], layout: Layout, layers: LayerStore, epoch: int | None
) -> None:
    """The bases built here, as images, and one index for each over the available architectures."""
    bases = {(p.base.name, p.cell.arch): p.base for p in planned if p.base.recipes}
    for base in bases.values():
        write_image(base_image(base), made, layout=layout, layers=layers, epoch=epoch)
    there = set(layout.names()) if bases else set()
    for name in dict.fromkeys(name for name, _ in bases):
        ids = [f"{name}-{arch}" for arch in ARCHES if f"{name}-{arch}" in there]
        layout.put_index(name=name, manifests=[_with_platform(layout, i) for i in ids])


def _with_platform(layout: Layout, name: str) -> Descriptor:
    """The descriptor of a manifest without its name, as in an index."""
    found = layout.resolve(name)
    return replace(found, annotations={}, platform=found.platform or layout.config(found).platform)
