"""Frames of a zstd layer: the same bytes however content is cut into pieces and however many threads there are."""

from __future__ import annotations

import hashlib
import io
import os
import random
from itertools import pairwise

import pytest
import zstandard

from buildctl.oci import compression
from buildctl.oci.compression import FRAME, ZSTD

CONTENT = random.Random(1).randbytes(1 << 16) * 520  # 34 MB: two whole frames and a rest


def compressed(cuts: list[int]) -> bytes:
    """CONTENT, written in pieces that end at `cuts`."""
    out = io.BytesIO()
    sink = ZSTD.open(out)
    for start, end in pairwise([0, *cuts, len(CONTENT)]):
        sink.write(CONTENT[start:end])
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


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_bytes_do_not_depend_on_the_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compressed([])
    monkeypatch.setattr(compression, "_THREADS", threads)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    assert compressed([FRAME // 2]) == expected


def test_content_that_ends_with_a_frame_has_no_empty_one_after_it() -> None:
    out = io.BytesIO()
    sink = ZSTD.open(out)
    sink.write(bytes(FRAME))
    sink.close()
    assert frames(out.getvalue()) == [bytes(FRAME)]


def test_another_size_of_frames_is_another_recipe() -> None:
    assert str(FRAME) in ZSTD.identity
