"""Frames of a zstd layer: the same bytes however content is cut into pieces and however many threads there are."""

from __future__ import annotations

import hashlib
import io
import os
import random
from itertools import pairwise
from typing import Any

import pytest
import zstandard

from buildctl.ground.errors import UsageError
from buildctl.oci import compression
from buildctl.oci.compression import (
    CHUNKED,
    COMPRESSIONS,
    FRAME,
    GZIP,
    UNCOMPRESSED,
    ZSTD,
    Compression,
    compression_of,
    threads_of,
)
from buildctl.oci.entry import file_entry
from buildctl.oci.layer import write_layer
from tests.support.cores import free_cores
from tests.support.sources import PACKAGE

CONTENT = random.Random(1).randbytes(1 << 16) * 520  # 34 MB: two whole frames and a rest


def compressed(cuts: list[int], how: Compression = ZSTD, content: bytes = CONTENT) -> bytes:
    """`content`, written in pieces that end at `cuts`."""
    out = io.BytesIO()
    sink = how.open(out)
    for start, end in pairwise([0, *cuts, len(content)]):
        sink.write(content[start:end])
    sink.close()
    assert (sink.size, sink.sha256.digest()) == (len(out.getvalue()), hashlib.sha256(out.getvalue()).digest())
    return out.getvalue()


def frames(data: bytes) -> list[bytes]:
    found = []
    while data:
        stream = zstandard.ZstdDecompressor().decompressobj()
        found.append(stream.decompress(data))
        assert stream.eof
        data = stream.unused_data
    return found


def test_every_frame_but_the_last_holds_as_many_bytes() -> None:
    found = frames(compressed([]))
    assert [len(frame) for frame in found] == [FRAME, FRAME, len(CONTENT) - 2 * FRAME]
    assert b"".join(found) == CONTENT


@pytest.mark.parametrize(
    "cuts", [[FRAME], [1, FRAME - 1, FRAME + 1], [5, 5, 2 * FRAME], list(range(0, 1 << 25, 1 << 20))]
)
def test_the_bytes_do_not_depend_on_how_content_is_cut(cuts: list[int]) -> None:
    assert compressed(cuts) == compressed([])


@pytest.mark.parametrize(("threads", "level"), [(1, None), (2, None), (7, None), (2, "9")])
def test_the_bytes_do_not_depend_on_the_threads(
    threads: int, level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = compression_of("zstd", level)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    expected = compressed([], how)
    monkeypatch.setattr(compression, "_THREADS", threads)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    assert compressed([FRAME // 2], how) == expected


@pytest.mark.parametrize("cores", [0, 1, 7])
@pytest.mark.parametrize("how", [ZSTD, CHUNKED])
def test_the_bytes_do_not_depend_on_the_cores(how: Compression, cores: int) -> None:
    entries = [file_entry("a", CONTENT), file_entry("b", b"b"), file_entry("c", CONTENT[:FRAME])]
    expected = write_layer(entries, io.BytesIO(), compression=how)
    with free_cores(cores):
        assert write_layer(entries, io.BytesIO(), compression=how) == expected


def test_without_a_free_core_each_frame_is_compressed_when_it_is_full() -> None:
    with free_cores(0):
        sink = ZSTD.open(io.BytesIO())
        sink.write(CONTENT[: FRAME - 1])
        assert sink.size == 0
        sink.write(CONTENT[FRAME - 1 : FRAME])
        assert sink.size > 0


@pytest.mark.parametrize("method", ["zstd", "gzip", "zstd:chunked"])
def test_no_write_is_large(method: str) -> None:
    """Linux takes cold, large pages for a large write: copying into them costs several times as much."""
    written: list[bytes] = []

    class Recorded(io.BytesIO):
        def write(self, data: Any) -> int:
            written.append(bytes(data))
            return super().write(data)

    content = random.Random(3).randbytes(FRAME + 1000)
    layer = write_layer([file_entry("a", content)], out := Recorded(), compression=compression_of(method))
    assert max(map(len, written)) == 1 << 18
    assert b"".join(written) == out.getvalue()
    assert hashlib.sha256(out.getvalue()).hexdigest() == layer.descriptor.digest.hex


def test_content_that_ends_with_a_frame_has_no_empty_one_after_it() -> None:
    out = io.BytesIO()
    sink = ZSTD.open(out)
    sink.write(bytes(FRAME))
    sink.close()
    assert frames(out.getvalue()) == [bytes(FRAME)]


def test_another_size_of_frames_is_another_recipe() -> None:
    assert str(FRAME) in ZSTD.identity


def test_the_usual_levels_are_todays() -> None:
    assert {method: compression_of(method) for method in COMPRESSIONS} == COMPRESSIONS
    assert [compression_of(*named) for named in (("gzip", "6"), ("zstd:chunked", "3"))] == [GZIP, CHUNKED]
    assert [c.identity.split()[0] for c in COMPRESSIONS.values()] == ["zstd", "gzip-6", "zstd:chunked-3"]


def test_without_a_level_zstd_has_parameters_of_its_own() -> None:
    level_3 = compression_of("zstd", "3")
    assert ZSTD.identity.endswith(" window_log 23 hash_log 17 chain_log 17 min_match 6")
    assert ZSTD.at(3) == level_3
    assert ZSTD.identity != level_3.identity
    noise = random.Random(7).randbytes(7 << 20)  # which level 3, that looks back 2 MiB, does not find again
    assert len(compressed([], ZSTD, noise + noise)) < 7.1 * 2**20
    assert len(compressed([], level_3, noise + noise)) > 14 * 2**20


def test_every_client_has_the_memory_for_a_frame() -> None:
    """RFC 8878: a decoder should support a window of 8 MiB, and nobody has to support more."""
    for how in (ZSTD, *(ZSTD.at(level) for level in (1, 3, 9))):
        frame = compressed([], how, random.Random(7).randbytes(FRAME))
        assert zstandard.get_frame_parameters(frame).window_size <= 8 << 20


def test_each_level_is_another_recipe() -> None:
    levels = [c.at(level) for c in COMPRESSIONS.values() for level in c.levels]
    assert len({c.identity for c in (*levels, ZSTD, UNCOMPRESSED)}) == 19 + 9 + 19 + 1 + 1


@pytest.mark.parametrize("method", ["zstd", "gzip"])
def test_none_is_uncompressed(method: str) -> None:
    assert compression_of(method, "none") is UNCOMPRESSED


@pytest.mark.parametrize("method", COMPRESSIONS)
def test_a_higher_level_is_smaller(method: str) -> None:
    sources = b"".join(path.read_bytes() for path in sorted((PACKAGE / "oci").glob("*.py")))
    made = {}
    for level in ("1", "9"):
        layer = write_layer([file_entry("a", sources)], io.BytesIO(), compression=compression_of(method, level))
        made[layer.descriptor.size] = layer.diff_id
    low, high = made
    assert low > high
    assert made[low] == made[high]


@pytest.mark.parametrize(
    ("method", "level", "possible"),
    [
        ("zstd", "20", "1 to 19, or none for uncompressed layers"),
        ("zstd", "0", "1 to 19, or none for uncompressed layers"),
        ("zstd", "-1", "1 to 19, or none for uncompressed layers"),
        ("gzip", "12", "1 to 9, or none for uncompressed layers"),
        ("zstd:chunked", "none", "1 to 19"),
        ("zstd", "fast", "1 to 19, or none for uncompressed layers"),
    ],
)
def test_a_level_that_a_method_does_not_have(method: str, level: str, possible: str) -> None:
    with pytest.raises(UsageError) as caught:
        compression_of(method, level)
    assert caught.value.message == f"--compression-level: {method} has no level {level!r}"
    assert caught.value.hint == possible


def test_high_levels_use_fewer_threads_instead_of_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert [threads_of(level) for level in (0, 1, 3, 9, 19)] == [4, 4, 4, 4, 1]
