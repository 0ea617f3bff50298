"""What `docker load` and `podman load` read: manifest.json and blobs, for newer ones as an OCI layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from buildctl.oci.archive import END, blob_member, blob_name, folders, member
from buildctl.oci.digest import Digest
from buildctl.oci.image import REF_NAME, Descriptor, Index, MediaType, canonical_json
from buildctl.oci.layout import LAYOUT_FILE, Layout


def archive(
    images: Sequence[tuple[Layout, Descriptor, str]], *, without: frozenset[Digest] = frozenset(), old: bool = False
) -> Iterator[bytes]:
    """Images with their tags, streamed. `without` are blobs to leave out. With `old` it is no OCI layout as well, which
    Apptainer 1.4 stumbles over; Docker's containerd store then gives the image another digest.

    Raises LayoutError, before the end of the stream, if a blob does not match its digest or size.
    """
    entries, listed = [], []
    for layout, descriptor, tag in images:
        manifest, name = layout.manifest(descriptor), full_name(tag)
        entries.append(
            Descriptor(
                media_type=MediaType.MANIFEST,
                digest=descriptor.digest,
                size=descriptor.size,
                platform=layout.config(manifest.config).platform,
                annotations={"io.containerd.image.name": name, REF_NAME: name.rpartition(":")[2]},
            )
        )
        listed.append(older(layout, descriptor, [tag]))
    yield from folders()
    if not old:
        yield from member("oci-layout", LAYOUT_FILE)
        yield from member("index.json", canonical_json(Index(manifests=tuple(entries)).to_json()))
    yield from member("manifest.json", canonical_json(listed))
    seen = set(without)
    for layout, descriptor, _ in images:
        manifest = layout.manifest(descriptor)
        for blob in (*(() if old else (descriptor,)), manifest.config, *manifest.layers):
            if blob.digest not in seen:
                seen.add(blob.digest)
                yield from blob_member(layout, blob)
    yield END


def older(layout: Layout, descriptor: Descriptor, tags: Sequence[str]) -> dict[str, Any]:
    """An image's entry of manifest.json."""
    manifest = layout.manifest(descriptor)
    return {
        "Config": blob_name(manifest.config.digest),
        "RepoTags": list(tags),
        "Layers": [blob_name(layer.digest) for layer in manifest.layers],
    }


def full_name(tag: str) -> str:
    """`cuda-2.6` -> `docker.io/library/cuda-2.6:latest`, as Docker writes names out."""
    first, slash, _ = tag.partition("/")
    if not slash:
        tag = f"docker.io/library/{tag}"
    elif "." not in first and ":" not in first and first != "localhost":
        tag = f"docker.io/{tag}"
    return tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"
