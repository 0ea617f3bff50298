"""`buildctl portability`: a model exported in each cell, run in every other, and whether the numbers are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from buildctl.build.native import default_folder, refusal
from buildctl.console.log import say
from buildctl.console.table import size
from buildctl.ground.errors import LayoutError, RuntimeUnavailableError, ToolError, UsageError
from buildctl.ground.jsontext import parse_json
from buildctl.ground.scratch import scratch
from buildctl.host.facts import this_host
from buildctl.matrix.cells import Cell, Flavour
from buildctl.matrix.project import Project
from buildctl.oci.files import write_whole
from buildctl.oci.layout import Layout
from buildctl.registry.remote import bring_layers
from buildctl.runtimes.api import Runtime, Session
from buildctl.runtimes.choose import runtimes
from buildctl.runtimes.native import NativeRuntime
from buildctl.testing.images import image_ref
from buildctl.testing.moves import Move, Portability, Result, measured, promised
from buildctl.testing.native import native_names
from buildctl.testing.probes.portable import SUFFIXES, ExportedModel, Model, Sample, export_in, load_in

EXTRAS: Mapping[str, str] = {"onnx": "onnx", "coreml": "coreml"}  # format -> the extra that brings its packages


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A cell that can run."""

    cell: Cell
    session: Session


def check_portability(
    project: Project,
    names: Sequence[str],
    *,
    arch: str | None,
    runtime: str,
    output: Path | None = None,
    path: Path | None = None,
    context: str | None = None,
) -> Portability:
    """Export in each selected cell, load in each; files go to `output`, one folder per cell, if given.

    Without names: every built runtime image. Raises MatrixError for fewer than two cells.
    """
    cells = _chosen(project, names, arch)
    with ExitStack() as stack:
        members, unasked = _members(project, cells, lambda: runtimes(runtime, context=context), path, stack)
        folder = output or stack.enter_context(scratch("portability"))
        formats = formats_of(cells)
        exports = {id_: exported(member, formats, folder / id_) for id_, member in members.items()}
        moves: list[Move] = []
        for member in members.values():
            say(f"loading in {member.cell.id}")
            moves += moves_into(member, exports, {id_: m.cell for id_, m in members.items()}, formats)
    ordered = [
        move for source in cells for target in cells for move in _between(source, target, moves, unasked, formats)
    ]
    return Portability(moves=tuple(ordered), unasked=unasked)


def _between(
    source: Cell, target: Cell, moves: Sequence[Move], unasked: Mapping[str, str], formats: Sequence[str]
) -> list[Move]:
    if reason := unasked.get(source.id) or unasked.get(target.id):
        return [_not_run(source.id, target.id, name, reason) for name in formats]
    found = {move.format: move for move in moves if (move.source, move.target) == (source.id, target.id)}
    return [found[name] for name in formats]


def _not_run(source: str, target: str, name: str, reason: str) -> Move:
    return Move(source=source, target=target, format=name, result=Result.NOT_RUN, detail=reason)


def _chosen(project: Project, names: Sequence[str], arch: str | None) -> list[Cell]:
    if names:
        natives = native_names(project, names)
        images = [name for name in names if name not in natives]
        cells = [*(project.matrix.images_of(images, arch) if images else ())]
        cells += project.matrix.select(natives, arch) if natives else ()
    else:
        there = _built_names(Layout(project.layout))
        cells = [c for c in project.matrix.images_of((), arch) if c.id in there and c.flavour is Flavour.RUNTIME]
    if len(cells) < 2:
        found = cells[0].id if cells else "none"
        raise UsageError(
            f"this needs at least two cells; selected: {found}",
            hint="buildctl build cuda-2.6 cpu-2.6, then buildctl portability cuda-2.6 cpu-2.6",
        )
    return cells


def _built_names(layout: Layout) -> set[str]:
    try:
        return set(layout.names())
    except LayoutError:
        return set()


def formats_of(cells: Sequence[Cell]) -> list[str]:
    """Core ML only if some cell can convert to it; ONNX always, so that people learn why it is missing."""
    with_coreml = any(EXTRAS["coreml"] in cell.extras for cell in cells)
    return [name for name in SUFFIXES if name != "coreml" or with_coreml]


def _members(
    project: Project,
    cells: Sequence[Cell],
    candidates: Callable[[], Sequence[Runtime]],
    path: Path | None,
    stack: ExitStack,
) -> tuple[dict[str, Peer], dict[str, str]]:
    """Open sessions by cell id, and why the other cells have none."""
    members: dict[str, Peer] = {}
    unasked: dict[str, str] = {}
    for cell in cells:
        try:
            if cell.native:
                session = _open_native(project, cell, path, stack)
            else:
                session = _open(project, cell, candidates, stack)
            members[cell.id] = Peer(cell=cell, session=session)
        except (RuntimeUnavailableError, LayoutError) as error:
            unasked[cell.id] = f"{error.message} ({error.hint})" if error.hint else error.message
    return members, unasked


def _open(project: Project, cell: Cell, candidates: Callable[[], Sequence[Runtime]], stack: ExitStack) -> Session:
    layout = Layout(project.layout)
    if cell.id not in _built_names(layout):
        raise LayoutError(f"{cell.id} is not built", hint=f"buildctl build {cell.image} --arch {cell.arch}")
    image = image_ref(layout, cell)
    bring_layers(layout, [image.descriptor], f"testing {cell.id}")
    refused: RuntimeUnavailableError | None = None
    for candidate in candidates():
        try:
            return stack.enter_context(candidate.start(image))
        except RuntimeUnavailableError as error:
            refused = error
    assert refused is not None  # noqa: S101 - there is always a candidate
    raise refused


def _open_native(project: Project, cell: Cell, path: Path | None, stack: ExitStack) -> Session:
    if refused := refusal(project, cell, this_host()):
        raise refused
    return stack.enter_context(NativeRuntime().start(path or default_folder(project, cell)))


def exported(member: Peer, formats: Sequence[str], folder: Path) -> ExportedModel:
    """Export in one cell; writes files and sample to `folder` and reads them back."""
    say(f"exporting in {member.cell.id}")
    possible = [name for name in formats if not lacking(member.cell, name)]
    try:
        found = export_in(member.session, possible)
    except ToolError as error:  # the runtime failed, not the image
        return ExportedModel(sample=None, errors=dict.fromkeys(possible, error.message))
    if found.sample is None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "sample.json", json.dumps(found.sample.to_json()).encode())
    for name, data in found.files.items():
        write_whole(folder / f"model{SUFFIXES[name]}", data)
    files = {name: (folder / f"model{SUFFIXES[name]}").read_bytes() for name in found.files}
    return replace(found, sample=Sample.from_json(parse_json((folder / "sample.json").read_bytes())), files=files)


def lacking(cell: Cell, name: str) -> str:
    """Why a cell does not support a format; empty if it does."""
    extra = EXTRAS.get(name)
    return f"{cell.id} has no extra `{extra}`" if extra and extra not in cell.extras else ""


def moves_into(
    target: Peer, exports: Mapping[str, ExportedModel], cells: Mapping[str, Cell], formats: Sequence[str]
) -> list[Move]:
    """Run in one cell what `cells` exported: promised moves first, because the rest may do anything."""
    tried: list[tuple[bool, Cell, Model]] = []
    moves: list[Move] = []
    for source, found in exports.items():
        for name in formats:
            if blocked := _blocked(cells[source], target.cell, name, found):
                moves.append(blocked)
            elif found.sample is not None:
                sure = promised(name, cells[source].torch, target.cell.torch)
                tried.append((sure, cells[source], Model(format=name, data=found.files[name], sample=found.sample)))
    tried.sort(key=lambda one: not one[0])
    try:
        computed = load_in(target.session, {f"{m.format} {cell.id}": m for _, cell, m in tried}) if tried else {}
    except ToolError as failure:  # the runtime failed, not the image
        return moves + [_not_run(cell.id, target.cell.id, m.format, failure.message) for _, cell, m in tried]
    for sure, cell, model in tried:
        result, detail, error = measured(model.sample, computed[f"{model.format} {cell.id}"], sure=sure)
        moves.append(
            Move(
                source=cell.id,
                target=target.cell.id,
                format=model.format,
                result=result,
                detail=detail,
                error=error,
                size=len(model.data),
            )
        )
    return moves


def _blocked(source: Cell, target: Cell, name: str, found: ExportedModel) -> Move | None:
    """A move that cannot be tried. A failed export is FAILED once, for the move from the cell to itself."""
    if reason := lacking(source, name):
        return _not_run(source.id, target.id, name, reason)
    if reason := found.errors.get(name, ""):
        if source.id == target.id:
            detail = f"the export failed: {reason}"
            return Move(source=source.id, target=target.id, format=name, result=Result.FAILED, detail=detail)
        return _not_run(source.id, target.id, name, f"{source.id} did not export it")
    if name == "coreml" and not target.native:
        reason = f"converted ({size(len(found.files[name]))}); Core ML runs models on macOS only"
        return _not_run(source.id, target.id, name, reason)
    reason = lacking(target, name)
    return _not_run(source.id, target.id, name, reason) if reason else None
