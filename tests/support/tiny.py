"""A project whose image has everything that a real one has and takes seconds to build: cpu-2.6 for arm64 from the real
packages of a Python, and wheels of a few megabytes under the names of torch and others.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from packaging.utils import parse_wheel_filename

from buildctl.artifacts.store import Store
from buildctl.dockerfile.files import render_images
from buildctl.lock.claims import claims_of, claims_path, format_claims
from buildctl.lock.debian import inputs_of as debian_inputs
from buildctl.lock.debian import read_base_lock, write_base_lock
from buildctl.lock.locked import load_locked
from buildctl.lock.wheels import LockedWheel, WheelLock, inputs_of, write_wheel_lock
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import DebianBase, Flavour
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from tests.conftest import ROOT
from tests.support.servers import wheel

NAME, CELL = "cpu-2.6", "cpu-2.6-arm64"
MATRIX = """\
python: "3.13"
versions: {"2.6": 2.6.0}
packages: [numpy, sympy]
flavours: [runtime]
bases: {debian13: {debian: trixie, packages: [apt, python3.13, tzdata]}}
accelerators: {cpu: {arch: [arm64], base: debian13, devices: {never: [cuda, mps]}}}
"""
# what a base is configured from, a Python that runs on the machine that builds, and what `install-wheels` calls
PACKAGES = {
    *("apt", "base-files", "base-passwd", "bash", "debianutils", "libpam-runtime", "mawk", "tzdata"),
    *("libc6", "libexpat1", "libgcc-s1", "zlib1g"),
    *("libpython3.13-minimal", "libpython3.13-stdlib", "python3.13", "python3.13-minimal"),
    *("coreutils", "dash", "libacl1", "libattr1", "libpcre2-8-0", "libselinux1", "python3-minimal"),
}
WHEELS = {  # file name -> bytes of noise
    "numpy-2.2.6-cp313-cp313-manylinux_2_17_aarch64.whl": 200_000,
    "sympy-1.13.1-py3-none-any.whl": 100_000,
    "torch-2.6.0-cp313-cp313-manylinux_2_28_aarch64.whl": 8_000_000,
}


def tiny_wheels(*, most: int = 1 << 30) -> dict[str, bytes]:
    """By file name, all small enough to share one layer, each with at most `most` bytes of noise."""
    return {name: _wheel(name, min(size, most)) for name, size in WHEELS.items()}


def tiny(root: Path, *stores: Path, wheels: Mapping[str, bytes] | None = None) -> Path:
    """The project; its wheels go into `stores`, its Debian packages are this project's own."""
    root.mkdir(parents=True)
    (root / "matrix.yaml").write_text(MATRIX)
    (root / "templates").symlink_to(ROOT / "templates")
    shutil.copytree(ROOT / "images" / "common", root / "images" / "common")
    project = Project.find(root)
    lock_base(project)
    _lock_wheels(project, tiny_wheels() if wheels is None else wheels, stores)
    for _ in render_images(project, load_locked(project, project.matrix.cells)):
        pass
    return root


def lock_base(project: Project) -> None:
    """Locks of the project's only Debian base, which has the default base's name and suite: a few real packages."""
    (base,) = (base for base in project.matrix.bases if isinstance(base, DebianBase))
    for arch in ARCHES:
        name = f"bases/{base.name}/runtime.{arch}.packages"
        real = read_base_lock(ROOT / "images" / name)
        packages = tuple(p for p in real.packages if p.name in PACKAGES)
        inputs = debian_inputs(base, Flavour.RUNTIME, arch)
        write_base_lock(project.images / name, replace(real, inputs=inputs, packages=packages))


def _lock_wheels(project: Project, wheels: Mapping[str, bytes], stores: tuple[Path, ...]) -> None:
    (cell,) = project.matrix.cells
    locked = []
    for filename, data in wheels.items():
        digest = Digest.of(data)
        for store in stores:
            Store(store).artifact_path(digest).write_bytes(data)
        name, version, _, _ = parse_wheel_filename(filename)
        locked.append(LockedWheel(name=name, version=str(version), filename=filename, size=len(data), digest=digest))
    lock = WheelLock(
        name=cell.name, platform=cell.platform, python=cell.python, inputs=inputs_of(cell), wheels=tuple(locked)
    )
    write_wheel_lock(project.wheel_lock(cell.name, cell.arch), lock)
    claims_path(project.images, cell.name, cell.arch).write_bytes(format_claims(claims_of(cell, lock)))


def _wheel(filename: str, size: int) -> bytes:
    """Noise, which no compressor makes smaller, and some sources to compile; the same bytes in every run."""
    name = filename.partition("-")[0]
    noise = random.Random(filename).randbytes(size).decode("latin-1")
    sources = {f"{name}/m{n}.py": f"def f{n}(x):\n    return x + {n}\n" for n in range(20)}
    return wheel(filename, more={f"{name}/noise": noise, **sources})
