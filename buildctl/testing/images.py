"""`buildctl test`: run the probes in images of the layout; reports are kept next to the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildctl.build.origin import outdated
from buildctl.console.log import say
from buildctl.dockerfile.files import refuse_drift
from buildctl.ground.clock import now, rfc3339
from buildctl.ground.errors import BuildctlError, ExitCode, LayoutError
from buildctl.lock.claims import read_labels
from buildctl.lock.locked import WANTED, load_locked, of_all_architectures
from buildctl.lock.update import refuse_stale_locks
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.files import translated, write_whole
from buildctl.oci.layout import Layout
from buildctl.registry.remote import bring_layers
from buildctl.runtimes.api import ImageRef, Runtime
from buildctl.runtimes.choose import runtimes
from buildctl.testing.kept import keep
from buildctl.testing.listener import NOBODY, Listener
from buildctl.testing.merge import LABELS
from buildctl.testing.native import native_names, native_report
from buildctl.testing.probes.expected import Expected, expected_of
from buildctl.testing.probes.findings import not_run, test_image
from buildctl.testing.probes.judging import labels
from buildctl.testing.report import Finding, Report, Status, junit_xml


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    __test__ = False  # not a class of tests

    reports: tuple[Report, ...]

    @property
    def exit_code(self) -> int:
        """0 if nothing failed and every image was really tested, 1 for a failure, 3 if nothing ran."""
        verdicts = {report.verdict for report in self.reports}
        if Status.FAILED in verdicts:
            return ExitCode.FAILED
        return ExitCode.NOT_RUN if Status.NOT_RUN in verdicts else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        return {"reports": [report.to_json() for report in self.reports]}

    def write_junit(self, path: Path) -> None:
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, junit_xml(self.reports))


def test_images(
    project: Project,
    names: Sequence[str],
    *,
    arch: str | None,
    runtime: str,
    context: str | None = None,
    path: Path | None = None,
    listener: Listener = NOBODY,
) -> TestResult:
    """Test every selected image that is built; naming one that is not is an error. Reports are kept in the layout.

    Native environments are tested if named; `path` is where one is, if not in the default place.
    """
    layout = Layout(project.layout)
    natives = native_names(project, names)
    images = [name for name in names if name not in natives]
    cells = _built(project, layout, images, arch) if images or not natives else []
    if natives:
        cells += project.matrix.select(natives, arch)
    _say_drift(project, [cell for cell in cells if not cell.native])
    candidates = runtimes(runtime, context=context)
    reports = []
    for locked in load_locked(project, cells):
        cell = locked.cell
        say(f"testing {cell.id}")
        listener.began(cell.id)
        if cell.native:
            report = native_report(project, locked, path, on_finding=listener.found)
        else:
            image, expected = image_ref(layout, cell), expected_of(locked)
            if why := outdated(project, cell, image.descriptor.digest):
                say(f"{cell.id} is out of date: {why}; run `buildctl build {cell.image}`")
            report = with_labels(ask_image(image, expected, candidates, listener), image, expected)
        reports.append(keep(project, cell, report, at=rfc3339(now())))
        listener.ended(reports[-1])
    return TestResult(reports=tuple(reports))


def _say_drift(project: Project, cells: Sequence[Cell]) -> None:
    """Tests the image by its digest; it may be older than the matrix."""
    try:
        refuse_stale_locks(project, cells, WANTED)
        refuse_drift(project, load_locked(project, of_all_architectures(project, cells)), WANTED)
    except BuildctlError as error:
        say(f"testing the image as built: {error.message}")


def with_labels(report: Report, image: ImageRef, expected: Expected) -> Report:
    """Labels are checked in the configuration, so nothing has to run for them; but if nothing
    else ran, they alone would make the image PASSED.
    """
    if report.verdict is Status.NOT_RUN:
        reason = report.findings[0].detail if report.findings else ""
        return replace(report, findings=(*report.findings, not_run(LABELS, reason)))
    status, detail = labels(expected, read_labels(image.config.labels, image.arch))
    finding = Finding(name=LABELS, status=status, detail=detail)
    return replace(report, findings=(*report.findings, finding))


def image_ref(layout: Layout, cell: Cell) -> ImageRef:
    descriptor = layout.resolve(cell.id, cell.arch)
    return ImageRef(
        layout=layout.root, descriptor=descriptor, name=cell.id, arch=cell.arch, config=layout.config(descriptor)
    )


def _built(project: Project, layout: Layout, names: Sequence[str], arch: str | None) -> list[Cell]:
    cells = project.matrix.images_of(names, arch)
    try:
        there = set(layout.names())
    except LayoutError:
        there = set()
    missing = [cell for cell in cells if cell.id not in there]
    if (names and missing) or len(missing) == len(cells):
        asked = " ".join(dict.fromkeys(cell.image for cell in missing)) if names else ""
        raise LayoutError(
            f"not built: {', '.join(cell.id for cell in missing)}",
            hint=f"run `{f'buildctl build {asked}'.strip()}` first",
        )
    for cell in missing:
        say(f"{cell.id} is not built, so not tested")
    return [cell for cell in cells if cell.id in there]


def ask_image(
    image: ImageRef, expected: Expected, candidates: Sequence[Runtime], listener: Listener = NOBODY
) -> Report:
    """In the first runtime that can run it; layers that are elsewhere are fetched before."""
    bring_layers(Layout(image.layout), [image.descriptor], f"testing {image.name}")
    report: Report | None = None
    for runtime in candidates:
        report = test_image(image, expected, runtime, on_finding=listener.found)
        if report.verdict is not Status.NOT_RUN:
            return report
    assert report is not None  # noqa: S101 - there is always a candidate
    return report
