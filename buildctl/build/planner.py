"""From a locked cell and its Dockerfile to recipes: what each layer is made from, before anything is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildctl.artifacts.debian.base import pythons
from buildctl.artifacts.debian.package import BaseLock
from buildctl.artifacts.debian.python import build_arch
from buildctl.artifacts.wheels.wheel import Site
from buildctl.build.assemble import ImageRecipe, Recipe
from buildctl.build.plan import PlanInput, WheelsLayer, plan_image
from buildctl.build.recipes import (
    BaseRecipe,
    Compilers,
    Compiling,
    ImageCompiling,
    base_image,
    debian_base,
    image_base,
    image_recipe,
)
from buildctl.dockerfile.parse import read_dockerfile
from buildctl.ground.errors import EngineError, LockError
from buildctl.lock.inside.base_image import ImageLock, locate, read_image_lock
from buildctl.lock.locked import LockedCell, debian_bases, load_debian, load_runtime
from buildctl.lock.wheels import WheelLock
from buildctl.matrix.cells import Cell, DebianBase, Flavour, ImageBase
from buildctl.matrix.project import Project
from buildctl.oci.compression import Compression, compression_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """`wheels` is None for a base alone."""

    cell: Cell
    base: BaseRecipe
    recipe: ImageRecipe
    compiling: Compilers
    wheels: WheelLock | None

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (*self.base.recipes, *self.recipe.layers)

    @property
    def keys(self) -> tuple[str, ...]:
        """The recipe keys of the image's layers, the lowest first; none for a base alone."""
        return tuple(recipe.key for recipe in self.recipe.layers)


def chosen_compression(project: Project, method: str | None = None, level: str | None = None) -> Compression:
    """As on the command line, else as in matrix.yaml, whose level applies only to its own method. Raises UsageError."""
    configured = project.matrix
    method = method or configured.compression
    if level is None and method == configured.compression:
        level = configured.compression_level
    return compression_of(method, level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Plans cells; reads what they share once."""

    project: Project
    compression: Compression
    debian: dict[Path, BaseLock] = field(default_factory=dict)
    bases: dict[tuple[str, str], BaseRecipe] = field(default_factory=dict)

    def plan(self, locked: LockedCell) -> Planned:
        """What the cell's Dockerfile makes. Raises DockerfileError for what the assemble engine cannot do."""
        cell = locked.cell
        path = self.project.dockerfile(cell.name)
        base = self._base(cell, locked.debian)
        given = PlanInput(
            arch=cell.arch,
            build_arch=build_arch(),
            context=self.project.images,
            contexts={"base": base.config, "uv": None},
        )
        plan = plan_image(read_dockerfile(path, shown_as=self.project.shown(path)), given)
        locks = {o.requirements: self._own(locked, o) for o in plan.operations if isinstance(o, WheelsLayer)}
        compiling = self.compiling(cell)
        recipe = image_recipe(
            cell.id,
            plan,
            base,
            locks,
            site=site_of(cell, locked.image),
            compiling=compiling,
            compression=self.compression,
            created=locked.created,
        )
        return Planned(cell=cell, base=base, recipe=recipe, compiling=compiling, wheels=locked.wheels)

    def plan_base(self, cell: Cell) -> Planned:
        """Only the base of the cell."""
        base = self._base(cell, load_debian(self.project, cell, self.debian))
        recipe = replace(base_image(base), layers=())
        return Planned(cell=cell, base=base, recipe=recipe, compiling=self.compiling(cell), wheels=None)

    def compiling(self, cell: Cell) -> Compilers:
        """The Python that makes bytecode: that of the base itself, or of a Debian base with the same one where the base
        is an image; for the architecture of this machine.
        """
        for base in debian_bases(self.project, cell):
            lock = load_runtime(self.project, base, build_arch())
            if pythons(p.name for p in lock.packages) == [cell.python]:
                return Compiling(base=base, lock=lock)
        if isinstance(cell.base, ImageBase):
            path = self.project.image_lock(cell.base, Flavour.RUNTIME, build_arch())
            if path.is_file():
                return ImageCompiling(project=self.project, base=cell.base, lock=read_image_lock(path))
        raise EngineError(
            f"{cell.id}: no base with Python {cell.python} for this machine ({build_arch()}) to compile the bytecode",
            hint=f"add a Debian base with Python {cell.python} to matrix.yaml, or build on {cell.arch}",
        )

    def _own(self, locked: LockedCell, operation: WheelsLayer) -> WheelLock:
        """A Dockerfile must install what is locked for its own cell."""
        cell = locked.cell
        own = self.project.wheel_lock(cell.name, cell.arch)
        if operation.requirements != own:
            raise LockError(
                f"{self.project.shown(self.project.dockerfile(cell.name))} installs from "
                f"{self.project.shown(operation.requirements)}, but the lock of {cell.id} is {self.project.shown(own)}",
                hint="COPY the image's own NAME/requirements.${TARGETARCH}.txt",
            )
        return locked.wheels

    def _base(self, cell: Cell, debian: Sequence[BaseLock]) -> BaseRecipe:
        key = (cell.base_image, cell.arch)
        if key not in self.bases:
            self.bases[key] = self._new_base(cell, debian)
        return self.bases[key]

    def _new_base(self, cell: Cell, debian: Sequence[BaseLock]) -> BaseRecipe:
        base = cell.base
        if not isinstance(base, DebianBase):
            lock = read_image_lock(self.project.image_lock(base, cell.flavour, cell.arch))
            layout, descriptor = locate(self.project, base, lock.reference, cell.arch)
            return image_base(base, lock.reference, layout, descriptor, arch=cell.arch)
        return debian_base(
            cell.base_image,
            debian,
            compiling=self.compiling(cell),
            compression=self.compression,
        )


def site_of(cell: Cell, image: ImageLock | None) -> Site:
    """Where the base's Python looks for packages. Debian's folder for what a user adds is dist-packages."""
    python = cell.python
    if image is None:
        interpreter, purelib = f"/usr/bin/python{python}", f"usr/local/lib/python{python}/dist-packages"
    else:
        interpreter, purelib = image.interpreter, image.purelib
    prefix = purelib.partition("/lib/python")[0]
    return Site(
        purelib=purelib,
        scripts=f"{prefix}/bin",
        data=prefix,
        headers=f"{prefix}/include/python{python}",
        interpreter=interpreter,
        python=python,
    )
