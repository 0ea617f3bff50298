from __future__ import annotations

from buildctl.oci.chunked.table import CHECKSUM, POSITION, SPLIT_POSITION, TABLE
from buildctl.oci.chunked.twin import OF, STARGZ_TABLE, twin_of
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, Manifest, MediaType, canonical_json
from buildctl.oci.layout import parse_object

TOC = str(Digest.of(b"table"))
OURS = {CHECKSUM: str(Digest.of(b"packed")), POSITION: "1:2:3:1", SPLIT_POSITION: "4:5:6", TABLE: TOC}


def layer(name: str, **annotations: str) -> Descriptor:
    digest = Digest.of(name.encode())
    return Descriptor(media_type=MediaType.LAYER_ZSTD, digest=digest, size=9, annotations=annotations)


def manifest(*layers: Descriptor) -> bytes:
    config = Descriptor(media_type=MediaType.CONFIG, digest=Digest.of(b"{}"), size=2)
    return canonical_json(Manifest(config=config, layers=layers, annotations={"title": "x"}).to_json())


def test_a_twin_has_the_same_blobs_and_stargz_annotations_only() -> None:
    image = manifest(layer("plain", other="kept"), layer("chunked", other="kept", **OURS))
    data = twin_of(image)
    assert data is not None
    twin, original = (Manifest.from_json(parse_object(d, "")) for d in (data, image))
    assert (twin.config, [d.digest for d in twin.layers]) == (original.config, [d.digest for d in original.layers])
    assert [d.annotations for d in twin.layers] == [{"other": "kept"}, {"other": "kept", STARGZ_TABLE: TOC}]
    assert twin.annotations == {"title": "x", OF: str(Digest.of(image))}


def test_plain_images_and_twins_have_no_twin() -> None:
    assert twin_of(manifest(layer("plain"))) is None
    twin = twin_of(manifest(layer("chunked", **OURS)))
    assert twin is not None
    assert twin_of(twin) is None
