"""What an image claims: derived from its locked wheels without importing torch, kept in a file that a person
reviews (images/NAME/claims.ARCH.json), written as labels, and compared with what the running image reports.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from buildctl.ground.errors import LockError, ResolveError
from buildctl.ground.jsontext import parse_json
from buildctl.lock.torch_build import certain_build
from buildctl.matrix.accelerators import CUDA, MPS, VERSIONED, AcceleratorKind, kind_of, public_version
from buildctl.matrix.arch import ARCHES

# `buildctl check` reads claims and must be fast: it does not load what resolves and parses locks
if TYPE_CHECKING:
    from buildctl.lock.wheels import WheelLock
    from buildctl.matrix.cells import Cell

SCHEMA = 1
LABEL = "dev.buildctl."

# PEP 600: the names that came before manylinux_X_Y
_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_GLIBC = re.compile(r"manylinux_(\d+)_(\d+)_\w+|(manylinux\d+)_\w+")
_MACOS = re.compile(r"macosx_(\d+)_(\d+)_\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelFacts:
    """Read from torch's wheel, whose SHA-256 is `wheel`.

    `said` is what torch.version says that it is built for, as written there, by kind; at most one.
    `gpu_architectures` (sm_..) and `ptx` (compute_..) are what its kernels are compiled for; `mps` is whether its
    libraries link to Apple's Metal.
    """

    wheel: str
    torch: str
    said: Mapping[str, str]
    gpu_architectures: tuple[str, ...]
    ptx: tuple[str, ...]
    mps: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Versions as in the distributions' metadata; `versions` is MAJOR.MINOR of what torch is built for, by the name of
    the kind, and empty for other kinds.

    `glibc` and `macos` are the lowest that all wheels allow. `built` and `never` are torch's backends that must and
    must not be compiled in, which is also which devices may and may not appear. `lock` is a digest of the locked
    wheels. The fields of `facts` are None until the wheel has been read.
    """

    torch: str
    python: str
    arch: str
    accelerator: str
    name: str = ""
    platform: str = ""
    lock: str = ""
    torchvision: str | None = None
    torchaudio: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    cudnn: str | None = None
    nccl: str | None = None
    glibc: str | None = None
    macos: str | None = None
    built: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    facts: WheelFacts | None = None

    @property
    def kind(self) -> AcceleratorKind:
        """By what torch is built for, not by the accelerator's name."""
        return kind_of(self.versions, native=self.platform.startswith("darwin/"))

    @property
    def built_for(self) -> str | None:
        """MAJOR.MINOR of CUDA, ROCm or XPU; None for other kinds."""
        return self.versions.get(self.kind.name)

    @property
    def driver_floor(self) -> str | None:
        return self.kind.driver_floor(self.built_for)

    @property
    def gpu_architectures(self) -> tuple[str, ...] | None:
        return self.facts.gpu_architectures if self.facts else None

    @property
    def ptx(self) -> tuple[str, ...] | None:
        return self.facts.ptx if self.facts else None

    @property
    def architectures(self) -> tuple[str, ...] | None:
        """Both kinds of code as torch lists them, None until the wheel has been read."""
        return (*self.facts.gpu_architectures, *self.facts.ptx) if self.facts else None

    def to_json(self) -> dict[str, Any]:
        """Flat, in a fixed order; `build` is what torch calls itself, `driverFloor` follows from the kind."""
        value: dict[str, Any] = {}
        for name in _OWN:
            value |= _by_kind(self.versions) if name == "versions" else {name: getattr(self, name)}
        inside = {
            "wheel": self.facts.wheel if self.facts else None,
            "build": self.facts.torch if self.facts else None,
            "gpu_architectures": self.gpu_architectures,
            "ptx": self.ptx,
            "mps": self.facts.mps if self.facts else None,
            **{kind.raw: self.facts.said.get(kind.name) if self.facts else None for kind in VERSIONED if kind.raw},
        }
        plain = {**value, "driver_floor": self.driver_floor, **inside}
        plain = {k: v for k, v in plain.items() if v is not None or k not in _LATER}
        written = {_WRITTEN.get(k, k): list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
        return {"schema": SCHEMA, **written}


def claims_of(cell: Cell, lock: WheelLock, facts: WheelFacts | None = None) -> Claims:
    """Raises LockError if the locked wheels cannot be what the cell's accelerator declares."""
    versions = {wheel.name: wheel.version for wheel in lock.wheels}
    if "torch" not in versions:
        raise LockError(f"{cell.id}: the lock has no torch", hint=f"buildctl lock {cell.name}")
    build = certain_build(cell, versions, facts)
    kind, given = build.kind, cell.accelerator
    files = [wheel.filename for wheel in lock.wheels]
    claims = Claims(
        name=cell.name,
        platform=cell.platform,
        lock=lock_digest(lock),
        torch=versions["torch"],
        torchvision=versions.get("torchvision"),
        torchaudio=versions.get("torchaudio"),
        versions={kind.name: build.version} if build.version else {},
        cudnn=nvidia_version(versions, "nvidia-cudnn") if kind.own_libraries else None,
        nccl=nvidia_version(versions, "nvidia-nccl") if kind.own_libraries else None,
        glibc=None if cell.native else glibc_floor(files),
        macos=macos_floor(files) if cell.native else None,
        python=cell.python,
        arch=cell.arch,
        accelerator=given.name,
        built=given.built if given.built is not None else tuple(filter(None, [kind.backend])),
        never=given.never if given.never is not None else kind.never,
        facts=facts,
    )
    if facts is not None:
        check_facts(claims, facts)
    return claims


def lock_digest(lock: WheelLock) -> str:
    from buildctl.oci.digest import Digest  # noqa: PLC0415 - see TYPE_CHECKING above

    return str(Digest.of("\n".join(str(wheel.digest) for wheel in lock.wheels).encode()))


def check_facts(claims: Claims, facts: WheelFacts) -> None:
    """Compares torch's wheel with the lock: two independent sources. Raises LockError."""
    what = f"{claims.name}-{claims.arch}: torch's wheel"
    if Version(facts.torch).public != Version(claims.torch).public:
        raise ResolveError(f"{what} is torch {facts.torch} inside, the lock has {claims.torch}")
    if claims.kind.architectures and not facts.gpu_architectures:
        raise ResolveError(f"{what} is {claims.kind.build} without a list of GPU architectures")
    wanted = MPS.backend in claims.built
    if facts.mps != wanted and (wanted or MPS.backend in claims.never):
        inside = "links to Metal" if facts.mps else "does not link to Metal"
        raise ResolveError(f"{what} {inside}, the matrix has {MPS.backend} under {'built' if wanted else 'never'}")


def nvidia_version(versions: Mapping[str, str], stem: str) -> str | None:
    return next((v for n, v in sorted(versions.items()) if re.fullmatch(rf"{stem}(-cu\d+)?", n)), None)


def glibc_floor(filenames: Iterable[str]) -> str | None:
    """The lowest glibc that every wheel's tags allow; a wheel with several tags needs the lowest of them."""
    floors = []
    for filename in filenames:
        tags = list(_GLIBC.finditer(filename.rpartition("-")[2]))
        if tags:
            floors.append(min(_MANYLINUX.get(m[3], (2, 5)) if m[3] else (int(m[1]), int(m[2])) for m in tags))
    return ".".join(map(str, max(floors))) if floors else None


def macos_floor(filenames: Iterable[str]) -> str | None:
    floors = []
    for filename in filenames:
        tags = [(int(m[1]), int(m[2])) for m in _MACOS.finditer(filename.rpartition("-")[2])]
        if tags:
            floors.append(min(tags))
    return ".".join(map(str, max(floors))) if floors else None


# the file


def claims_path(images: Path, name: str, arch: str) -> Path:
    return images / name / f"claims.{arch}.json"


def format_claims(claims: Claims) -> bytes:
    return json.dumps(claims.to_json(), indent=2).encode() + b"\n"


def read_claims(path: Path) -> Claims:
    """Raises LockError, naming the file, for anything that `format_claims` would not write."""
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise LockError(f"{path} does not exist", hint="run `buildctl claims`") from error
    except (OSError, ValueError) as error:
        raise LockError(f"cannot read {path}: {error}", hint="run `buildctl claims`") from error
    return parse_claims(value, str(path))


def parse_claims(value: Any, source: str) -> Claims:
    """Every field, of the right type, and nothing else; keys may be those of older files. Raises LockError."""
    try:
        value = {_READ.get(key, key): item for key, item in value.items()}
        if value["schema"] != SCHEMA:
            raise LockError(f"{source}: schema {value['schema']!r}, not {SCHEMA}", hint="run `buildctl claims`")
        own = [key for name in _OWN for key in (_by_kind({}) if name == "versions" else (name,))]
        if wrong := sorted(({"schema", "driver_floor", *_INSIDE, *own} ^ value.keys()) - (_LATER - value.keys())):
            raise TypeError(f"missing or unknown: {', '.join(wrong)}")
        fields: dict[str, Any] = {name: _typed(name, value.get(name)) for name in (*own, *_INSIDE)}
        inside = {name: fields.pop(name) for name in _INSIDE}
        versions = {name: version for name in _by_kind({}) if (version := fields.pop(name)) is not None}
        claims = Claims(**fields, versions=versions, facts=_facts(inside, versions))
        if value["driver_floor"] != claims.driver_floor:
            raise LockError(
                f"{source}: driverFloor is {value['driver_floor']}, {claims.kind.titled(claims.built_for)} asks for "
                f"{claims.driver_floor}",
                hint="run `buildctl claims`",
            )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LockError(f"{source}: malformed ({error})", hint="run `buildctl claims`") from error
    return claims


_WRITTEN = {"gpu_architectures": "gpuArchitectures", "driver_floor": "driverFloor"}
_READ = {written: name for name, written in _WRITTEN.items()}
_OWN = tuple(f.name for f in dataclasses.fields(Claims) if f.name != "facts")
_RAW = {kind.raw: kind.name for kind in VERSIONED if kind.raw}
_INSIDE = ("wheel", "build", "gpu_architectures", "ptx", "mps", *_RAW)
# Written only where they have a value: files from before there was such a kind stay as they are. CUDA's was the first.
_LATER = frozenset({*_RAW, *(kind.name for kind in VERSIONED if kind is not CUDA)})
_LISTS = frozenset({"built", "never", "gpu_architectures", "ptx"})
_OPTIONAL = frozenset(
    {"torchvision", "torchaudio", "cudnn", "nccl", "glibc", "macos", *(kind.name for kind in VERSIONED), *_INSIDE}
)


def _by_kind(versions: Mapping[str, str]) -> dict[str, str | None]:
    return {kind.name: versions.get(kind.name) for kind in VERSIONED}


def _typed(name: str, value: Any) -> Any:
    if value is None and name in _OPTIONAL:
        return None
    if name in _LISTS and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if name not in _LISTS and isinstance(value, bool if name == "mps" else str):
        return value
    raise TypeError(f"{_WRITTEN.get(name, name)}: {value!r}")


def _facts(inside: Mapping[str, Any], versions: Mapping[str, str]) -> WheelFacts | None:
    missing = [name for name in _INSIDE if inside[name] is None and name not in _LATER]
    if len(missing) == len(_INSIDE) - len(_LATER & {*_INSIDE}):
        return None
    if missing:
        raise TypeError(f"{', '.join(missing)} without a value")
    return WheelFacts(
        wheel=inside["wheel"],
        torch=inside["build"],
        said={name: text for name, text in versions.items() if name not in _RAW.values()}
        | {name: inside[raw] for raw, name in _RAW.items() if inside[raw]},
        gpu_architectures=inside["gpu_architectures"],
        ptx=inside["ptx"],
        mps=inside["mps"],
    )


# labels


def label_values(claims: Claims) -> dict[str, str]:
    """The claims of one image by name, without what is not claimed."""
    values = {
        "accelerator": claims.accelerator,
        "torch": public_version(claims.torch),
        "python": claims.python,
        "torchvision": claims.torchvision,
        "torchaudio": claims.torchaudio,
        **claims.versions,
        "driver-floor": claims.driver_floor,
        "cudnn": claims.cudnn,
        "nccl": claims.nccl,
        "glibc": claims.glibc,
        "devices.built": " ".join(claims.built),
        "devices.never": " ".join(claims.never),
        "gpu-architectures": " ".join(claims.gpu_architectures or ()),
        "ptx": " ".join(claims.ptx or ()),
    }
    return {key: value for key, value in values.items() if value}


def claim_labels(claims: Sequence[Claims]) -> dict[str, str]:
    """Labels for a Dockerfile that the architectures share: `dev.buildctl.KEY` where they agree, else with `.ARCH`."""
    each = {c.arch: label_values(c) for c in claims}
    labels: dict[str, str] = {}
    for key in sorted({key for values in each.values() for key in values}):
        values = {arch: found[key] for arch, found in each.items() if key in found}
        if len(values) == len(each) and len(set(values.values())) == 1:
            labels[LABEL + key] = next(iter(values.values()))
        else:
            labels |= {f"{LABEL}{key}.{arch}": value for arch, value in values.items()}
    return labels


def read_labels(labels: Mapping[str, str], arch: str) -> dict[str, str]:
    """The inverse for one architecture: claims by name. The labels of other architectures are left out."""
    own = {key.removeprefix(LABEL): value for key, value in labels.items() if key.startswith(LABEL)}
    plain = {key: value for key, value in own.items() if key.rpartition(".")[2] not in ARCHES}
    return plain | {key.removesuffix(f".{arch}"): value for key, value in own.items() if key.endswith(f".{arch}")}


def claims_from_labels(labels: Mapping[str, str], arch: str, *, name: str = "", platform: str = "") -> Claims | None:
    """What our image claims in its labels; None if they do not mention torch."""
    said = read_labels(labels, arch)
    if "torch" not in said:
        return None
    lists = ("gpu-architectures", "ptx", "devices.built", "devices.never")
    words = {key: tuple(said.get(key, "").split()) for key in lists}
    versions = {kind.name: said[kind.name] for kind in VERSIONED if said.get(kind.name)}
    compiled = words["gpu-architectures"] or words["ptx"]
    facts = WheelFacts(
        wheel="",
        torch=said["torch"],
        said=versions,
        gpu_architectures=words["gpu-architectures"],
        ptx=words["ptx"],
        mps=False,
    )
    return Claims(
        name=name,
        platform=platform,
        arch=arch,
        torch=said["torch"],
        python=said.get("python", ""),
        accelerator=said.get("accelerator", ""),
        torchvision=said.get("torchvision"),
        torchaudio=said.get("torchaudio"),
        versions=versions,
        cudnn=said.get("cudnn"),
        nccl=said.get("nccl"),
        glibc=said.get("glibc"),
        built=words["devices.built"],
        never=words["devices.never"],
        facts=facts if compiled else None,
    )


_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


def runs_on(architectures: Iterable[str], capability: tuple[int, int]) -> bool:
    """Whether one of the compiled `architectures` (sm_.., compute_..) runs on a GPU of that compute capability.

    Machine code runs within its major version from its minor up, PTX on everything newer; the suffix `a` is for exactly
    one capability, `f` for its family. CUDA C++ Programming Guide, section Compute Capabilities.
    """
    for found in filter(None, map(_ARCHITECTURE.fullmatch, architectures)):
        compiled, kind, suffix = (int(found[2]), int(found[3])), found[1], found[4]
        if compiled == capability and kind == "sm":
            return True
        if kind == "sm" and suffix != "a" and compiled[0] == capability[0] and compiled[1] <= capability[1]:
            return True
        if kind == "compute" and not suffix and compiled <= capability:
            return True
    return False
