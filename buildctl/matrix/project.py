"""Where things are in a project, found by searching upwards for matrix.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from buildctl.ground.errors import MatrixError
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Base, Cell, DebianBase, Flavour, ImageBase

if TYPE_CHECKING:
    from buildctl.matrix.matrix import Matrix

MATRIX, BAKE = "matrix.yaml", "docker-bake.json"


@dataclass(frozen=True)
class Project:
    """`root` holds matrix.yaml, templates/ and images/; images are written to the OCI layout `layout`."""

    root: Path
    layout: Path

    @classmethod
    def find(cls, start: Path, *, layout: Path | None = None) -> Self:
        """The project whose matrix.yaml is in `start` or the nearest folder above it. Raises MatrixError."""
        start = start.resolve()
        for folder in (start, *start.parents):
            if (folder / MATRIX).is_file():
                return cls(folder, layout or folder / "dist")
        raise MatrixError(
            f"no {MATRIX} in {start} or any folder above it",
            hint="run buildctl inside a project, or give one: buildctl --project DIR ...",
        )

    @cached_property
    def matrix(self) -> Matrix:
        from buildctl.matrix.read import load_matrix  # noqa: PLC0415 - YAML and its schema: not to know where things are

        return load_matrix(self.root / MATRIX, self.pythons_of)

    def pythons_of(self, base: Base) -> tuple[str, ...] | None:
        """The Pythons of a base: of the packages that matrix.yaml names, else of its lock; None where neither tells."""
        if isinstance(base, ImageBase):
            paths = [self.image_lock(base, Flavour.RUNTIME, arch) for arch in ARCHES]
            said = [re.search(r'"python": "(3\.[0-9]+)"', path.read_text("utf-8")) for path in paths if path.is_file()]
            return tuple(dict.fromkeys(match[1] for match in said if match)) or None
        locks = [self.base_lock(base, Flavour.RUNTIME, arch) for arch in ARCHES]
        texts = [path.read_text("utf-8", "replace") for path in locks if path.is_file()]
        locked = (name for text in texts for name in re.findall(r"^Package: (\S+)$", text, re.MULTILINE))
        found = [
            match[1]
            for names in (base.packages, locked)
            for name in dict.fromkeys(names)
            if (match := re.fullmatch(r"python(3\.[0-9]+)", name))
        ]
        return tuple(dict.fromkeys(found)) or None

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def templates(self) -> Path:
        return self.root / "templates"

    @property
    def common(self) -> Path:
        """Scripts that the Dockerfiles copy."""
        return self.images / "common"

    @property
    def reports(self) -> Path:
        return self.layout / "reports"

    def dockerfile(self, name: str) -> Path:
        return self.images / name / "Dockerfile"

    def constraints(self, name: str) -> Path:
        return self.images / name / "constraints.txt"

    def wheel_lock(self, name: str, arch: str) -> Path:
        return self.images / name / f"requirements.{arch}.txt"

    def base_lock(self, base: DebianBase, flavour: Flavour, arch: str) -> Path:
        return self.images / "bases" / base.name / f"{flavour}.{arch}.packages"

    def image_lock(self, base: ImageBase, flavour: Flavour, arch: str) -> Path:
        return self.images / "bases" / base.name / f"{flavour}.{arch}.image"

    def added_lock(self, cell: Cell) -> Path:
        """Of the image's own Debian packages."""
        return self.images / cell.name / f"{cell.flavour}.{cell.arch}.packages"

    def locks(self) -> list[Path]:
        """Every file that `buildctl lock` writes, as far as it is there."""
        names = ("requirements.*.txt", "claims.*.json", "*.packages", "*.recorded", "*.image")
        return sorted(path for name in names for path in self.images.rglob(name))

    def debian_locks(self, cell: Cell) -> tuple[Path, ...]:
        """The locks of the Debian packages below a cell's wheels, the lowest first; none if its base is an image.

        For an architecture that the matrix does not have this image for, those of the base alone: what a stage on
        `$BUILDPLATFORM` stands on.
        """
        if not isinstance(cell.base, DebianBase):
            return ()
        flavours = dict.fromkeys((Flavour.RUNTIME, cell.flavour))
        locks = [self.base_lock(cell.base, flavour, cell.arch) for flavour in flavours]
        if cell.apt and any(c.id == cell.id for c in self.matrix.cells):
            locks.append(self.added_lock(cell))
        return tuple(locks)

    def report(self, cell: Cell) -> Path:
        return self.reports / f"{cell.id}.json"

    def shown(self, path: Path) -> str:
        """A path for messages: relative to the project if inside."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)
