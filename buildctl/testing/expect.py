"""What an image declares, in the terms of the probes: from claims alone, or with a cell's lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from buildctl.lock.claims import Claims, label_values
from buildctl.lock.locked import LockedCell
from buildctl.testing.probes.expected import Expected


def expected_by(claims: Claims, distributions: Mapping[str, str]) -> Expected:
    """What claims alone tell, wherever they come from."""
    return Expected(
        torch=claims.torch,
        torchvision=claims.torchvision,
        torchaudio=claims.torchaudio,
        python=claims.python,
        arch=claims.arch,
        accelerator=claims.accelerator,
        cuda=claims.cuda,
        rocm=claims.rocm,
        xpu=claims.xpu,
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
