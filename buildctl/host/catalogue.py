"""What can be asked about: the images and native environments of a matrix, by their committed claims."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from buildctl.ground.errors import LayoutError, MatrixError
from buildctl.lock.claims import Claims, read_claims


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One image name with the claims for each of its architectures; `built`: it is in the layout.

    For an image outside the matrix, `start` is how to start it, with {options} where options of `docker run`
    go, in `requires` what its NVIDIA_REQUIRE_CUDA asks for, and in `says` False if it claims nothing about CUDA.
    Of one in the matrix, `image` is its name where `name` is a tag or one architecture, and `place` the layout.
    """

    name: str
    claims: tuple[Claims, ...]
    built: bool
    start: str = ""
    requires: str = ""
    says: bool = True
    image: str = ""
    place: str = "dist"

    @property
    def native(self) -> bool:
        return all(c.platform.startswith("darwin/") for c in self.claims)

    def of(self, arch: str) -> Claims | None:
        return next((c for c in self.claims if c.arch == arch), None)


def catalogue(start: Path, layout: Path | None) -> list[Subject]:
    """Every name with a claims file in the project above `start`. Raises MatrixError outside a project."""
    root = next((p for p in (start.resolve(), *start.resolve().parents) if (p / "matrix.yaml").is_file()), None)
    if root is None:
        raise MatrixError(
            f"no matrix.yaml in {start} or any folder above it", hint="name the project: buildctl --project DIR check"
        )
    names = layout_names(layout or root / "dist")
    place = _place(layout or root / "dist", root)
    found: dict[str, list[Claims]] = {}
    for path in sorted((root / "images").glob("*/claims.*.json")):
        claims = read_claims(path)
        found.setdefault(claims.name, []).append(claims)
    return [
        Subject(name=name, claims=tuple(c), built=name in names, place=place)
        for name, c in sorted(found.items(), key=lambda item: _order(item[1][0]))
    ]


def _place(layout: Path, root: Path) -> str:
    """As seen from the project, where it is inside."""
    whole = layout.resolve()
    return str(whole.relative_to(root)) if whole.is_relative_to(root) else str(whole)


def _order(claims: Claims) -> tuple[str, Version]:
    return claims.accelerator, Version(claims.torch)


def layout_names(layout: Path) -> set[str]:
    from buildctl.oci.layout import Layout  # noqa: PLC0415 - only with a layout

    try:
        return set(Layout(layout).names())
    except LayoutError:
        return set()
