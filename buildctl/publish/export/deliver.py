"""`buildctl publish LAYOUT`: what an OCI layout or archive carries into a registry, byte for byte, with its documents.

There is no project and no lock here: names come from the layout, and a tag is set only where the report that came
along says that the image passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from buildctl.console.progress import Progress, Task
from buildctl.console.table import size, table
from buildctl.ground.errors import ExitCode, LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, blob_names
from buildctl.oci.layout import INDEX_TYPES, MANIFEST_TYPES, Layout, parse_object
from buildctl.publish.export.archives import SINCE
from buildctl.publish.export.parcel import Carried, find_carried
from buildctl.publish.lazy import Twins, lazy
from buildctl.publish.move import objection
from buildctl.publish.push import parallel
from buildctl.registry.client import Repository
from buildctl.registry.reference import is_tag
from buildctl.registry.referrers import Signer, attach_artifact
from buildctl.registry.upload import Blob, Upload
from buildctl.testing.merge import REPORT_KIND, merged, parse_report


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """One name of the layout. `sent` in bytes; `objection` is why the tag was not set, None if it was."""

    name: str
    digest: Digest
    sent: int
    documents: int
    objection: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "tag": self.name,
            "digest": str(self.digest),
            "bytesSent": self.sent,
            "documents": self.documents,
            "objection": self.objection,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    repository: str
    names: tuple[Delivered, ...]
    dry_run: bool

    @property
    def exit_code(self) -> int:
        """0, or 1 if a tag was refused."""
        return ExitCode.FAILED if any(one.objection for one in self.names) else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        return {
            "repository": self.repository,
            "dryRun": self.dry_run,
            "delivered": [one.to_json() for one in self.names],
        }

    def text(self) -> str:
        sent = "TO SEND" if self.dry_run else "SENT"
        rows = [
            (d.name, size(d.sent), str(d.documents), f"sha256:{d.digest.short}", d.objection or "") for d in self.names
        ]
        return table(("TAG", sent, "DOCUMENTS", "DIGEST", "REFUSED"), rows, right=frozenset({1, 2}))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverOptions:
    """`tag`: whether to set tags at all."""

    dry_run: bool = False
    tag: bool = True
    arch: str | None = None
    allow_not_run: frozenset[str] = frozenset()
    signer: Signer | None = None


def deliver(texts: Sequence[str], repository: Repository, options: DeliverOptions, *, progress: Progress) -> Delivery:
    """Push blobs, manifests, attachments, indexes, then tags, each with its twin. Raises BuildctlError; for a layer
    that neither the layout nor the repository has, before anything is sent.
    """
    found = tuple(c for text in texts for c in find_carried(_no_project, text, options.arch, bare=False))
    repository.ping()
    missing = {carried.name: _missing(repository, carried) for carried in found}
    done, sent = [], set[Digest]()
    for carried in found:
        todo = [blob for blob in missing[carried.name] if blob.digest not in sent]
        sent |= {blob.digest for blob in todo}
        done.append(_deliver(repository, carried, todo, options, progress))
        if options.tag and done[-1].objection is None and (twin := _twin(repository, carried, options)):
            done.append(twin)
    return Delivery(repository=repository.reference.name, names=tuple(done), dry_run=options.dry_run)


def _no_project() -> Any:
    raise LayoutError("this is not a layout or archive")


def _deliver(
    repository: Repository, carried: Carried, blobs: Sequence[Descriptor], options: DeliverOptions, progress: Progress
) -> Delivered:
    documents = 0
    if not options.dry_run:
        names = _names(carried)
        parallel(
            lambda blob: _send(repository, carried.layout, blob, progress.add(names[blob.digest], blob.size)), blobs
        )
        for descriptor in _deepest_first(carried):
            data = carried.layout.read_bytes(descriptor)
            repository.put_manifest(data, descriptor.media_type, str(descriptor.digest))
            mine = [a for a in carried.attachments if a.subject == descriptor.digest]
            documents += len([attach_artifact(repository, a.subject, a.artifact) for a in mine])
            if options.signer and descriptor in carried.subjects:
                options.signer.sign(repository, descriptor)
    why = _objection(carried, options.allow_not_run) if options.tag else None
    if options.tag and why is None and not options.dry_run:
        data = carried.layout.read_bytes(carried.descriptor)
        repository.put_manifest(data, carried.descriptor.media_type, carried.name)
    return Delivered(
        name=carried.name,
        digest=carried.descriptor.digest,
        sent=sum(blob.size for blob in blobs),
        documents=documents or len(carried.attachments),
        objection=why,
    )


def _twin(repository: Repository, carried: Carried, options: DeliverOptions) -> Delivered | None:
    """The tag for stargz, if the images have zstd:chunked layers or had them when it was last set."""
    layout, top, name = carried.layout, carried.descriptor, lazy(carried.name)
    images = {d.digest: layout.read_bytes(d) for d in layout.walk([top]) if d.media_type in MANIFEST_TYPES}
    twins = Twins(repository=repository, manifests=images)
    data = twins.under(top, layout.read_bytes(top))
    found = replace(top, digest=Digest.of(data), size=len(data), annotations={})
    if found.digest == top.digest and repository.head(name) is None:
        return None
    if not options.dry_run:
        twins.put()
        repository.put_manifest(data, found.media_type, str(found.digest))
        if options.signer is not None:
            for subject in {**twins.descriptors, found.digest: found}.values():
                options.signer.sign(repository, subject, ())
        repository.put_manifest(data, found.media_type, name)
    return Delivered(name=name, digest=found.digest, sent=0, documents=0, objection=None)


def _deepest_first(carried: Carried) -> list[Descriptor]:
    """Manifests before the indexes that name them."""
    return list(reversed(list(carried.layout.walk([carried.descriptor]))))


def _missing(repository: Repository, carried: Carried) -> list[Descriptor]:
    """What is to be sent. Raises LayoutError for what cannot be: it was left out, and is not there either."""
    layout = carried.layout
    blobs: dict[Digest, Descriptor] = {}
    for _, manifest in layout.manifests([carried.descriptor]):
        blobs |= {d.digest: d for d in (manifest.config, *manifest.layers)}
    there = parallel(lambda d: repository.blob_size(d.digest) == d.size, blobs.values())
    todo = [blob for blob, known in zip(blobs.values(), there, strict=True) if not known]
    absent = [blob for blob in todo if not layout.blob_path(blob.digest).is_file()]
    if absent:
        top = parse_object(layout.index_path.read_bytes(), str(layout.index_path))
        since = (top.get("annotations") or {}).get(SINCE, "")
        raise LayoutError(
            f"{carried.name}: {len(absent)} layers are not in {layout.root.name} or in {repository.reference.name}",
            hint=f"it holds only what is new since {since}: publish that first" if since else "export it again",
        )
    return sorted(todo, key=lambda d: (-d.size, d.digest))


def _names(carried: Carried) -> dict[Digest, str]:
    found: dict[Digest, str] = {}
    for _, manifest in carried.layout.manifests([carried.descriptor]):
        found = blob_names(manifest, carried.layout.config(manifest.config), carried.name) | found
    return found


def _send(repository: Repository, layout: Layout, blob: Descriptor, task: Task) -> None:
    Upload(repository, Blob(descriptor=blob, path=layout.blob_path(blob.digest)), task).run()
    task.finish()


def _objection(carried: Carried, allow: frozenset[str]) -> str | None:
    if not is_tag(carried.name):
        return f"{carried.name!r} cannot be a tag"
    for image in carried.images:
        reports = (
            parse_report(_document(blobs), f"report about {image.descriptor.digest}")
            for blobs in _reports(carried, image.descriptor.digest)
        )
        if why := objection(merged(reports), image.descriptor.digest, allow):
            where = f"{image.arch}: " if carried.descriptor.media_type in INDEX_TYPES else ""
            return f"{where}{why}"
    return None


def _reports(carried: Carried, subject: Digest) -> Iterable[tuple[Blob, ...]]:
    return [a.artifact.blobs for a in carried.attachments if a.subject == subject and a.artifact.kind == REPORT_KIND]


def _document(blobs: tuple[Blob, ...]) -> bytes:
    with closing(blobs[-1].open()) as file:
        return file.read()
