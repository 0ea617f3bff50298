"""What an image says of itself: derived from its locked wheels without importing torch, kept in a file that a person
reviews (images/NAME/claims.ARCH.json), written as labels, and compared with what the running image reports.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from buildctl.errors import LockError

# `buildctl check` reads claims and answers in a moment: what resolves and parses locks is not loaded for it
if TYPE_CHECKING:
    from buildctl.lock import WheelLock
    from buildctl.matrix import Cell

SCHEMA = 1
LABEL = "dev.buildctl."

# NVIDIA's minor-version compatibility: any 12.x runs on a driver of at least 525, any 13.x on 580
# (CUDA compatibility guide, table "minor version compatibility"). The floor is the major's, not the minor's.
DRIVER_FLOORS: Mapping[int, str] = {12: "525", 13: "580"}

# PEP 600: the names that came before manylinux_X_Y
_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_GLIBC = re.compile(r"manylinux_(\d+)_(\d+)_\w+|(manylinux\d+)_\w+")
_MACOS = re.compile(r"macosx_(\d+)_(\d+)_\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelFacts:
    """Read from torch's wheel, whose SHA-256 is `wheel`.

    `gpu_architectures` (sm_..) and `ptx` (compute_..) are what its kernels are compiled for; `mps` is whether its
    libraries link to Apple's Metal.
    """

    wheel: str
    torch: str
    cuda: str | None
    gpu_architectures: tuple[str, ...]
    ptx: tuple[str, ...]
    mps: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Versions as in the distributions' metadata; `cuda` is MAJOR.MINOR, None where torch has no CUDA in it.

    `glibc` and `macos` are the lowest that all wheels allow. `built` and `never` are torch's backends that must and
    must not be compiled in, which is also which devices may and may not appear. `lock` is a digest of the locked
    wheels. The fields of `facts` are None while nobody has looked into the wheel.
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
    cuda: str | None = None
    cudnn: str | None = None
    nccl: str | None = None
    glibc: str | None = None
    macos: str | None = None
    built: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    facts: WheelFacts | None = None

    @property
    def driver_floor(self) -> str | None:
        return DRIVER_FLOORS.get(Version(self.cuda).major) if self.cuda else None

    @property
    def gpu_architectures(self) -> tuple[str, ...] | None:
        return self.facts.gpu_architectures if self.facts else None

    @property
    def ptx(self) -> tuple[str, ...] | None:
        return self.facts.ptx if self.facts else None

    @property
    def architectures(self) -> tuple[str, ...] | None:
        """Both kinds of code as torch lists them, None while nobody has looked."""
        return (*self.facts.gpu_architectures, *self.facts.ptx) if self.facts else None

    def to_json(self) -> dict[str, Any]:
        """Flat, in a fixed order; `build` is what torch calls itself, `driver_floor` follows from `cuda`."""
        value = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "facts"}
        inside = {
            "wheel": self.facts.wheel if self.facts else None,
            "build": self.facts.torch if self.facts else None,
            "gpu_architectures": self.gpu_architectures,
            "ptx": self.ptx,
            "mps": self.facts.mps if self.facts else None,
        }
        plain = {**value, "driver_floor": self.driver_floor, **inside}
        return {"schema": SCHEMA} | {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}


def claims_of(cell: Cell, lock: WheelLock, facts: WheelFacts | None = None) -> Claims:
    """Raises LockError when the locked wheels cannot be what the cell's accelerator declares."""
    versions = {wheel.name: wheel.version for wheel in lock.wheels}
    if "torch" not in versions:
        raise LockError(f"{cell.id}: the lock holds no torch", hint=f"buildctl lock {cell.name}")
    cuda = _cuda_version(versions)
    _refuse_another_build(cell, versions, cuda)
    files = [wheel.filename for wheel in lock.wheels]
    claims = Claims(
        name=cell.name,
        platform=cell.platform,
        lock=lock_digest(lock),
        torch=versions["torch"],
        torchvision=versions.get("torchvision"),
        torchaudio=versions.get("torchaudio"),
        cuda=cuda,
        cudnn=nvidia_version(versions, "nvidia-cudnn"),
        nccl=nvidia_version(versions, "nvidia-nccl"),
        glibc=None if cell.native else glibc_floor(files),
        macos=macos_floor(files) if cell.native else None,
        python=cell.python,
        arch=cell.arch,
        accelerator=cell.accelerator.name,
        built=cell.accelerator.built,
        never=cell.accelerator.never,
        facts=facts,
    )
    if facts is not None:
        check_facts(claims, facts)
    return claims


def lock_digest(lock: WheelLock) -> str:
    from buildctl.oci.digest import Digest  # noqa: PLC0415 - see TYPE_CHECKING above

    return str(Digest.of("\n".join(str(wheel.digest) for wheel in lock.wheels).encode()))


def _refuse_another_build(cell: Cell, versions: Mapping[str, str], cuda: str | None) -> None:
    if cell.accelerator.name == "cuda" and cuda is None:
        raise LockError(
            f"{cell.id}: torch {versions['torch']} is locked without a CUDA runtime: this is a CPU build",
            hint=f"this index has no CUDA build of torch for {cell.platform}; exclude the cell or set another index",
        )
    if cell.accelerator.name == "cpu" and (nvidia := sorted(n for n in versions if n.startswith("nvidia-"))):
        raise LockError(
            f"{cell.id}: a cpu image would hold {', '.join(nvidia[:3])}: this torch is a CUDA build",
            hint=f"this index has no CPU build of torch for {cell.platform}; exclude the cell or set another index",
        )
    if cuda is not None and Version(cuda).major not in DRIVER_FLOORS:
        raise LockError(f"{cell.id}: the minimum driver of CUDA {cuda} is not known", hint="add it to DRIVER_FLOORS")


def check_facts(claims: Claims, facts: WheelFacts) -> None:
    """What is in torch's wheel against what the lock says: two independent sources. Raises LockError."""
    what = f"{claims.name}-{claims.arch}: torch's wheel"
    if Version(facts.torch).public != Version(claims.torch).public:
        raise LockError(f"{what} is torch {facts.torch} inside, the lock says {claims.torch}")
    if facts.cuda != claims.cuda:
        inside = f"built for CUDA {facts.cuda}" if facts.cuda else "built without CUDA"
        raise LockError(f"{what} is {inside}, the lock holds a runtime of CUDA {claims.cuda or '(none)'}")
    if facts.cuda and not facts.gpu_architectures:
        raise LockError(f"{what} is a CUDA build that names no GPU architecture")
    if facts.mps != ("mps" in claims.built) and ("mps" in claims.built or "mps" in claims.never):
        inside = "links to Metal" if facts.mps else "does not link to Metal"
        raise LockError(f"{what} {inside}, the matrix says {'built' if 'mps' in claims.built else 'never'}: mps")


def _cuda_version(versions: Mapping[str, str]) -> str | None:
    """The CUDA runtime's distribution is `nvidia-cuda-runtime-cu12` up to CUDA 12, `nvidia-cuda-runtime` from 13."""
    found = nvidia_version(versions, "nvidia-cuda-runtime")
    return ".".join(map(str, Version(found).release[:2])) if found else None


def nvidia_version(versions: Mapping[str, str], stem: str) -> str | None:
    return next((v for n, v in sorted(versions.items()) if re.fullmatch(rf"{stem}(-cu\d+)?", n)), None)


def glibc_floor(filenames: Iterable[str]) -> str | None:
    """The lowest glibc that every wheel's tags allow; a wheel with several tags asks for the lowest of them."""
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
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise LockError(f"{path} does not exist", hint="run `buildctl claims`") from error
    except (OSError, ValueError) as error:
        raise LockError(f"{path} cannot be read: {error}", hint="run `buildctl claims`") from error
    return parse_claims(value, str(path))


def parse_claims(value: Any, source: str) -> Claims:
    """Every field, of the right type, and nothing else. Raises LockError."""
    try:
        if value["schema"] != SCHEMA:
            raise LockError(f"{source}: schema {value['schema']!r}, not {SCHEMA}", hint="run `buildctl claims`")
        own = [f.name for f in dataclasses.fields(Claims) if f.name != "facts"]
        if wrong := sorted({"schema", "driver_floor", *_INSIDE, *own} ^ value.keys()):
            raise TypeError(f"missing or unknown: {', '.join(wrong)}")
        fields: dict[str, Any] = {name: _typed(name, value[name]) for name in (*own, *_INSIDE)}
        inside = {name: fields.pop(name) for name in _INSIDE}
        claims = Claims(**fields, facts=_facts(inside, fields["cuda"]))
        if value["driver_floor"] != claims.driver_floor:
            raise LockError(
                f"{source}: driver_floor is {value['driver_floor']}, CUDA {claims.cuda} asks for {claims.driver_floor}",
                hint="run `buildctl claims`",
            )
    except (KeyError, TypeError, AttributeError, InvalidVersion) as error:
        raise LockError(f"{source}: malformed ({error})", hint="run `buildctl claims`") from error
    return claims


_INSIDE = ("wheel", "build", "gpu_architectures", "ptx", "mps")
_LISTS = frozenset({"built", "never", "gpu_architectures", "ptx"})
_OPTIONAL = frozenset({"torchvision", "torchaudio", "cuda", "cudnn", "nccl", "glibc", "macos", *_INSIDE})


def _typed(name: str, value: Any) -> Any:
    if value is None and name in _OPTIONAL:
        return None
    if name in _LISTS and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if name not in _LISTS and isinstance(value, bool if name == "mps" else str):
        return value
    raise TypeError(f"{name}: {value!r}")


def _facts(inside: Mapping[str, Any], cuda: str | None) -> WheelFacts | None:
    given = [name for name in _INSIDE if inside[name] is not None]
    if not given:
        return None
    if len(given) != len(_INSIDE):
        raise TypeError(f"{', '.join(n for n in _INSIDE if n not in given)} without a value")
    return WheelFacts(
        wheel=inside["wheel"],
        torch=inside["build"],
        cuda=cuda,
        gpu_architectures=inside["gpu_architectures"],
        ptx=inside["ptx"],
        mps=inside["mps"],
    )


# labels


def label_values(claims: Claims) -> dict[str, str]:
    """The claims of one image under their names, what is not claimed left out."""
    values = {
        "accelerator": claims.accelerator,
        "torch": claims.torch.partition("+")[0],
        "python": claims.python,
        "torchvision": claims.torchvision,
        "torchaudio": claims.torchaudio,
        "cuda": claims.cuda,
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
    arches = {"amd64", "arm64"}
    plain = {key: value for key, value in own.items() if key.rpartition(".")[2] not in arches}
    return plain | {key.removesuffix(f".{arch}"): value for key, value in own.items() if key.endswith(f".{arch}")}


def claims_from_labels(labels: Mapping[str, str], arch: str, *, name: str = "", platform: str = "") -> Claims | None:
    """What an image of ours claims, as far as its labels go; None when they say nothing of torch."""
    said = read_labels(labels, arch)
    if "torch" not in said:
        return None
    lists = ("gpu-architectures", "ptx", "devices.built", "devices.never")
    words = {key: tuple(said.get(key, "").split()) for key in lists}
    compiled = words["gpu-architectures"] or words["ptx"]
    facts = WheelFacts(
        wheel="",
        torch=said["torch"],
        cuda=said.get("cuda"),
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
        cuda=said.get("cuda"),
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

    Machine code runs within its major version from its minor on, PTX on everything newer; the suffix `a` is for exactly
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
