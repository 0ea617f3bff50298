"""The versions that pip and uv in an image keep, as its tag claims: one constraints file for all architectures.

Without it `pip install -U torchvision` replaces the torch that the tag names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packaging.version import Version

from buildctl.lock.wheels import WheelLock
from buildctl.matrix.accelerators import public_version
from buildctl.matrix.arch import ARCHES

PLACE = "/usr/local/share/pytorch-constraints.txt"
KEPT = ("torch", "torchaudio", "torchvision", "triton")

# pip prints the requirement when it refuses, and neither the file's name nor its comments. No release is called 0+...,
# so the clause excludes nothing; it tells the reader of the error what to do.
HINT = "!=0+empty.PIP_CONSTRAINT.to.change.it"
_HEADER = """\
# Written by `buildctl render` from the lock. {name} is PyTorch {torch}, and pip and uv keep it so: PIP_CONSTRAINT and
# UV_CONSTRAINT name this file. To change one of these packages on purpose, empty the variable for that command:
#     PIP_CONSTRAINT= pip install ...
#     UV_CONSTRAINT= uv pip install ...
# (`!=0+...` excludes no release. pip prints these lines, and not this comment, when it refuses.)
"""


def constraints_environment() -> dict[str, str]:
    """Variables rather than /etc/pip.conf: emptying one switches the file off for one command, while pip ignores an
    empty variable where a configuration file sets the same option.
    """
    return {"PIP_CONSTRAINT": PLACE, "UV_CONSTRAINT": PLACE}


def render_constraints(name: str, locks: Mapping[str, WheelLock]) -> str:
    """`locks` are the wheel locks of an image name, by architecture."""
    torch = sorted({public_version(w.version) for lock in locks.values() if (w := lock.wheel("torch"))})
    lines = [line for package in KEPT for line in _lines(package, locks)]
    return _HEADER.format(name=name, torch=" and ".join(torch)) + "".join(f"{line}\n" for line in lines)


def _lines(package: str, locks: Mapping[str, WheelLock]) -> Iterator[str]:
    """One line where the architectures agree, else one with a marker for each that has the package."""
    versions = {arch: w.version for arch, lock in sorted(locks.items()) if (w := lock.wheel(package))}
    if len(versions) == len(locks) and len(set(versions.values())) == 1:
        yield f"{package}{HINT},{_exactly(next(iter(versions.values())))}"
    else:
        for arch, version in versions.items():
            yield f'{package}{HINT},{_exactly(version)} ; platform_machine == "{ARCHES[arch].machine}"'


def _exactly(version: str) -> str:
    """`==2.6.0` is also 2.6.0+cu126, another CUDA than the tag's; `===` compares the text (PEP 440)."""
    return f"=={version}" if Version(version).local else f"==={version}"
