"""Projects to work in: copies of this one, and a small one (a matrix, locks, claims, Dockerfiles, images of a few
kilobytes and reports about them) that can be published.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.dockerfile.files import render_images
from buildctl.lock.claims import claims_of, claims_path, format_claims
from buildctl.lock.debian import inputs_of as debian_inputs
from buildctl.lock.debian import write_base_lock
from buildctl.lock.inside.base_image import ImageLock
from buildctl.lock.locked import LockedCell, load_locked, load_matrix_images
from buildctl.lock.wheels import LockedWheel, WheelLock, inputs_of, write_wheel_lock
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Cell, DebianBase, Flavour, ImageBase
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, Layer
from buildctl.oci.layout import Layout
from buildctl.testing.report import Finding, Report, Status
from tests.conftest import ROOT
from tests.support.images import Blobs, config_of, file, tar

MATRIX = """\
python: "3.13"
versions: {{"2.6": 2.6.0{more}}}
packages: [numpy]
flavours: [runtime]
bases:
  debian13: {{debian: trixie, packages: [python3]}}
accelerators:
  cuda: {{arch: [amd64{cuda_arm}], base: debian13, devices: {{built: [cuda]}}}}
  cpu: {{arch: [arm64], base: debian13, devices: {{never: [cuda]}}}}
"""


PYTHON = ("libpython{}-minimal", "libpython{}-stdlib", "python{}", "python{}-minimal")  # its packages in Debian


@dataclass(frozen=True, slots=True)
class Small:
    """`project` with images of cuda-2.6 on amd64 and cpu-2.6 on arm64; `shared` is a layer of all."""

    project: Project
    blobs: Blobs
    shared: Layer

    @property
    def layout(self) -> Layout:
        return Layout(self.project.layout)

    @property
    def pinned(self) -> dict[str, LockedCell]:
        return load_matrix_images(self.project)

    def cell(self, cell_id: str) -> Cell:
        return next(c for c in self.project.matrix.cells if c.id == cell_id)

    def cells(self, *ids: str) -> list[Cell]:
        return [c for c in self.project.matrix.cells if not ids or c.id in ids]

    def images(self, *ids: str) -> dict[str, Descriptor]:
        """What is built, by cell id."""
        there = set(self.layout.names())
        return {c.id: self.layout.resolve(c.id) for c in self.cells(*ids) if c.id in there}

    def build(self, cell_id: str, content: bytes = b"", *, labels: Mapping[str, str] | None = None) -> Descriptor:
        """An image of the shared layer and one with `content`; fresh random bytes, which no registry has seen."""
        cell = self.cell(cell_id)
        layers = [self.shared, self.blobs.add(tar(file("own", content or os.urandom(50_000))))]
        config = replace(config_of(layers, arch=cell.arch), labels=labels or {"dev.buildctl.torch": str(cell.torch)})
        return self.layout.put_image(name=cell.id, config=config, layers=layers, blob=self.blobs.path)

    def report(self, cell_id: str, *, digest: Digest | None = None, **statuses: Status) -> Report:
        """Written where `buildctl test` writes it: `torch` PASSED and what `statuses` say."""
        cell = self.cell(cell_id)
        found = {"torch": Status.PASSED, **statuses}
        report = Report(
            cell=cell.id,
            digest=digest or self.layout.resolve(cell.id).digest,
            arch=cell.arch,
            runtime="test",
            emulated=None,
            gpus=False,
            findings=tuple(Finding(name=n, status=s, detail="", seconds=0.5) for n, s in found.items()),
        )
        path = self.project.report(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.to_json()))
        return report


def copy_project(target: Path) -> Path:
    """What render and build read of this project, in a folder that is made."""
    target.mkdir(parents=True)
    for name in ("images", "templates"):
        shutil.copytree(ROOT / name, target / name)
    for name in ("matrix.yaml", "docker-bake.json"):
        shutil.copy(ROOT / name, target / name)
    return target


def small(root: Path, *, cuda_on_arm: bool = False, shared: bytes = b"", also: str = "") -> Small:
    """`also` is a second version such as 2.10; nothing of it is built."""
    shutil.copytree(_committed(cuda_on_arm, also), root, symlinks=True, dirs_exist_ok=True)
    project = Project.find(root)
    blobs = Blobs(root / "blobs")
    out = Small(project, blobs, blobs.add(tar(file("shared", shared or os.urandom(200_000)))))
    for cell in project.matrix.cells:
        if cell.key == "2.6":
            out.build(cell.id)
            out.report(cell.id)
    return out


@functools.cache
def _committed(cuda_on_arm: bool, also: str) -> Path:
    """What a repository has of it, made once a process."""
    folder = tempfile.mkdtemp(prefix="buildctl-small-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root = Path(folder)
    more = f', "{also}": {also}.0' if also else ""
    (root / "matrix.yaml").write_text(MATRIX.format(cuda_arm=", arm64" if cuda_on_arm else "", more=more))
    (root / "templates").symlink_to(ROOT / "templates")
    project = Project.find(root)
    for cell in project.matrix.cells:
        lock = wheel_lock(cell)
        write_wheel_lock(project.wheel_lock(cell.name, cell.arch), lock)
        claims_path(project.images, cell.name, cell.arch).write_bytes(format_claims(claims_of(cell, lock)))
    for arch in ARCHES:
        base = base_lock(project, arch)
        write_base_lock(project.images / "bases" / base.base / f"{base.flavour}.{arch}.packages", base)
    for _ in render_images(project, load_locked(project, project.matrix.cells)):
        pass
    return root


def base_lock(project: Project, arch: str, *, python: str = "3.13", name: str = "debian13") -> BaseLock:
    """Of the runtime flavour, with the packages of a Python; nothing of it can be fetched."""
    base = next(b for b in project.matrix.bases if b.name == name)
    assert isinstance(base, DebianBase)
    names = ("libc6", *(stem.format(python) for stem in PYTHON))
    return BaseLock(
        base=base.name,
        flavour=str(Flavour.RUNTIME),
        arch=arch,
        suite=base.suite,
        inputs=debian_inputs(base, Flavour.RUNTIME, arch),
        packages=tuple(_package(n, "2.41-12" if n == "libc6" else f"{python}.5-2", arch) for n in sorted(names)),
    )


def image_lock(project: Project, arch: str, *, python: str = "3.13", name: str = "slim", **more: str) -> ImageLock:
    """Of the runtime flavour of a base that is an image."""
    base = next(b for b in project.matrix.bases if b.name == name)
    assert isinstance(base, ImageBase)
    values = {
        "digest": str(Digest.of(b"index")),
        "manifest": str(Digest.of(arch.encode())),
        "interpreter": f"/usr/local/bin/python{python}",
        "home": "/usr/local",
        "purelib": f"usr/local/lib/python{python}/site-packages",
        "commands": "python3 python",
        "glibc": "2.41",
        "user": "",
        "path": "/usr/local/bin:/usr/bin:/bin",
        **more,
    }
    flavour = str(Flavour.RUNTIME)
    return ImageLock(base=base.name, flavour=flavour, arch=arch, image=base.image, python=python, **values)


def _package(name: str, version: str, arch: str) -> DebPackage:
    return DebPackage(
        name=name,
        version=version,
        architecture=arch,
        archive="debian",
        filename=f"pool/main/x/{name}_1_{arch}.deb",
        size=1000,
        digest=Digest.of(f"{name} {arch}".encode()),
    )


def wheel_lock(cell: Cell) -> WheelLock:
    tag = {"amd64": "x86_64", "arm64": "aarch64"}[cell.arch]
    wheels = [("numpy", "2.5.5"), ("torch", str(cell.torch))]
    if cell.accelerator.name == "cuda":
        wheels.insert(1, ("nvidia-cuda-runtime-cu12", "12.4.127"))
    locked = [
        LockedWheel(
            name=name,
            version=version,
            filename=f"{name.replace('-', '_')}-{version}-py3-none-manylinux_2_28_{tag}.whl",
            size=1000,
            digest=Digest.of(f"{name} {version} {tag}".encode()),
        )
        for name, version in wheels
    ]
    return WheelLock(
        name=cell.name, platform=cell.platform, python=cell.python, inputs=inputs_of(cell), wheels=tuple(locked)
    )
