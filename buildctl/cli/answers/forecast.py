"""`buildctl plan`: what a build would do, found out without doing it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildctl.artifacts.debian.python import python_packages
from buildctl.artifacts.store import Store
from buildctl.build.planner import Planned, Planner, chosen_compression
from buildctl.build.recipes import Compiling, artifacts_of, material_size
from buildctl.cli.options import require_linux_to
from buildctl.console.log import say, unsaid
from buildctl.console.table import counted, folded, size, table
from buildctl.dockerfile.files import update_rendered
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.ground.scratch import scratch as scratch_folder
from buildctl.lock.locked import load_locked, of_all_architectures
from buildctl.lock.update import stale_locks, update_locks
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import MATRIX, Project
from buildctl.oci.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Sizes in bytes. `resolve` are locks with the reason; `download` counts what the store lacks, `make` the layers,
    `reuse` those that are there; a layer that is not made yet counts with the size of what it is made from. `docker` is
    the daemon that would get the images, else why none does.
    """

    resolve: tuple[tuple[str, str], ...]
    images: tuple[tuple[str, int], ...]
    downloads: int
    download_size: int
    make: tuple[tuple[str, int], ...]
    reuse: int
    reuse_size: int
    docker: str
    docker_answers: bool
    free: int

    def to_json(self) -> dict[str, Any]:
        return {
            "resolve": [{"file": path, "reason": reason} for path, reason in self.resolve],
            "images": [{"id": name, "size": size_} for name, size_ in self.images],
            "download": {"artifacts": self.downloads, "size": self.download_size},
            "make": [{"layer": label, "size": size_} for label, size_ in self.make],
            "reuse": {"layers": self.reuse, "size": self.reuse_size},
            "docker": {"answers": self.docker_answers, "says": self.docker},
            "free": self.free,
        }

    def text(self) -> str:
        made, total = sum(weight for _, weight in self.make), sum(size_ for _, size_ in self.images)
        rows = [
            ("resolve", _count(len(self.resolve), "lock"), "", ", ".join(path for path, _ in self.resolve[:2])),
            ("download", _count(self.downloads, "file"), size(self.download_size), "into the store, once"),
            ("make", _count(len(self.make), "layer"), size(made), _largest(self.make)),
            ("reuse", _count(self.reuse, "layer"), size(self.reuse_size), "in the store"),
            ("write", _count(len(self.images), "image"), size(total), "layers are shared with the store by hard links"),
            ("load", _count(len(self.images) if self.docker_answers else 0, "image"), "", self.docker),
        ]
        names = table(("CELL", "SIZE"), [(name, size(size_)) for name, size_ in self.images], right=frozenset({1}))
        return f"{names}\n\n{folded(('', 'WHAT', 'SIZE', ''), rows, right=frozenset({2}))}\n\n{self._disk(made)}"

    def _disk(self, made: int) -> str:
        needed = self.download_size + made
        enough = "enough" if needed < self.free else "NOT enough"
        again = "\nnothing was kept: `buildctl build` resolves it again" if self.resolve else ""
        return f"needs about {size(needed)} of disk, {size(self.free)} are free: {enough}{again}"


def _count(number: int, noun: str) -> str:
    return counted(number, noun) if number else "nothing"


def _largest(layers: Sequence[tuple[str, int]]) -> str:
    found = sorted(layers, key=lambda layer: -layer[1])[:3]
    return f"{', '.join(label for label, _ in found)}{' ...' if len(layers) > 3 else ''}"


def forecast(project: Project, names: Sequence[str], arch: str | None) -> Forecast:
    """Raises as a build does, before it downloads anything."""
    require_linux_to("plan")
    cells = project.matrix.images_of(names, arch)
    with _resolved(project, cells) as (scratch, resolve):
        planner = Planner(project=scratch, compression=chosen_compression(project))
        planned = [planner.plan(locked) for locked in load_locked(scratch, cells)]
    return _forecast(planned, Store.default(), resolve)


def _forecast(planned: Sequence[Planned], store: Store, resolve: tuple[tuple[str, str], ...]) -> Forecast:
    recipes = {r.key: r for p in planned for r in p.recipes}
    there = {key: layer.descriptor.size for key in recipes if (layer := store.get(key)) is not None}
    missing = {key: recipe for key, recipe in recipes.items() if key not in there}
    sizes = there | {key: material_size(recipe) for key, recipe in missing.items()}
    wanted: dict[Digest, int] = {a.digest: a.size for r in missing.values() for a in artifacts_of(r)}
    if missing:  # and the Python that makes the bytecode here
        pythons = [p.compiling for p in planned if isinstance(p.compiling, Compiling)]
        wanted |= {d.digest: d.size for compiling in pythons for d in python_packages(compiling.lock)}
    fetched = {digest: count for digest, count in wanted.items() if store.artifact(digest) is None}
    answers, docker = _docker()
    return Forecast(
        resolve=resolve,
        images=tuple((p.cell.id, _image_size(p, sizes)) for p in planned),
        downloads=len(fetched),
        download_size=sum(fetched.values()),
        make=tuple((recipe.label, sizes[key]) for key, recipe in missing.items()),
        reuse=len(there),
        reuse_size=sum(there.values()),
        docker=docker,
        docker_answers=answers,
        free=shutil.disk_usage(next(p for p in (store.root, *store.root.parents) if p.exists())).free,
    )


def _image_size(planned: Planned, sizes: dict[str, int]) -> int:
    below = planned.base.layers if not planned.base.recipes else ()
    return sum(sizes[key] for key in {r.key for r in planned.recipes}) + sum(layer.descriptor.size for layer in below)


@contextmanager
def _resolved(project: Project, cells: Sequence[Cell]) -> Iterator[tuple[Project, tuple[tuple[str, str], ...]]]:
    """The project with everything locked and rendered: a copy in a temporary folder, without its output."""
    stale = tuple((project.shown(path), reason) for path, reason in stale_locks(project, cells))
    with scratch_folder("plan") as folder:
        root = Path(folder)
        for entry in project.root.iterdir():
            if entry.name == "images":
                shutil.copytree(entry, root / entry.name)
            elif entry.name != MATRIX:
                (root / entry.name).symlink_to(entry)
        shutil.copy(project.root / MATRIX, root / MATRIX)
        scratch = replace(project, root=root)
        if stale:
            say(f"resolving {counted(len(stale), 'lock')} in a temporary folder, to know the sizes")
        update_locks(scratch, cells, locked=False)
        with unsaid():  # these files are written nowhere that anybody looks
            update_rendered(scratch, load_locked(scratch, of_all_architectures(scratch, cells)), locked=False)
        yield scratch, stale


def _docker() -> tuple[bool, str]:
    from buildctl.docker.daemon import connected

    try:
        with connected() as client:
            return True, f"into Docker {client.version().get('Version', '')}; only what it lacks is moved".strip()
    except RuntimeUnavailableError as error:
        return False, error.message
