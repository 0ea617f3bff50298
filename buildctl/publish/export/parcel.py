"""What is carried: images and indexes under their names, with the documents that are attached to each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from buildctl.build.images import REPOSITORY
from buildctl.ground.errors import LayoutError
from buildctl.lock.locked import load_locked
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.image import REF_NAME, Descriptor, Index
from buildctl.oci.layout import INDEX_TYPES, MANIFEST_TYPES, Layout, parse_object
from buildctl.publish.publish import attached
from buildctl.publish.sign import KeySigner, signed
from buildctl.registry.client import Repository
from buildctl.registry.members import entries
from buildctl.registry.referrers import Artifact, Document, artifact, fetch_artifact, parse_artifact, referrers
from buildctl.registry.target import Image, Target
from buildctl.registry.upload import Blob
from buildctl.runtimes.image import brought, find_built
from buildctl.testing.merge import REPORT_KIND, read_report, report_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A document about `subject`, the digest of an image or index."""

    subject: Digest
    artifact: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What one name leads to: `descriptor` is of an index or an image, `images` those of it, all in `layout`.
    `repository` is what Docker calls it, without a tag.
    """

    name: str
    repository: str
    layout: Layout
    descriptor: Descriptor
    images: tuple[Image, ...]
    attachments: tuple[Attachment, ...] = ()

    @property
    def subjects(self) -> tuple[Descriptor, ...]:
        found = {d.digest: d for d in (*(i.descriptor for i in self.images), self.descriptor)}
        return tuple(found.values())


def find_carried(
    open_project: Callable[[], Project], text: str, arch: str | None, *, bare: bool
) -> tuple[Carried, ...]:
    """What a name of the matrix, PATH[:NAME] of a layout or a reference leads to, for one architecture or all.

    Raises LayoutError, with the next step, for an image that is not built or, unless `bare`, has no report.
    """
    target = find_built(open_project, text)
    if target.repository is not None:
        found: tuple[Carried, ...] = (_from_registry(target, target.repository, arch, bare=bare),)
    else:
        found = tuple(_from_layout(target, arch))
        if not bare and _of_project(open_project, target):
            found = tuple(_documented(open_project(), carried) for carried in found)
    return found if not bare else tuple(replace(carried, attachments=()) for carried in found)


def refuse_unreported(found: Iterable[Carried]) -> None:
    """Raises LayoutError for an image that carries no report."""
    for carried in found:
        reported = {a.subject for a in carried.attachments if a.artifact.kind == REPORT_KIND}
        for image in carried.images:
            if image.descriptor.digest not in reported:
                raise LayoutError(
                    f"{carried.name} for {image.arch} has no report about {image.descriptor.digest}",
                    hint=f"buildctl test {carried.name}, then export it again; --bare carries the image alone",
                )


def signed_with(signer: KeySigner, carried: Carried) -> Carried:
    """With a signature of each image and of the index, over what is attached to it."""
    more = []
    for subject in carried.subjects:
        listed = [a.artifact.referrer.descriptor.digest for a in carried.attachments if a.subject == subject.digest]
        document = signed(signer.key, subject.digest, listed)
        more.append(Attachment(subject=subject.digest, artifact=artifact(subject, document)))
    return replace(carried, attachments=(*carried.attachments, *more))


def attachments_in(layout: Layout) -> tuple[Attachment, ...]:
    """Every artifact in the layout's index that names a subject."""
    found = []
    for descriptor in layout.entries():
        if descriptor.media_type in MANIFEST_TYPES:
            data = layout.read_bytes(descriptor)
            subject = parse_object(data, str(descriptor.digest)).get("subject")
            if isinstance(subject, dict):
                kind, parts, annotations = parse_artifact(data, f"{layout.root}: {descriptor.digest}")
                blobs = tuple(Blob(descriptor=part, path=layout.blob_path(part.digest)) for part in parts)
                made = Artifact(data=data, kind=kind, blobs=blobs, annotations=annotations)
                found.append(Attachment(subject=Descriptor.from_json(subject).digest, artifact=made))
    return tuple(found)


# out of a layout


def _of_project(open_project: Callable[[], Project], target: Target) -> bool:
    return "/" not in target.text and target.layout is not None and target.layout.root == open_project().layout


def _from_layout(target: Target, arch: str | None) -> Iterator[Carried]:
    layout = target.layout
    assert layout is not None  # noqa: S101 - the caller has looked
    images = target.of(arch)
    there = attachments_in(layout)
    for name in dict.fromkeys(image.name for image in images):
        mine = tuple(image for image in images if image.name == name)
        top = next(d for d in layout.entries() if (d.annotations.get(REF_NAME) or name) == name)
        whole = len({i.descriptor.digest for i in target.images if i.name == name}) == len(mine)
        carried = Carried(
            name=name,
            repository=REPOSITORY,
            layout=layout,
            descriptor=replace(top, annotations={}) if whole else mine[0].descriptor,
            images=mine,
        )
        subjects = {subject.digest for subject in carried.subjects}
        yield replace(carried, attachments=tuple(a for a in there if a.subject in subjects))


def _documented(project: Project, carried: Carried) -> Carried:
    """With what `publish` would attach."""
    documents = attached(project, sbom=True)
    cells = [_cell(project, carried, image) for image in carried.images]
    _refuse_half(project, carried, cells)
    more = []
    for image, locked in zip(carried.images, load_locked(project, cells), strict=True):
        report = read_report(project.report(locked.cell))
        about = report is not None and report.digest == image.descriptor.digest
        wanted = [Document(kind=REPORT_KIND, data=report_bytes(report))] if report is not None and about else []
        for document in (*wanted, *documents(locked, image.descriptor)):
            made = artifact(image.descriptor, document)
            more.append(Attachment(subject=image.descriptor.digest, artifact=made))
    return replace(carried, attachments=(*carried.attachments, *more))


def _cell(project: Project, carried: Carried, image: Image) -> Cell:
    for cell in project.matrix.cells:
        if carried.name in {cell.image, cell.id} and cell.arch == image.arch and not cell.native:
            return cell
    raise LayoutError(
        f"{carried.name} for {image.arch} is in {project.shown(project.layout)}, but not in the matrix",
        hint="--bare carries the image alone",
    )


def _refuse_half(project: Project, carried: Carried, cells: Sequence[Cell]) -> None:
    """An index must have all the architectures of the matrix."""
    if carried.descriptor.media_type in INDEX_TYPES:
        for cell in project.matrix.cells:
            if cell.image == carried.name and not cell.native and cell not in cells:
                raise LayoutError(
                    f"{cell.id} is not built", hint=f"buildctl build {cell.image}, or --arch {cells[0].arch}"
                )


# out of a registry


def _from_registry(target: Target, repository: Repository, arch: str | None, *, bare: bool) -> Carried:
    images = target.of(arch)
    refs = [brought(target, image) for image in images]
    layout = Layout(refs[0].layout)
    top = images[0].descriptor
    if len(images) > 1 or arch is None:
        top = _bring_indexes(repository, layout)
    reference = repository.reference
    carried = Carried(
        name=reference.tag or top.digest.short,
        repository=reference.name,
        layout=layout,
        descriptor=top,
        images=images,
    )
    return carried if bare else replace(carried, attachments=tuple(_attached_to(repository, carried.subjects)))


def _bring_indexes(repository: Repository, layout: Layout) -> Descriptor:
    """The manifest or index that the reference names, and every index and attestation below it, byte for byte."""
    top = repository.manifest(repository.reference.wanted)
    if top.descriptor.media_type not in INDEX_TYPES:
        return top.descriptor
    for entry in entries(repository, top):  # attestations of BuildKit, which the index names
        _bring_manifest(repository, layout, entry.descriptor)
    _bring_nested(repository, layout, top.descriptor, top.data)
    return top.descriptor


def _bring_nested(repository: Repository, layout: Layout, descriptor: Descriptor, data: bytes) -> None:
    for child in Index.from_json(parse_object(data, str(descriptor.digest))).manifests:
        if child.media_type in INDEX_TYPES:
            _bring_nested(repository, layout, child, repository.manifest(str(child.digest)).data)
    layout.write_bytes(descriptor.media_type, data)


def _bring_manifest(repository: Repository, layout: Layout, descriptor: Descriptor) -> None:
    if layout.blob_path(descriptor.digest).exists():
        return
    found = repository.manifest(str(descriptor.digest))
    _, parts, _ = parse_artifact(found.data, str(descriptor.digest))
    for part in parts:
        layout.write_bytes(part.media_type, repository.blob(part))
    layout.write_bytes(found.descriptor.media_type, found.data)


def _attached_to(repository: Repository, subjects: Iterable[Descriptor]) -> Iterator[Attachment]:
    for subject in subjects:
        for referrer in referrers(repository, subject.digest):
            yield Attachment(subject=subject.digest, artifact=fetch_artifact(repository, referrer))
