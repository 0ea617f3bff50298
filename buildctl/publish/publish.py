"""`buildctl publish`: images of the layout into a registry by digest, then tags, but only on tested images.

Order of appearance: blobs, manifests, what is attached to them, indexes, immutable tags, moving tags, universal tags.
So no tag ever names something incomplete, whenever it breaks off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from buildctl.artifacts.store import Store
from buildctl.build.index import claimed
from buildctl.build.origin import outdated
from buildctl.console.progress import Progress
from buildctl.ground.errors import DriftError, LayoutError
from buildctl.lock.claims import Claims
from buildctl.lock.locked import LockedCell
from buildctl.matrix.accelerators import public_version
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.chunked.twin import twin_of
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.remote import place_of
from buildctl.publish.lazy import lazy
from buildctl.publish.move import TagState, move_tags, objection, published
from buildctl.publish.pipeline.growth import also, built_side, measured, pushed_side, too_large_here
from buildctl.publish.pipeline.handover import Handover, UnexpectedError, refuse_unexpected
from buildctl.publish.provenance import CiRun, provenance_document
from buildctl.publish.push import ImagePush, parallel
from buildctl.publish.result import Candidate, Published, Pushed
from buildctl.publish.sbom import sbom_document
from buildctl.publish.tags import Tag, TagKind, tags_of
from buildctl.registry.client import Repository
from buildctl.registry.problems import AbsentError
from buildctl.registry.referrers import Document, Signer
from buildctl.testing.attached import attach_report, attached_reports
from buildctl.testing.merge import REPORT_KIND, completed, merged, read_report, report_bytes
from buildctl.testing.probes.known import known_findings
from buildctl.testing.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """`revision` ends immutable tags; empty means the digest itself. `tags` is which to set: `all`,
    `immutable` (of single images, for a later `promote`), or `none`: push by digest only.

    `promote` alone reads `expect`, what the builders handed on (None: it believes the registry), `reports` of other
    machines, which it attaches, and `awaits`, findings that another machine still asks. With `compare`, each image is
    compared with what its moving tag has now.
    """

    dry_run: bool = False
    tags: str = "all"
    revision: str = ""
    allow_not_run: frozenset[str] = frozenset()
    drop_platforms: frozenset[str] = frozenset()
    signer: Signer | None = None
    expect: Handover | None = None
    reports: tuple[Report, ...] = ()
    awaits: frozenset[str] = frozenset()
    compare: bool = False


def publish(
    project: Project,
    pinned: Mapping[str, LockedCell],
    cells: Sequence[Cell],
    repository: Repository,
    options: PublishOptions,
    *,
    documents: Callable[[LockedCell, Descriptor], Sequence[Document]] = lambda _locked, _descriptor: (),
    progress: Progress,
) -> Published:
    """Push these cells from the layout, attach their report and `documents`, then point tags at them.

    `pinned` are all images of the matrix by cell id, of which `cells` are published. Raises BuildctlError; tags that
    were held or refused are part of the result.
    """
    layout = Layout(project.layout)
    check_policy(project)
    wanted = documents if not options.dry_run else _no_documents
    images = {cell.id: _image(layout, cell) for cell in cells}
    _refuse_outdated(project, cells, images)
    repository.ping()  # before bills of materials are read out of layers
    candidates = parallel(lambda c: _local(project, layout, pinned[c.id], images[c.id], options, wanted), cells)
    candidates = parallel(lambda c: _with_attached(project, repository, c, options), candidates)
    here = partial(built_side, layout)
    candidates = measured(repository, candidates, project.matrix.publish, here, compare=options.compare)
    push = ImagePush(
        layout=layout, repository=repository, progress=progress, dry_run=options.dry_run, signer=options.signer
    )
    pushed = push.images(candidates)
    data = {c.descriptor.digest: layout.read_bytes(c.descriptor) for c in candidates}
    tags = _tag(project, pinned, repository, candidates, options, data) if options.tags != "none" else ()
    return _published(repository, tags, options, candidates, pushed)


def _refuse_outdated(project: Project, cells: Sequence[Cell], images: Mapping[str, Descriptor]) -> None:
    """A tag must match the project: an image built before a change does not."""
    for cell in cells:
        if why := outdated(project, cell, images[cell.id].digest):
            raise DriftError(f"{cell.id}: {why}", hint=f"buildctl build {cell.image}, then `buildctl test`")


def check_policy(project: Project) -> None:
    """Raises ProblemsError if matrix.yaml names a finding that does not exist."""
    project.matrix.publish.check(known_findings(), str(project.matrix.path))


def _published(
    repository: Repository,
    tags: Sequence[TagState],
    options: PublishOptions,
    candidates: Sequence[Candidate],
    pushed: Sequence[Pushed] = (),
) -> Published:
    return Published(
        repository=repository.reference.name,
        images=tuple(pushed),
        tags=tuple(tags),
        dry_run=options.dry_run,
        signed=options.signer is not None and not options.dry_run,
        candidates=tuple(candidates),
    )


def attached(
    project: Project, *, sbom: bool, run: CiRun | None = None
) -> Callable[[LockedCell, Descriptor], Sequence[Document]]:
    """What `publish` attaches besides the report: bill of materials and provenance."""
    store, layout = Store.default(), Layout(project.layout)

    def documents(locked: LockedCell, descriptor: Descriptor) -> Sequence[Document]:
        if not sbom:
            return ()
        bill = sbom_document(layout, locked, descriptor, store=store)
        layers = layout.manifest(descriptor).layers
        cached = [place for layer in layers if (place := place_of(layout.root, layer.digest)) is not None]
        return bill, provenance_document(project, locked, descriptor, run=run, cached=cached)

    return documents


def planned_tags(
    project: Project, pinned: Mapping[str, LockedCell], cells: Sequence[Cell], options: PublishOptions
) -> tuple[PlannedTag, ...]:
    """Which tag would point where, and what prevents it; asks no registry."""
    layout = Layout(project.layout)
    check_policy(project)
    there = set(layout.names()) if layout.index_path.is_file() else set()
    said: dict[str, str] = {}
    waived: dict[str, tuple[str, ...]] = {}
    digests: dict[str, Digest] = {}
    twins: dict[str, Digest] = {}
    for cell in project.matrix.cells:
        if cell.id in there and not cell.native:
            image = _image(layout, cell)
            found = _local(project, layout, pinned[cell.id], image, options, _no_documents)
            digests[cell.id] = found.descriptor.digest
            waived[cell.id] = found.not_run
            if twin := twin_of(layout.read_bytes(image)):
                twins[cell.id] = Digest.of(twin)
            old = outdated(project, cell, found.descriptor.digest)
            size = too_large_here(layout, found, project.matrix.publish)
            if objection := f"{old}: run `buildctl build`" if old else also(found.objection, size):
                said[cell.id] = objection
    out = []
    tags = tags_of(project.matrix.cells, _claims(pinned), of=[cell.id for cell in cells])
    lazily = [
        (replace(t, stem=lazy(t.stem)), digests | twins) for t in tags if any(cell.id in twins for cell in t.cells)
    ]
    for tag, which in [*((tag, digests) for tag in tags), *lazily]:
        digest = which.get(tag.cells[0].id) if tag.single else None
        name = tag.name(options.revision or (digest.short if digest else "REVISION"))
        against = {} if tag.kind is TagKind.IMMUTABLE else said
        why = [f"{c.id}: {against[c.id]}" for c in tag.cells if c.id in against]
        why += [f"{c.id}: not built" for c in tag.cells if c.id not in which]
        names = dict.fromkeys(n for c in tag.cells for n in waived.get(c.id, ()))
        out.append(PlannedTag(name=name, tag=tag, digests=which, against="; ".join(why), not_run=tuple(names)))
    return tuple(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTag:
    """`digests` are by cell id, of what is built; `against` is why publishing would not set the tag now, `not_run`
    the findings NOT RUN on its images.
    """

    name: str
    tag: Tag
    digests: Mapping[str, Digest]
    against: str
    not_run: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        cells = [
            {"id": c.id, "platform": c.platform, "digest": str(self.digests[c.id]) if c.id in self.digests else None}
            for c in self.tag.cells
        ]
        return {
            "tag": self.name,
            "kind": str(self.tag.kind),
            "cells": cells,
            "against": self.against or None,
            "notRun": list(self.not_run),
        }

    def row(self) -> tuple[str, str, str]:
        cells = ", ".join(c.id for c in self.tag.cells)
        moving = self.tag.kind is not TagKind.IMMUTABLE
        ready = f"ready, with {', '.join(self.not_run)} NOT RUN" if self.not_run and moving else "ready"
        return self.name, self.tag.kind, self.against or f"{ready}: {cells}"


def promote(
    project: Project,
    pinned: Mapping[str, LockedCell],
    cells: Sequence[Cell],
    repository: Repository,
    options: PublishOptions,
) -> Published:
    """Point moving tags at what is in the registry under the immutable tags of `revision`, by the reports attached
    there: the job that runs after the builders of every architecture. Raises BuildctlError; UnexpectedError, before
    anything is attached, signed or moved, where the registry differs from `options.expect`.
    """
    check_policy(project)
    singles = {t.cells[0].id: t for t in tags_of(project.matrix.cells, _claims(pinned)) if t.single}
    names = {cell.id: singles[cell.id].name(options.revision) for cell in cells}
    reports = {cell.id: [r for r in options.reports if r.cell == cell.id] for cell in cells}
    if options.expect is not None:
        _refuse_strangers(cells, options)
        refuse_unexpected(repository, options.expect, names, reports)
    images = dict(
        zip(names, parallel(lambda cell: _remote(repository, cell, names[cell.id], options.expect), cells), strict=True)
    )
    brought = {id_: _attach(repository, images[id_], reports[id_], options) for id_ in images}
    expect = options.expect.with_documents(brought) if options.expect is not None else None
    options = replace(options, expect=expect)
    found = parallel(lambda cell: _reported(project, repository, cell, images[cell.id], options), cells)
    there = partial(pushed_side, repository)
    found = measured(repository, found, project.matrix.publish, there, compare=options.compare)
    if options.signer and not options.dry_run:
        parallel(lambda candidate: _vouch(repository, candidate, options), found)
    return _published(repository, _tag(project, pinned, repository, found, options), options, found)


def _refuse_strangers(cells: Sequence[Cell], options: PublishOptions) -> None:
    """A report must be about an image that is promoted, at the digest that its builder pushed."""
    assert options.expect is not None  # noqa: S101 - the caller's
    known = {cell.id: options.expect.of(cell.id).digest for cell in cells}
    for report in options.reports:
        if report.cell not in known:
            raise UnexpectedError(f"a report is about {report.cell}, which is not promoted here")
        if report.digest != known[report.cell]:
            raise UnexpectedError(
                f"{report.cell}: a report is about {report.digest}, the build job pushed {known[report.cell]}",
                hint="it was made from other locks, or not by a build of these",
            )


def _attach(
    repository: Repository, image: Descriptor, reports: Sequence[Report], options: PublishOptions
) -> dict[Digest, str]:
    if options.dry_run:
        return {}
    return {attach_report(repository, image, r).referrer.descriptor.digest: REPORT_KIND for r in reports}


def _vouch(repository: Repository, candidate: Candidate, options: PublishOptions) -> None:
    """Signs what is not signed yet, with what is handed on, or else with all that is attached: the report was
    trusted, too.
    """
    if (signer := options.signer) is None:
        return
    image = candidate.descriptor
    documents = options.expect.of(candidate.cell.id).documents if options.expect is not None else None
    covered = signer.covered(repository, image.digest)
    if covered is None or (documents is not None and not covered >= documents.keys()):
        signer.sign(repository, image, documents)


def _claims(pinned: Mapping[str, LockedCell]) -> dict[str, Claims]:
    return {cell_id: locked.claims for cell_id, locked in pinned.items()}


def _no_documents(_locked: LockedCell, _descriptor: Descriptor) -> Sequence[Document]:
    return ()


def _tag(
    project: Project,
    pinned: Mapping[str, LockedCell],
    repository: Repository,
    candidates: Sequence[Candidate],
    options: PublishOptions,
    manifests: Mapping[Digest, bytes] = MappingProxyType({}),
) -> tuple[TagState, ...]:
    tags = tags_of(project.matrix.cells, _claims(pinned), of=[c.cell.id for c in candidates])
    return move_tags(
        repository,
        [tag for tag in tags if tag.single] if options.tags == "immutable" else tags,
        {c.cell.id: c.descriptor for c in candidates},
        objections={c.cell.id: c.objection for c in candidates if c.objection},
        waits={c.cell.id: f"{c.cell.id}: {c.waits}" for c in candidates if c.waits},
        revision=options.revision,
        drop_platforms=options.drop_platforms,
        dry_run=options.dry_run,
        signer=options.signer,
        keep=options.expect is None,
        manifests=manifests,
    )


def _image(layout: Layout, cell: Cell) -> Descriptor:
    try:
        return layout.resolve(cell.id, cell.arch)
    except LayoutError as error:
        raise LayoutError(f"{cell.id} is not built: {error.message}", hint=f"buildctl build {cell.image}") from error


def _local(
    project: Project,
    layout: Layout,
    locked: LockedCell,
    found: Descriptor,
    options: PublishOptions,
    documents: Callable[[LockedCell, Descriptor], Sequence[Document]],
) -> Candidate:
    cell, claims = locked.cell, locked.claims
    config = layout.config(found)
    descriptor, labels = claimed(found, config), config.labels
    for key, value in {"torch": claims.torch, **claims.versions, "python": claims.python}.items():
        said = labels.get(f"dev.buildctl.{key}")
        if said is not None and public_version(said) != public_version(value):
            raise DriftError(
                f"{cell.id}: the image has {key} {said}, the lock has {value}", hint=f"buildctl build {cell.image}"
            )
    report = read_report(project.report(cell))
    about = report is not None and report.digest == descriptor.digest
    attached = [Document(kind=REPORT_KIND, data=report_bytes(report))] if report is not None and about else []
    total = sum(layer.size for layer in layout.manifest(found).layers)
    there = (*attached, *documents(locked, descriptor))
    candidate = Candidate(cell=cell, descriptor=descriptor, documents=there, size=total)
    return _judged(project, candidate, report, options)


def _judged(project: Project, candidate: Candidate, report: Report | None, options: PublishOptions) -> Candidate:
    policy, digest = project.matrix.publish, candidate.descriptor.digest
    allow = policy.allowed(candidate.cell) | options.allow_not_run
    said = objection(report, digest, allow, policy.required(candidate.cell))
    about = report is not None and report.digest == digest
    found = replace(candidate, report=report if about else None, objection=said)
    later = options.awaits & set(found.not_run)
    if later and objection(report, digest, allow | later, policy.required(candidate.cell) - later) is None:
        return replace(found, objection=None, waits=", ".join(sorted(later)))
    return found


def _with_attached(
    project: Project, repository: Repository, candidate: Candidate, options: PublishOptions
) -> Candidate:
    """Other machines' findings about the same digest fill the gaps in the local report."""
    if candidate.report is not None and candidate.objection is None and not candidate.not_run:
        return candidate
    there = merged(attached_reports(repository, candidate.descriptor.digest, options.signer))
    if there is None:
        return candidate
    both = there if candidate.report is None else completed(candidate.report, there)
    return _judged(project, candidate, both, options)


def _remote(repository: Repository, cell: Cell, name: str, expect: Handover | None) -> Descriptor:
    if expect is not None:  # the tag was compared with it, and may have moved since
        return published(repository, str(expect.of(cell.id).digest))
    found = repository.head(name)
    if found is None:
        raise AbsentError(
            f"{repository.reference.name}:{name} does not exist, so {cell.id} cannot be promoted",
            hint="publish it with this --revision first",
        )
    return published(repository, str(found.digest))


def _reported(
    project: Project, repository: Repository, cell: Cell, image: Descriptor, options: PublishOptions
) -> Candidate:
    only = options.expect.of(cell.id).documents if options.expect is not None else None
    attached = attached_reports(repository, image.digest, options.signer, only=only)
    more = options.reports if options.dry_run else ()  # they are attached otherwise
    report = merged([*attached, *(r for r in more if r.digest == image.digest)])
    return _judged(project, Candidate(cell=cell, descriptor=image), report, options)
