from __future__ import annotations

import io

import pytest

from buildctl.ground.errors import LayoutError
from buildctl.oci import tarread
from buildctl.oci.image import MediaType
from buildctl.oci.tarread import LayerReader, layer_hashes
from tests.support.images import compress, file, tar

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
