"""What a cell declares, from its lock and its claims, in the words that the probes ask in."""

from __future__ import annotations

from buildctl.claiming import kept_claims
from buildctl.claims import label_values
from buildctl.lock import WheelLock, read_wheel_lock
from buildctl.matrix import Cell
from buildctl.probes.expected import Expected
from buildctl.project import Project


def expected_of(project: Project, cell: Cell) -> Expected:
    lock: WheelLock = read_wheel_lock(project.wheel_lock(cell.name, cell.arch))
    claims = kept_claims(project, cell, lock)
    return Expected(
        torch=claims.torch,
        build=claims.facts.torch if claims.facts else None,
        torchvision=claims.torchvision,
        torchaudio=claims.torchaudio,
        python=claims.python,
        arch=claims.arch,
        accelerator=claims.accelerator,
        cuda=claims.cuda,
        built=claims.built,
        never=claims.never,
        flavour=str(cell.flavour),
        distributions={wheel.name: wheel.version for wheel in lock.wheels},
        gpu_architectures=claims.architectures,
        cudnn=claims.cudnn,
        nccl=claims.nccl,
        glibc=claims.glibc,
        labels=label_values(claims),
        system="Darwin" if cell.native else "Linux",
        native=cell.native,
        files={wheel.name: wheel.filename for wheel in lock.wheels},
        extras=cell.extras,
        apt=cell.apt,
    )
