"""The two kinds of archives, as the pieces of a tar: for `docker load`, and an OCI layout with all that is attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from buildctl.docker.archive import archive, full_name, older
from buildctl.oci.archive import END, blob_member, blob_name, folders, member
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry
from buildctl.oci.image import REF_NAME, Descriptor, MediaType, canonical_json
from buildctl.oci.layout import INDEX_TYPES, LAYOUT_FILE, Layout
from buildctl.oci.tar import BLOCK, header
from buildctl.publish.export.parcel import Carried
from buildctl.registry.upload import Blob

SINCE = "dev.buildctl.since"  # what has the blobs that an archive leaves out


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """What the other side has: `name` as the user gave it, and the digests of its blobs."""

    name: str
    digests: frozenset[Digest]


def docker_archive(found: Sequence[Carried]) -> Iterator[bytes]:
    """Images of several architectures under one name get that architecture behind it, as in our own Docker tags."""
    return archive([(c.layout, i.descriptor, tag) for c in found for i, tag in tagged(c)], old=True)


def tagged(carried: Carried) -> Iterator[tuple[Any, str]]:
    """Each image with its name for Docker: REPOSITORY:NAME, with -ARCH where there are several."""
    for image in carried.images:
        arch = f"-{image.arch}" if len(carried.images) > 1 else ""
        yield image, f"{carried.repository}:{carried.name}{arch}"


def oci_archive(found: Sequence[Carried], since: Since | None) -> Iterator[bytes]:
    """As oras and skopeo lay it out: artifacts stand in index.json without a name, and name their subject.

    A whole one has Docker's manifest.json too, which lets `podman load` and older Docker find every image.
    """
    top: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": str(MediaType.INDEX),
        "manifests": [*map(_entry, found), *_artifacts(found)],
        **({"annotations": {SINCE: since.name}} if since else {}),
    }
    yield from folders()
    yield from member("oci-layout", LAYOUT_FILE)
    yield from member("index.json", canonical_json(top))
    if since is None:
        old = [older(c.layout, image.descriptor, [tag]) for c in found for image, tag in tagged(c)]
        yield from member("manifest.json", canonical_json(old))
    for write in (documents(found) | layers(found, since)).values():
        yield from write()
    yield END


def left_out(found: Sequence[Carried], since: Since | None) -> int:
    """Bytes of layers that the other side has."""
    sizes = {d.digest: d.size for carried in found for d in _layers(carried)}
    return sum(size for digest, size in sizes.items() if since and digest in since.digests)


def documents(found: Sequence[Carried]) -> dict[Digest, Callable[[], Iterator[bytes]]]:
    """Indexes, manifests, configurations and what is attached: always carried."""
    out: dict[Digest, Callable[[], Iterator[bytes]]] = {}
    for carried in found:
        layout = carried.layout
        for descriptor in layout.walk([carried.descriptor]):
            out[descriptor.digest] = _from(layout, descriptor)
            if descriptor.media_type not in INDEX_TYPES:
                config = layout.manifest(descriptor).config
                out[config.digest] = _from(layout, config)
    for carried in found:
        for attachment in carried.attachments:
            for blob in attachment.artifact.blobs:
                out[blob.descriptor.digest] = _whole(blob)
            out[attachment.artifact.referrer.descriptor.digest] = _whole(Blob.of(attachment.artifact.data, ""))
    return dict(sorted(out.items()))


def layers(found: Sequence[Carried], since: Since | None) -> dict[Digest, Callable[[], Iterator[bytes]]]:
    there = since.digests if since else frozenset()
    out = {d.digest: _from(c.layout, d) for c in found for d in _layers(c) if d.digest not in there}
    return dict(sorted(out.items()))


def _layers(carried: Carried) -> Iterator[Descriptor]:
    for _, manifest in carried.layout.manifests([carried.descriptor]):
        yield from manifest.layers


def _from(layout: Layout, descriptor: Descriptor) -> Callable[[], Iterator[bytes]]:
    return lambda: blob_member(layout, descriptor)


def _whole(blob: Blob) -> Callable[[], Iterator[bytes]]:
    def write() -> Iterator[bytes]:
        yield header(Entry(path=blob_name(blob.descriptor.digest), size=blob.descriptor.size))
        with closing(blob.open()) as file:
            data = file.read()
        yield data + bytes(-len(data) % BLOCK)

    return write


def _entry(carried: Carried) -> dict[str, Any]:
    platform = carried.images[0].config.platform if carried.descriptor.media_type not in INDEX_TYPES else None
    names = {REF_NAME: carried.name, "io.containerd.image.name": full_name(f"{carried.repository}:{carried.name}")}
    return replace(carried.descriptor, platform=platform, annotations=names).to_json()


def _artifacts(found: Sequence[Carried]) -> list[dict[str, Any]]:
    listed = {a.artifact.referrer.descriptor.digest: a.artifact.referrer for c in found for a in c.attachments}
    return [referrer.to_json() for _, referrer in sorted(listed.items())]
