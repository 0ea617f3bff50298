"""The twin of an image with zstd:chunked layers: a manifest over the same blobs with the annotations of stargz.

podman refuses a layer that has both its own annotations and those of stargz ("both zstd:chunked and eStargz TOC
found"), so one manifest cannot serve both. The twin is derived from the image's manifest, byte for byte: anyone who
trusts the image can make its twin, or check one.
"""

from __future__ import annotations

from dataclasses import replace

from buildctl.oci.chunked.table import CHECKSUM, POSITION, SPLIT_POSITION, TABLE
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, Manifest, canonical_json
from buildctl.oci.layout import parse_object

OF = "dev.buildctl.twin-of"  # an annotation of the twin: the digest of the image's manifest
STARGZ_TABLE = "containerd.io/snapshot/stargz/toc.digest"  # of the unpacked table


def twin_of(manifest: bytes) -> bytes | None:
    """The twin's manifest; None for an image without zstd:chunked layers. Raises LayoutError."""
    image = Manifest.from_json(parse_object(manifest, "the image's manifest"))
    if OF in image.annotations or not any(TABLE in layer.annotations for layer in image.layers):
        return None
    layers = tuple(map(_for_stargz, image.layers))
    annotations = {**image.annotations, OF: str(Digest.of(manifest))}
    return canonical_json(replace(image, layers=layers, annotations=annotations).to_json())


def _for_stargz(layer: Descriptor) -> Descriptor:
    said = {k: v for k, v in layer.annotations.items() if k not in {CHECKSUM, POSITION, SPLIT_POSITION, TABLE}}
    more = {STARGZ_TABLE: layer.annotations[TABLE]} if TABLE in layer.annotations else {}
    return replace(layer, annotations=said | more)
