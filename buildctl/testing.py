"""`buildctl test`: images of the layout, asked by the probes in a runtime; reports beside the images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildctl.claiming import kept_claims
from buildctl.claims import label_values, read_labels
from buildctl.daemon import connected
from buildctl.errors import LayoutError, RuntimeUnavailableError
from buildctl.lock import WheelLock, read_wheel_lock
from buildctl.log import console, say
from buildctl.matrix import Cell
from buildctl.oci.files import write_whole
from buildctl.oci.layout import Layout
from buildctl.probes.expected import Expected
from buildctl.probes.judging import labels
from buildctl.probes.testing import test_image
from buildctl.project import Project
from buildctl.report import Finding, Report, Status, junit_xml, table_lines
from buildctl.runtimes.api import ImageRef, Runtime
from buildctl.runtimes.docker import DockerRuntime
from buildctl.runtimes.sandbox import SandboxRuntime
from buildctl.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    reports: tuple[Report, ...]

    @property
    def exit_code(self) -> int:
        """0 when nothing failed and every image was really asked something, 1 for a failure, 3 for nothing run."""
        verdicts = {report.verdict for report in self.reports}
        if Status.FAILED in verdicts:
            return 1
        return 3 if Status.NOT_RUN in verdicts else 0

    def to_json(self) -> dict[str, Any]:
        return {"reports": [report.to_json() for report in self.reports]}

    def text(self) -> str:
        return "\n\n".join("\n".join(table_lines(report)) for report in self.reports)

    def write_junit(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, junit_xml(self.reports))


def test_images(
    project: Project, names: Sequence[str], *, arch: str | None, runtime: str, context: str | None = None
) -> TestResult:
    """Ask every selected image that is built; one named and not built is an error. Reports are kept in the layout."""
    layout = Layout(project.layout)
    cells = _built(project, layout, names, arch)
    candidates = runtimes(runtime, context=context)
    reports = []
    for cell in cells:
        say(f"testing {cell.id}")
        image, expected = image_ref(layout, cell), expected_of(project, cell)
        report = with_labels(_test(image, expected, candidates), image, expected)
        project.reports.mkdir(parents=True, exist_ok=True)
        write_whole(project.report(cell), json.dumps(report.to_json(), indent=1).encode() + b"\n")
        reports.append(report)
    return TestResult(reports=tuple(reports))


def runtimes(name: str, *, context: str | None = None) -> tuple[Runtime, ...]:
    """What to try, in that order: for `auto` Docker where a daemon answers, then the sandbox."""
    makers: dict[str, Callable[[], Runtime]] = {
        "docker": lambda: DockerRuntime(context),
        "sandbox": lambda: SandboxRuntime(Store.default()),
    }
    if name != "auto":
        return (makers[name](),)
    try:
        with connected(context):
            return (makers["docker"](), makers["sandbox"]())
    except RuntimeUnavailableError:
        return (makers["sandbox"](),)


def expected_of(project: Project, cell: Cell) -> Expected:
    """What the cell declares, as locked."""
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
    )


def with_labels(report: Report, image: ImageRef, expected: Expected) -> Report:
    """The claims in the labels are asked for in the configuration, so nothing has to run for them."""
    status, detail = labels(expected, read_labels(image.config.labels, image.arch))
    finding = Finding(name="labels", status=status, detail=detail)
    return replace(report, findings=(*report.findings, finding)) if report.verdict is not Status.NOT_RUN else report


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
        say(f"{cell.id} is not built and not tested")
    return [cell for cell in cells if cell.id in there]


def _test(image: ImageRef, expected: Expected, candidates: Sequence[Runtime]) -> Report:
    """In the first runtime that can run it at all."""
    report: Report | None = None
    for runtime in candidates:
        report = test_image(image, expected, runtime, on_finding=_story if console.is_terminal else None)
        if report.verdict is not Status.NOT_RUN:
            return report
    assert report is not None  # noqa: S101 - there is always a candidate
    return report


def _story(finding: Finding) -> None:
    console.print(f"  {finding.status} {finding.name}", style="red" if finding.status is Status.FAILED else None)
