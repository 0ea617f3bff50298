"""This project with images of a few kilobytes in a layout elsewhere, enough of everything for `buildctl page`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from buildctl.build.record import keep_record
from buildctl.lock.claims import claim_labels
from buildctl.lock.locked import load_locked
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.image import History
from buildctl.oci.layout import Layout
from buildctl.testing.report import Finding, Ran, Report, Status
from tests.conftest import ROOT
from tests.support.images import Blobs, Member, config_of, file, tar

BUILT = ("cuda-2.6-amd64", "cuda-2.15-amd64", "cpu-2.6-arm64", "cpu-2.10-arm64")
TESTED = BUILT[0]
TRICK = "<script>document.title='tricked'</script>"  # what a program in an image may print
MADE = "2026-11-20T10:00:00Z"
_SITE = "usr/local/lib/python3.13/dist-packages"
_STATUS = "Package: {}\nStatus: install ok installed\nArchitecture: {}\nVersion: {}\nMaintainer: Debian <x@y.invalid>\n"


def page_project(root: Path) -> Project:
    """The default matrix; BUILT are in the layout, TESTED has a report, and the last build is recorded."""
    project = Project.find(ROOT, layout=root / "dist")
    blobs, cells = Blobs(root / "blobs"), {cell.id: cell for cell in project.matrix.cells}
    for name in BUILT:
        _build(project, blobs, cells[name])
    report = _report(project, cells[TESTED])
    project.reports.mkdir()
    project.report(cells[TESTED]).write_text(json.dumps(report.to_json()))
    keep_record(Layout(project.layout), _record(project))
    path = project.layout / "builds" / "last.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "at": MADE}))
    return project


def _build(project: Project, blobs: Blobs, cell: Cell) -> None:
    """A base, the small wheels and torch, as packages that are locked for the cell."""
    (locked,) = load_locked(project, [cell])
    versions = {wheel.name: wheel.version for wheel in locked.wheels.wheels}
    debian = [(p.name, cell.arch, p.version) for p in locked.debian[0].packages[:12]]
    base = tar(file("var/lib/dpkg/status", "\n".join(_STATUS.format(*p) for p in debian).encode()))
    small = tar(*(_wheel(name, versions[name]) for name in ("numpy", "sympy", "filelock")))
    torch = tar(_wheel("torch", versions["torch"]), file(f"{_SITE}/torch/noise", cell.name.encode() * 20_000))
    layers = [blobs.add(data) for data in (base, small, torch)]
    steps = [
        "buildctl: 12 Debian packages",
        'RUN ["install-wheels", "numpy", "sympy"]',
        'RUN ["install-wheels", "torch"]',
    ]
    config = replace(
        config_of(layers, arch=cell.arch),
        history=tuple(History(created_by=step) for step in steps),
        labels=claim_labels([locked.claims]),
    )
    Layout(project.layout).put_image(name=cell.id, config=config, layers=layers, blob=blobs.path)


def _wheel(name: str, version: str) -> Member:
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: BSD-3-Clause\n\n"
    return file(f"{_SITE}/{name}-{version}.dist-info/METADATA", metadata.encode())


def _report(project: Project, cell: Cell) -> Report:
    digest = Layout(project.layout).resolve(cell.id).digest
    ran = Ran(at=MADE, digest=digest, status=Status.PASSED)
    findings = (
        Finding(name="torch", status=Status.PASSED, detail="torch 2.6.0+cu124", seconds=1.5, ran=ran),
        Finding(name="works on the gpu", status=Status.NOT_RUN, detail="no NVIDIA device on this host", since=MADE),
        Finding(name="devices", status=Status.PASSED, detail=TRICK, seconds=0.5, ran=ran),
    )
    return Report(
        cell=cell.id, digest=digest, arch=cell.arch, runtime="sandbox", emulated=None, gpus=False, findings=findings,
        made=MADE,
    )  # fmt: skip


def _record(project: Project) -> Mapping[str, object]:
    layout = Layout(project.layout)
    images = [
        {
            "id": name,
            "digest": str(layout.resolve(name).digest),
            "layersMade": 1,
            "layersReused": 2,
            "made": [{"layer": f"torch of {name}", "began": number * 2.0, "seconds": 3.0}],
        }
        for number, name in enumerate(BUILT)
    ]
    return {"layout": "dist", "seconds": 12.0, "images": images, "docker": []}
