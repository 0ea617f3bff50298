"""What a cell declares, in the terms of the probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from buildctl.lock.claims import Claims, label_values
from buildctl.lock.locked import LockedCell
from buildctl.matrix.accelerators import MPS, AcceleratorKind, kind_of
from buildctl.testing.outside import Outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """`torch`, `torchvision` and `torchaudio` are versions as locked, None for what must be absent.

    `python` is MAJOR.MINOR, `arch` Docker's word; `versions` as in Claims. `built` and `never`
    are backends that must and must not be compiled in: cuda, cudnn, rocm, mps, xpu, mkldnn, mkl, openmp, nccl, gloo.
    `distributions` maps every installed distribution's normalized name (PEP 503) to its version. `gpu_architectures`
    (sm_.., compute_..) is None if nothing is claimed, as are `build` (what torch calls itself), `cudnn`, `nccl`
    and `glibc` (lowest). `labels` are the claims in the image's labels, by name. `system` is what Python's `platform`
    calls it, and `native` says that this is an environment on the machine itself; with `environment` it is anybody's,
    not made from a lock, and what it claims was read from its files. `files` maps distributions to their locked wheels'
    names.
    `extras` are the matrix's, `apt` the image's own Debian packages, which may bring Debian's Python packages.
    `unclaimed` are findings about which a foreign image claims nothing, with the reason: they are NOT RUN. `outside`
    is what its layers hold, for an image whose answers are its own word.
    """

    torch: str
    torchvision: str | None = None
    torchaudio: str | None = None
    python: str
    arch: str
    accelerator: str
    versions: Mapping[str, str] = field(default_factory=dict)
    built: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    flavour: str = "runtime"
    distributions: Mapping[str, str] = field(default_factory=dict)
    gpu_architectures: tuple[str, ...] | None = None
    build: str | None = None
    cudnn: str | None = None
    nccl: str | None = None
    glibc: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    system: str = "Linux"
    native: bool = False
    environment: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    unclaimed: Mapping[str, str] = field(default_factory=dict)
    outside: Outside | None = None

    @property
    def kind(self) -> AcceleratorKind:
        # an environment in the matrix is for macOS; somebody else's is described by its files
        return kind_of(self.versions, native=MPS.backend in self.built or (self.native and not self.environment))

    @property
    def built_for(self) -> str | None:
        """MAJOR.MINOR of what torch is built for."""
        return self.versions.get(self.kind.name)


def expected_by(claims: Claims, distributions: Mapping[str, str]) -> Expected:
    """What claims alone tell, wherever they come from."""
    return Expected(
        torch=claims.torch,
        torchvision=claims.torchvision,
        torchaudio=claims.torchaudio,
        python=claims.python,
        arch=claims.arch,
        accelerator=claims.accelerator,
        versions=claims.versions,
        built=claims.built,
        distributions=distributions,
        gpu_architectures=claims.architectures,
        cudnn=claims.cudnn,
        nccl=claims.nccl,
        glibc=claims.glibc,
    )


def expected_of(locked: LockedCell) -> Expected:
    cell, lock, claims = locked.cell, locked.wheels, locked.claims
    return replace(
        expected_by(claims, {wheel.name: wheel.version for wheel in lock.wheels}),
        build=claims.facts.torch if claims.facts else None,
        never=claims.never,
        flavour=str(cell.flavour),
        labels=label_values(claims),
        system="Darwin" if cell.native else "Linux",
        native=cell.native,
        files={wheel.name: wheel.filename for wheel in lock.wheels},
        extras=cell.extras,
        apt=cell.apt,
    )
