"""Reads what is shown: from the project and its layout, or from the project and a registry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from buildctl.artifacts.bill import Key
from buildctl.artifacts.contents import LayerContents, Package, layer_contents
from buildctl.artifacts.store import Store
from buildctl.build.images import REPOSITORY
from buildctl.build.origin import outdated
from buildctl.build.record import read_record
from buildctl.console.log import say
from buildctl.ground.errors import BuildctlError, LayoutError
from buildctl.host.catalogue import Subject, catalogue
from buildctl.lock.locked import LockedCell, load_locked, load_matrix_images
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.publish.diff import Side, from_layout, from_registry, steps
from buildctl.publish.page.value import PageData, PageImage, PageLayer, PagePackage, PageSignature, PageTag
from buildctl.publish.publish import PublishOptions, check_policy, planned_tags
from buildctl.publish.push import parallel
from buildctl.publish.signatures import MissingError, Signed, WrongError
from buildctl.publish.tags import Tag, TagKind, tags_of
from buildctl.registry.client import Repository
from buildctl.registry.keys import PublicKey
from buildctl.registry.problems import AbsentError
from buildctl.registry.pull import resolve
from buildctl.registry.referrers import referrers
from buildctl.testing.attached import attached_reports
from buildctl.testing.debt import debts
from buildctl.testing.kept import built_digest
from buildctl.testing.merge import merged, read_report
from buildctl.testing.overview import CellState, overview
from buildctl.testing.report import Report, Status

Locked = Mapping[str, LockedCell]  # by cell id, those whose locks can be read
Contents = Callable[[Descriptor], LayerContents]
_UNSIGNED = PageSignature(
    status=Status.NOT_RUN, detail="unknown: images of a layout are signed when they are published"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the layout or the registry has of one cell."""

    side: Side | None = None
    report: Report | None = None
    signature: PageSignature = _UNSIGNED
    attached: tuple[tuple[str, str], ...] = ()
    outdated: str = ""
    contents: Contents | None = None


def of_layout(project: Project) -> PageData:
    """Raises BuildctlError for a layout or a report that cannot be read."""
    layout, store = Layout(project.layout), Store.default()
    names = set(layout.names()) if layout.index_path.is_file() else set()

    def found(state: CellState) -> _Found:
        cell = state.cell
        digest = built_digest(project, cell)
        report = read_report(project.report(cell))
        report = report if report is not None and report.digest == digest else None
        if cell.id not in names:
            return _Found(report=report)
        say(f"reading {cell.id}")  # for the first time its layers, which takes seconds
        side = from_layout(layout, cell.id, cell.arch)
        return _Found(
            side=side,
            report=report,
            outdated=outdated(project, cell, side.descriptor.digest) or "",
            contents=lambda layer: layer_contents(layout, layer, store=store),
        )

    data = _collected(project, found)
    images, place = _tagged(data.images, _planned(project)), project.shown(layout.root)
    return replace(
        data,
        images=images,
        place=place,
        build=read_record(layout),
        subjects=tuple(catalogue(project.root, layout.root)),
    )


def of_registry(project: Project, repository: Repository, revision: str, key: PublicKey | None) -> PageData:
    """What the immutable tags of `revision` point at, or the moving tags without one. Raises BuildctlError."""
    locked = _locked(project)
    singles = {tag.cells[0].id: tag for tag in _tags(project, locked) if tag.single}

    def found(state: CellState) -> _Found:
        cell = state.cell
        if cell.native or (revision and cell.id not in singles):
            return _Found()
        tag = singles[cell.id].name(revision) if revision else cell.image
        return _published(repository, tag, state, key)

    data = _collected(project, found)
    images = _tagged(data.images, _pointing(project, repository, locked, revision, data.images))
    name = repository.reference.name
    subjects = [_pulled(s, name) for s in catalogue(project.root, project.layout)]
    return replace(data, images=images, place=name, registry=True, subjects=tuple(subjects))


def _published(repository: Repository, tag: str, state: CellState, key: PublicKey | None) -> _Found:
    there = replace(repository, reference=repository.reference.tagged(tag))
    nothing = PageSignature(status=Status.NOT_RUN, detail="nothing to sign: the image is not in the registry")
    try:
        side = from_registry(there, state.cell.arch)
    except AbsentError:
        return _Found(signature=nothing)
    except LayoutError:  # an index without this architecture
        return _Found(signature=nothing)
    digest = side.descriptor.digest
    listed = referrers(there, digest)
    return _Found(
        side=side,
        report=merged(attached_reports(there, digest)),
        signature=_signature(there, digest, key),
        attached=tuple((r.kind, str(r.descriptor.digest)) for r in listed),
    )


def _signature(repository: Repository, digest: Digest, key: PublicKey | None) -> PageSignature:
    signed = Signed(repository, digest, key)
    try:
        return PageSignature(status=Status.PASSED, detail=signed.signature())
    except MissingError as error:
        return PageSignature(status=Status.NOT_RUN, detail=str(error))
    except WrongError as error:
        return PageSignature(status=Status.FAILED, detail=str(error))


def _pulled(subject: Subject, repository: str) -> Subject:
    if subject.native:
        return subject
    return replace(subject, built=True, start=f"docker run -it --rm {{options}}{repository}:{subject.name}")


def _collected(project: Project, found: Callable[[CellState], _Found]) -> PageData:
    view = overview(project, (), None)
    locked = _locked(project)
    each = dict(zip((s.cell.id for s in view.cells), parallel(found, view.cells), strict=True))
    having = Counter(d for f in each.values() if f.side for d in {layer.digest for layer in f.side.layers})
    images = []
    for state in view.cells:
        there = each[state.cell.id]
        images.append(_image(project, state, there, locked.get(state.cell.id)))
    return PageData(
        title=REPOSITORY,
        place="",
        registry=False,
        images=tuple(_sharing(image, images, having) for image in images),
        combinations=project.matrix.combinations,
        systems={a.name: str(a.os) for a in project.matrix.accelerators},
        subjects=(),
        build=None,
    )


def _image(project: Project, state: CellState, there: _Found, locked: LockedCell | None) -> PageImage:
    cell, files = state.cell, _locked_files(locked)
    known = there.side.packages if there.side else None
    return PageImage(
        cell=cell,
        torch=state.torch,
        locked=state.locked,
        claims=locked.claims if locked else None,
        side=there.side,
        layers=_layers(there, files),
        packages=None if known is None else tuple(_package(p, files) for p in known),
        report=there.report,
        debts=() if there.report else tuple(debts(project, cell, built_digest(project, cell))),
        tags=None,
        signature=there.signature,
        attached=there.attached,
        outdated=there.outdated,
    )


def _locked(project: Project) -> Locked:
    """Cells with stale or missing locks are left out, and shown as such."""
    found: dict[str, LockedCell] = {}
    for cell in project.matrix.cells:
        with suppress(BuildctlError):
            found[cell.id] = load_locked(project, [cell])[0]
    return found


# layers and packages


def _locked_files(locked: LockedCell | None) -> dict[Key, tuple[int, Digest]]:
    """Size and digest of every file that is pinned for a cell."""
    if locked is None:
        return {}
    wheels = {("pypi", w.name, w.version): (w.size, w.digest) for w in locked.wheels.wheels}
    return wheels | {("deb", p.name, p.version): (p.size, p.digest) for lock in locked.debian for p in lock.packages}


def _package(package: Package, files: Mapping[Key, tuple[int, Digest]]) -> PagePackage:
    size, digest = (None, None)
    if not package.within:
        size, digest = files.get((package.kind, package.name, package.version), (None, None))
    return PagePackage(package=package, size=size, digest=digest)


def _layers(there: _Found, files: Mapping[Key, tuple[int, Digest]]) -> tuple[PageLayer, ...]:
    if there.side is None:
        return ()
    out, before = [], set[Package]()
    for step, layer in steps(there.side).items():
        packages: tuple[PagePackage, ...] | None = None
        if there.contents is not None:
            found = there.contents(layer)
            fresh = [p for p in (*(found.debian or ()), *found.python) if p not in before]
            before |= set(fresh)  # dpkg's database of a layer repeats what is below
            packages = tuple(_package(p, files) for p in fresh)
        out.append(PageLayer(step=step, descriptor=layer, packages=packages))
    return tuple(out)


def _sharing(image: PageImage, images: Iterable[PageImage], having: Mapping[Digest, int]) -> PageImage:
    def others(layer: PageLayer) -> tuple[str, ...]:
        if having[layer.descriptor.digest] < 2:
            return ()
        return tuple(o.cell.id for o in images if o is not image and o.side and layer.descriptor in o.side.layers)

    return replace(image, layers=tuple(replace(layer, shared=others(layer)) for layer in image.layers))


# tags


def _tags(project: Project, locked: Locked) -> tuple[Tag, ...]:
    """None of the tags if a lock is missing, because all images decide which tags there are."""
    images = [cell for cell in project.matrix.cells if not cell.native]
    if any(cell.id not in locked for cell in images):
        return ()
    return tags_of(project.matrix.cells, {cell.id: locked[cell.id].claims for cell in images})


def _planned(project: Project) -> dict[str, tuple[PageTag, ...]] | None:
    """What publishing from the layout would set, and what prevents it; None if the locks do not tell."""
    check_policy(project)
    cells = [cell for cell in project.matrix.cells if not cell.native]
    try:
        found = planned_tags(project, load_matrix_images(project), cells, PublishOptions())
    except BuildctlError:
        return None
    return _by_cell((p.tag, p.name, {c.id: p.against for c in p.tag.cells}) for p in found)


def _pointing(
    project: Project, repository: Repository, locked: Locked, revision: str, images: Sequence[PageImage]
) -> dict[str, tuple[PageTag, ...]] | None:
    """For each tag of the rule and each of its images, whether the registry's tag leads to this very image."""
    tags = [t for t in _tags(project, locked) if revision or t.kind is not TagKind.IMMUTABLE]
    digests = {image.cell.id: image.side.descriptor.digest for image in images if image.side}

    def problem(asked: tuple[Tag, Cell]) -> str:
        tag, cell = asked
        try:
            there = resolve(repository, tag.name(revision), cell.arch).descriptor.digest
        except (AbsentError, LayoutError):
            return "not in the registry"
        return "" if there == digests.get(cell.id) else f"points at another image, sha256:{there.short}"

    pairs = [(tag, cell) for tag in tags for cell in tag.cells]
    answers = dict(zip(((t.name(revision), c.id) for t, c in pairs), parallel(problem, pairs), strict=True))
    names = {tag.name(revision): tag for tag in tags}
    found = [(t, name, {c.id: answers[name, c.id] for c in t.cells}) for name, t in names.items()]
    return _by_cell(found) if tags else None


def _tagged(images: Iterable[PageImage], tags: Mapping[str, tuple[PageTag, ...]] | None) -> tuple[PageImage, ...]:
    return tuple(replace(i, tags=None if tags is None else tags.get(i.cell.id, ())) for i in images)


def _by_cell(found: Iterable[tuple[Tag, str, Mapping[str, str]]]) -> dict[str, tuple[PageTag, ...]]:
    out: dict[str, list[PageTag]] = {}
    for tag, name, problems in found:
        over: Sequence[str] = [cell.id for cell in tag.cells]
        for cell_id in over:
            shown = PageTag(name=name, kind=str(tag.kind), problem=problems[cell_id], over=tuple(over))
            out.setdefault(cell_id, []).append(shown)
    return {cell_id: tuple(tags) for cell_id, tags in out.items()}
