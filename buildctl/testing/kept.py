"""Reports kept next to the images: one for each cell, with what ran when, here or on other machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from buildctl.ground.errors import BuildctlError, LayoutError
from buildctl.ground.jsontext import parse_json
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.files import keep_whole, translated
from buildctl.oci.layout import Layout
from buildctl.testing.merge import completed, joined, parse_report, read_report
from buildctl.testing.report import Report, Status, following


def keep(project: Project, cell: Cell, report: Report, *, at: str) -> Report:
    """Keep the report with its time; returns it dated. What did not run now does not overwrite an answer about
    the same digest in the file, which is not in what is returned.
    """
    earlier = _kept(project, cell)
    dated = following(report, earlier, at)
    _write(project, cell, completed(dated, earlier))
    return dated


def bring(project: Project, sources: Iterable[str]) -> Iterator[str]:
    """Import reports of other machines: files of `buildctl test` (kept ones or what --json prints), or references
    to published images, whose attached reports are read. One line for each; nothing is written unless all are good.

    Raises BuildctlError for anything but a report on a cell of the matrix.
    """
    found = [(source, report) for source in sources for report in _reports(source)]
    about = [(_cell(project, report, source), report) for source, report in found]
    for cell, report in about:
        kept = _kept(project, cell)
        both = joined(kept, report, built_digest(project, cell))
        _write(project, cell, both)
        counts = ", ".join(f"{report.count(s)} {s.lower()}" for s in Status if report.count(s))
        what = f"{cell.id}  sha256:{report.digest.short}: {counts}"
        yield what if both.digest == report.digest else f"{what} (the kept report is about sha256:{both.digest.short})"


def built_digest(project: Project, cell: Cell) -> Digest | None:
    """What a report on the cell must be about: the image in the layout, for a native environment its lock."""
    if cell.native:
        from buildctl.lock.locked import load_locked  # noqa: PLC0415 - rarely

        with suppress(BuildctlError):
            return Digest.parse(load_locked(project, [cell])[0].claims.lock)
        return None
    with suppress(LayoutError):
        return Layout(project.layout).resolve(cell.id).digest
    return None


def _kept(project: Project, cell: Cell) -> Report | None:
    with suppress(BuildctlError):  # an unreadable old report is no loss
        return read_report(project.report(cell))
    return None


def _write(project: Project, cell: Cell, report: Report) -> None:
    with translated(project.report(cell)):
        project.reports.mkdir(parents=True, exist_ok=True)
        keep_whole(project.report(cell), json.dumps(report.to_json(), indent=1).encode() + b"\n")


def _reports(source: str) -> list[Report]:
    path = Path(source)
    if path.is_file():
        return reports_in(path)
    if "/" not in source.removeprefix("docker://") or source.startswith(("/", "./", "../")):
        raise BuildctlError(f"{source} does not exist", hint="a report file, or a reference: REGISTRY/REPOSITORY:TAG")
    from buildctl.registry.client import open_repository  # noqa: PLC0415
    from buildctl.registry.reference import Reference  # noqa: PLC0415
    from buildctl.testing.attached import reports_at  # noqa: PLC0415 - only here is there a network

    found = reports_at(open_repository(Reference.parse(source)))
    if not found:
        raise BuildctlError(f"{source} has no attached report", hint=f"buildctl test {source} --attach")
    return found


def reports_in(path: Path) -> list[Report]:
    """What `buildctl test` wrote, for one image or for several. Raises BuildctlError."""
    try:
        value: Any = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BuildctlError(f"{path} is not a report: {error}", hint="`buildctl test` writes them") from error
    each = value["reports"] if isinstance(value, dict) and isinstance(value.get("reports"), list) else [value]
    return [parse_report(json.dumps(one).encode(), str(path)) for one in each]


def _cell(project: Project, report: Report, source: str) -> Cell:
    """By the name it was tested under, else by digest: a report on a reference names no cell."""
    for cell in project.matrix.cells:
        if report.cell == cell.id:
            return cell
    for cell in project.matrix.cells:
        if not cell.native and built_digest(project, cell) == report.digest:
            return cell
    raise BuildctlError(
        f"{source} is about {report.cell} (sha256:{report.digest.short}), which is not a cell of the matrix",
        hint="`buildctl matrix` lists them",
    )
