"""Which layers of an image a layout lacks, and where they are."""

from __future__ import annotations

from collections.abc import Iterable

from buildctl.oci.digest import Digest
from buildctl.oci.files import has_size
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.remote import Place, place_of


def absent(layout: Layout, descriptors: Iterable[Descriptor]) -> dict[Digest, Place]:
    """Of these images and indexes. A layer without a place is not listed: whoever opens it reports it."""
    layers = {d.digest: d for _, manifest in layout.manifests(descriptors) for d in manifest.layers}
    missing = [d for d in layers.values() if not has_size(layout.blob_path(d.digest), d.size)]
    found = ((d.digest, place_of(layout.root, d.digest)) for d in missing)
    return {digest: place for digest, place in found if place is not None}
