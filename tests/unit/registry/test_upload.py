"""What is sent is hashed first, whatever any receipt says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, MediaType
from buildctl.registry.upload import Blob
from tests.support.images import compress, file, tar

TAR = tar(file("a", b"content" * 100))


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    data = compress(TAR)
    (tmp_path / "blob").write_bytes(data)
    descriptor = Descriptor(media_type=MediaType.LAYER_ZSTD, digest=Digest.of(data), size=len(data))
    return Blob(descriptor=descriptor, path=tmp_path / "blob", diff_id=Digest.of(TAR))


def test_a_true_layer_may_be_sent(blob: Blob) -> None:
    blob.refuse_damage()
    replace(blob, diff_id=None).refuse_damage()


@pytest.mark.parametrize("diff_id", [True, False])
def test_a_flipped_byte_is_not_sent_and_the_file_is_in_doubt(blob: Blob, diff_id: bool) -> None:
    assert blob.path is not None
    data, before = bytearray(blob.path.read_bytes()), blob.path.stat().st_mtime_ns
    data[-5] ^= 1
    blob.path.write_bytes(data)
    with pytest.raises(LayoutError, match="is not the blob sha256:") as caught:
        (blob if diff_id else replace(blob, diff_id=None)).refuse_damage()
    assert caught.value.hint == "build again"
    assert blob.path.stat().st_mtime_ns > before  # so the next build hashes it


@pytest.mark.parametrize("media_type", [MediaType.LAYER_GZIP, MediaType.LAYER_TAR, "application/x-other"])
def test_a_layer_of_another_type_or_diff_id_is_not_sent(blob: Blob, media_type: str) -> None:
    with pytest.raises(LayoutError, match="is not the blob"):
        replace(blob, descriptor=replace(blob.descriptor, media_type=media_type)).refuse_damage()
    with pytest.raises(LayoutError, match="its content does not match"):
        replace(blob, diff_id=Digest.of(b"")).refuse_damage()
