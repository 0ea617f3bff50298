from __future__ import annotations

import io

import pytest

from buildctl.ground.errors import LayoutError
from buildctl.oci import tarread
from buildctl.oci.entry import CAPABILITY
from buildctl.oci.image import MediaType
from buildctl.oci.tarread import LayerReader, layer_hashes
from tests.support.images import Member, compress, file, symlink, tar

KINDS = {"zstd": MediaType.LAYER_ZSTD, "gzip": MediaType.LAYER_GZIP}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_refused_while_it_is_read(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(tarread, "_BOMB_SIZE", 1 << 20)
    bomb = compress(tar(file("zeros", bytes(32 << 20))), KINDS[kind])
    with pytest.raises(LayoutError, match=r"a layer: \d+ bytes unpack to more than \d+: a bomb"):
        list(LayerReader(io.BytesIO(bomb), KINDS[kind], "a layer"))
    with pytest.raises(LayoutError, match="a bomb"):
        layer_hashes(io.BytesIO(bomb), KINDS[kind], "a layer")


def test_zeros_below_the_limit_are_read() -> None:
    zeros = compress(tar(file("zeros", bytes(32 << 20))))
    assert [info.name for info in LayerReader(io.BytesIO(zeros), KINDS["zstd"], "a layer")] == ["zeros"]


def test_of_extended_headers_only_what_is_used_is_kept() -> None:
    """A header for all entries may have thousands of records, and each entry would keep all of them."""
    pax = {"path": "b", "comment": "x", "SCHILY.xattr.user.a": "y", CAPABILITY: "z"}
    layer = tar(Member(name="a", pax=tuple(pax.items())))
    (info,) = LayerReader(io.BytesIO(layer), MediaType.LAYER_TAR, "a layer")
    assert (info.name, info.pax_headers) == ("b", {CAPABILITY: "z"})


@pytest.mark.parametrize("member", [file("a/" * 3000 + "b"), symlink("a", "b/" * 3000)])
def test_a_name_that_no_system_takes_is_refused(member: Member) -> None:
    """A name of a million folders would be a million paths, each as long."""
    with pytest.raises(LayoutError, match="more than 4096 characters"):
        list(LayerReader(io.BytesIO(tar(member)), MediaType.LAYER_TAR, "a layer"))
