"""What a matrix is made of: bases, accelerators, cells, and combinations that cannot exist."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from buildctl.ground.errors import MatrixError
from buildctl.matrix.accelerators import VERSION_KEYS, AcceleratorKind


class Flavour(StrEnum):
    RUNTIME = "runtime"
    DEVEL = "devel"


class Os(StrEnum):
    LINUX = "linux"
    MACOS = "macos"


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianBase:
    """Assembled from locked packages of a Debian suite; `devel` is what the devel flavour adds."""

    name: str
    suite: str
    packages: tuple[str, ...]
    devel: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBase:
    """An image by tag or digest, from the OCI layout `layout` (relative to matrix.yaml) if given. Its locks say what is
    inside.
    """

    name: str
    image: str
    devel: str | None
    layout: str | None
    mirrors: tuple[tuple[str, str], ...] = ()


Base = DebianBase | ImageBase


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionClaim:
    """Versions of which the locked torch must be one; `where` is the source of the claim, with line and key path."""

    versions: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """`kind` is what the name or a key claims, None if neither does: then the locked torch alone decides.

    `claims` are the versions that the name and the keys claim. `built` and `never` are torch's backends besides the CPU
    that must and must not be compiled in, None if the matrix leaves that to the kind. `bases` are those that images may
    have, in order of preference; `base` is the first of them, in a cell the one with the cell's Python; None exactly
    for native accelerators (`os` is macos). `index` serves torch, torchvision and torchaudio; None stands for the index
    that the user has configured. `places` are lines of matrix.yaml by key, "" for the accelerator itself.
    """

    name: str
    os: Os
    arches: tuple[str, ...]
    base: Base | None
    bases: tuple[Base, ...] = ()
    kind: AcceleratorKind | None = None
    claims: tuple[VersionClaim, ...] = ()
    built: tuple[str, ...] | None = None
    never: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    index: str | None = None
    places: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def place(self, key: str = "") -> str:
        """`accelerators.cu126.index (matrix.yaml line 12)`, of the accelerator itself where it has no such key."""
        known = dict(self.places)
        return known.get(key) or known.get("") or f"accelerators.{self.name}"

    @property
    def claimed_by(self) -> str:
        """What declares its kind: the first key that does, else the name."""
        return next((self.place(key) for key in (*VERSION_KEYS, "kind") if key in dict(self.places)), self.place())


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageRule:
    """A package next to torch: any version that `specifier` allows, for versions of torch in `torch`."""

    name: str
    extras: tuple[str, ...]
    specifier: str
    torch: SpecifierSet

    def requirement(self, torch: Version) -> str | None:
        """PEP 508 text for that torch, None if the package does not go with it."""
        if not self.torch.contains(torch, prereleases=True):
            return None
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"{self.name}{extras}{self.specifier.replace('{torch}', str(torch))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What some images get on top of what all have.

    `apt` are Debian packages on top of the base, by name; `extras` known groups of requirements with findings of their
    own. `wheels` are files below images/, `files` pairs of a file or folder there (with a slash at the end) and its
    place.
    """

    apt: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(Own):
    """One image name on one architecture, or a native environment (`native`), which is never an image."""

    name: str
    flavour: Flavour
    arch: str
    accelerator: Accelerator
    key: str
    torch: Version
    python: str
    requirements: tuple[str, ...]

    @property
    def stem(self) -> str:
        """Its name without a Python: `cuda-2.6` of `cuda-2.6-py311`."""
        return f"{self.accelerator.name}-{self.key}"

    @property
    def suffix(self) -> str:
        """`-py311`; empty for the matrix's first Python."""
        return self.name.removeprefix(self.stem)

    @property
    def image(self) -> str:
        return self.name if self.flavour is Flavour.RUNTIME else f"{self.name}-{self.flavour}"

    @property
    def id(self) -> str:
        return f"{self.image}-{self.arch}"

    @property
    def native(self) -> bool:
        return self.accelerator.os is not Os.LINUX

    @property
    def platform(self) -> str:
        """In Go's words: linux/amd64, darwin/arm64."""
        return f"{'darwin' if self.native else 'linux'}/{self.arch}"

    @property
    def base(self) -> Base:
        """Raises MatrixError for a native environment, which has none."""
        if self.accelerator.base is None:
            raise MatrixError(f"{self.id} is a native environment: it has no base image")
        return self.accelerator.base

    @property
    def base_image(self) -> str:
        """Its base's name in the layout: one for all images, or its own with its Debian packages.

        No other name has an underscore, and Docker allows no `+` in a tag.
        """
        name = f"base-{self.base.name}_{self.name}" if self.apt else f"base-{self.base.name}"
        return name if self.flavour is Flavour.RUNTIME else f"{name}-{self.flavour}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """About one accelerator by name, or all of a kind, or the versions of Python in `pythons`."""

    accelerator: str | None
    kind: AcceleratorKind | None = None
    os: Os | None
    arch: str | None
    versions: SpecifierSet
    pythons: SpecifierSet = field(default_factory=SpecifierSet)
    reason: str
    instead: str

    def matches(self, combination: Combination, accelerator: Accelerator) -> bool:
        return (
            self.accelerator in {None, combination.accelerator}
            and (self.kind is None or self.kind == accelerator.kind)
            and self.os in {None, combination.os}
            and self.arch in {None, combination.arch}
            and self.versions.contains(combination.torch, prereleases=True)
            and self.pythons.contains(combination.python)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """A point of the whole product. `reason` is empty if it exists, else why it cannot; `instead` is what to use.

    `suffix` is the Python in its name: `-py311`, empty for the matrix's first.
    """

    accelerator: str
    key: str
    torch: Version
    os: Os
    arch: str
    python: str
    suffix: str = ""
    reason: str = ""
    instead: str = ""

    @property
    def name(self) -> str:
        return f"{self.accelerator}-{self.key}{self.suffix}"

    @property
    def exists(self) -> bool:
        return not self.reason

    def sentence(self) -> str:
        where = f"in a container on {self.arch}" if self.os is Os.LINUX else f"on macOS {self.arch}"
        return f"{self.name} {where}: {self.reason or 'exists'}"
