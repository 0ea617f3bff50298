"""What each kind of accelerator means: the one table that matrix, locks, claims, Dockerfiles, tags, probes, runtimes
and `check` read. The locked torch decides an image's kind, never the accelerator's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFiles:
    """What a container needs of the host's /dev: every file of `needed`, and a render node in /dev/dri of a GPU by
    `vendor` (a PCI id, as in /sys/class/drm/*/device/vendor).
    """

    maker: str
    vendor: str
    needed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorKind:
    """How images of one kind of accelerator behave. Two are equal when their names are.

    `name` is also the name of the claim that holds the version. In texts, {version} is MAJOR.MINOR of what torch is
    built for, {major} the first part of it, {accelerator} the accelerator's own name.

    - `title`: what the image is built for, for people; `variant`: its part of a tag
    - `names`: accelerator names that claim this kind; `key`: whether matrix.yaml may claim a version under its name
    - `attribute`: of torch.version, which holds the version; `raw`: the key in a file of claims, not `name`, that keeps
      this text; None if the claim itself does
    - `backend`: torch's word for what is compiled in; `never`: backends that must not be; `device`: what torch calls
      the GPUs it sees (ROCm builds call them cuda)
    - `local`: torch's local version, with the version in a group; `runtime`: the distribution whose version tells what
      torch is built for; `vendor`: distributions of its libraries, which only such images hold
    - `environment`: variables of the images; `marks`: variables by which foreign images are recognised
    - `files`: device files that a runtime passes; None where the vendor's container toolkit does that, or nothing
    - `driver_floors`: lowest driver by major version; None if unknown
    - `own_libraries`: the images hold the vendor's libraries, cuDNN and NCCL with claims; `bundled`: torch's entry
      points to those two answer, be it for libraries inside torch, about which nothing is claimed
    - `architectures`: what kernels are compiled for is read from torch's wheel, and claimed
    - `major_digits`: of a version that is written without dots
    """

    name: str
    title: str = field(compare=False)
    variant: str = field(compare=False)
    label: str = field(compare=False)
    names: re.Pattern[str] = field(compare=False)
    attribute: str | None = field(default=None, compare=False)
    raw: str | None = field(default=None, compare=False)
    key: bool = field(default=False, compare=False)
    backend: str | None = field(default=None, compare=False)
    never: tuple[str, ...] = field(default=(), compare=False)
    device: str | None = field(default=None, compare=False)
    local: re.Pattern[str] | None = field(default=None, compare=False)
    runtime: re.Pattern[str] | None = field(default=None, compare=False)
    vendor: re.Pattern[str] | None = field(default=None, compare=False)
    environment: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    marks: tuple[str, ...] = field(default=(), compare=False)
    files: DeviceFiles | None = field(default=None, compare=False)
    driver_floors: Mapping[int, str] | None = field(default=None, compare=False)
    own_libraries: bool = field(default=False, compare=False)
    bundled: bool = field(default=False, compare=False)
    architectures: bool = field(default=False, compare=False)
    native: bool = field(default=False, compare=False)
    major_digits: int = field(default=1, compare=False)

    @property
    def gpu(self) -> bool:
        """Whether an image of this kind is built for a GPU that a container can see."""
        return self.device is not None and not self.native

    @property
    def build(self) -> str:
        """`a CUDA build`, `an XPU build`"""
        return f"{'an' if self.label[0] in 'AIX' else 'a'} {self.label} build"

    def text(self, template: str, version: str | None, accelerator: str = "") -> str:
        major = (version or "").partition(".")[0]
        return template.format(version=version or "", major=major, accelerator=accelerator).strip()

    def titled(self, version: str | None) -> str:
        return self.text(self.title, version)

    def variables(self, version: str | None) -> dict[str, str]:
        return {name: self.text(value, version) for name, value in self.environment}

    def driver_floor(self, version: str | None) -> str | None:
        if version is None or self.driver_floors is None:
            return None
        return self.driver_floors.get(int(version.partition(".")[0]))


CPU = AcceleratorKind(
    name="cpu",
    title="CPU only",
    variant="{accelerator}",
    label="CPU",
    names=re.compile(r"cpu(?![a-z])"),
    never=("cuda", "mps"),
    local=re.compile("cpu.*"),
)
CUDA = AcceleratorKind(
    name="cuda",
    title="CUDA {version}",
    variant="cuda{version}",
    label="CUDA",
    names=re.compile(r"cu(?=\d)|cuda"),
    attribute="cuda",
    key=True,
    backend="cuda",
    never=("mps",),
    device="cuda",
    local=re.compile(r"cu(\d{2,3})(?!\d).*"),
    # up to CUDA 12 the distribution has the major in its name
    runtime=re.compile(r"nvidia-cuda-runtime(-cu\d+)?"),
    # not nvidia-ml-py, which asks the driver
    vendor=re.compile(
        r"nvidia-.+-cu\d+|nvidia-(cu(da|blas|dnn|fft|file|rand|solver|sparse|sparselt)|nccl|np|nvjitlink|nvjpeg|nvshmem|nvtx|nvvm)"
        r"(-.+)?"
    ),
    environment=(
        ("NVIDIA_VISIBLE_DEVICES", "all"),
        ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
        # the floor of the CUDA major, not the exact minor: do not refuse a host that would work
        ("NVIDIA_REQUIRE_CUDA", "cuda>={major}.0"),
    ),
    marks=("NVIDIA_VISIBLE_DEVICES",),
    # NVIDIA's minor-version compatibility: any 12.x runs on a driver of at least 525, any 13.x on 580
    # (CUDA compatibility guide, table "minor version compatibility"). The floor is the major's, not the minor's.
    driver_floors={11: "450.80.02", 12: "525", 13: "580"},
    own_libraries=True,
    bundled=True,
    architectures=True,
    major_digits=2,
)
ROCM = AcceleratorKind(
    name="rocm",
    title="ROCm {version}",
    variant="rocm{version}",
    label="ROCm",
    names=re.compile(r"rocm"),
    attribute="hip",
    raw="hip",
    key=True,
    backend="rocm",
    never=("mps", "xpu"),
    device="cuda",
    local=re.compile(r"rocm(\d+(?:\.\d+)*).*"),
    # ROCm's user space is inside torch's wheel; the driver is the kernel's amdgpu
    marks=("ROCM_PATH", "HIP_PATH", "PYTORCH_ROCM_ARCH"),
    files=DeviceFiles(maker="AMD", vendor="0x1002", needed=("/dev/kfd",)),
    bundled=True,
)
XPU = AcceleratorKind(
    name="xpu",
    title="XPU {version} (Intel GPUs)",
    variant="xpu",
    label="XPU",
    names=re.compile(r"xpu"),
    attribute="xpu",
    raw="sycl",
    backend="xpu",
    never=("cuda", "rocm", "mps"),
    device="xpu",
    local=re.compile(r"xpu.*"),
    runtime=re.compile(r"intel-sycl-rt"),
    files=DeviceFiles(maker="Intel", vendor="0x8086"),
)
MPS = AcceleratorKind(
    name="mps",
    title="MPS",
    variant="mps",
    label="MPS",
    names=re.compile(r"mps"),
    backend="mps",
    never=("cuda",),
    device="mps",
    native=True,
)

# In the order of reading an image's claims: the first kind with a version is the image's.
KINDS: Mapping[str, AcceleratorKind] = {kind.name: kind for kind in (CUDA, ROCM, XPU, MPS, CPU)}
# Kinds with a claim of their own name that holds the version of what torch is built for.
VERSIONED = tuple(kind for kind in KINDS.values() if kind.attribute)
# `CUDA, ROCm or XPU`
VENDORS = " or ".join((", ".join(kind.label for kind in VERSIONED[:-1]), VERSIONED[-1].label))
# Keys of an accelerator in matrix.yaml that claim a version of that kind.
VERSION_KEYS = tuple(kind.name for kind in VERSIONED if kind.key)


def versions_in(said: Mapping[str, str | None]) -> dict[str, str]:
    """From what torch/version.py assigns: the text by kind, of which there is at most one."""
    return {kind.name: text for kind in VERSIONED if kind.attribute and (text := said.get(kind.attribute))}


def public_version(version: str) -> str:
    """Without a local version (`+cu124`), which cannot stand in a tag and is compared with what leaves it out."""
    return version.partition("+")[0]


def short_version(text: str) -> str:
    """MAJOR.MINOR of `12.6`, of HIP's `6.2.41133-dd7f95766`, of Intel's compiler, which torch gives as `20250101`."""
    if match := re.fullmatch(r"(\d{4})(\d{2})\d{2}", text):
        return f"{match[1]}.{int(match[2])}"
    return ".".join(text.split(".")[:2])


def kind_of(versions: Mapping[str, str], *, native: bool = False) -> AcceleratorKind:
    """By the kind's name in `versions`; CPU if torch is not built for a GPU."""
    found = next((kind for kind in VERSIONED if versions.get(kind.name)), None)
    return found or (MPS if native else CPU)


def kind_in_image(env: Sequence[tuple[str, str]], labels: Mapping[str, str], prefix: str) -> AcceleratorKind:
    """Of an image's configuration: by our labels (`prefix` and the kind's name), else by foreign variables."""
    for kind in VERSIONED:
        if any(key == prefix + kind.name or key.startswith(f"{prefix}{kind.name}.") for key in labels):
            return kind
    names = {name for name, _ in env}
    return next((kind for kind in VERSIONED if names & set(kind.marks)), CPU)


# ------------------------------------------------------------------------------------------------ what a name claims

_VERSION = re.compile(r"-?(\d+(?:\.\d+)*)(?![0-9a-z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class NameClaim:
    """What an accelerator's name claims: a kind, and versions that it can be read as (`cu126`: 12.6; `rocm624`: 6.2.4
    or 6.24); no version if it has none.
    """

    kind: AcceleratorKind
    versions: tuple[str, ...] = ()


def claim_in_name(name: str) -> NameClaim | None:
    """None for a name that claims nothing. After a hyphen only a kind with its version is a claim: `team-cu126`."""
    for start in (0, *(hyphen.end() for hyphen in re.finditer("-", name))):
        for kind in KINDS.values():
            if match := kind.names.match(name, start):
                version = _VERSION.match(name, match.end()) if kind in VERSIONED else None
                if version or not start:
                    return NameClaim(kind=kind, versions=readings(kind, version[1]) if version else ())
    return None


def readings(kind: AcceleratorKind, text: str) -> tuple[str, ...]:
    """`126` -> 12.6 and `62` -> 6.2: how PyTorch's indexes write versions without a dot."""
    if "." in text:
        return (text,)
    head, rest = text[: kind.major_digits], text[kind.major_digits :]
    match len(rest):
        case 0:
            return (head,)
        case 1:
            return (f"{head}.{rest}",)
        case 2 if kind.major_digits == 1:
            return (f"{head}.{rest[0]}.{rest[1]}", f"{head}.{rest}")
        case _:
            return (text,)


def agrees(claim: str, version: str) -> bool:
    """As far as both go: `12` agrees with 12.6, and so does `12.6.3`, since wheels only tell MAJOR.MINOR."""
    pairs = zip(claim.split("."), version.split("."), strict=False)
    return all(left == right for left, right in pairs)
