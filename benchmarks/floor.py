"""The floor: what turning wheels into layers costs at the very least, with the same C libraries and nothing else.

Every byte of every wheel is inflated (isal), hashed (SHA-256, as the tar would be), compressed (zstandard, in frames of
16 MiB with buildctl's parameters) and hashed again, in two processes, largest wheel first. No tar, no checks, no
bytecode, no disk but reading.

    python benchmarks/floor.py WHEEL...
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

from isal import igzip_lib

from buildctl.oci.compression import FRAME, ZSTD, compressor

READ, INFLATE = 1 << 18, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """`seconds` of wall time with `processes` processes; bytes of the archives, unpacked, and compressed again."""

    seconds: float
    processes: int
    wheels: int
    archive_bytes: int
    content_bytes: int
    layer_bytes: int


def measure(wheels: Sequence[Path], *, processes: int = 2) -> Floor:
    """Start-up of the processes is not counted; as children of this one, their CPU is. Wheels are in the page cache or
    are read from the disk as they come.
    """
    largest_first = sorted(wheels, key=_content_size, reverse=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(time.sleep, [0.2] * processes))
        start = time.perf_counter()
        sizes = list(pool.map(one, largest_first))
        seconds = time.perf_counter() - start
    return Floor(
        seconds=round(seconds, 2),
        processes=processes,
        wheels=len(wheels),
        archive_bytes=sum(w.stat().st_size for w in wheels),
        content_bytes=sum(content for content, _ in sizes),
        layer_bytes=sum(layer for _, layer in sizes),
    )


def _content_size(wheel: Path) -> int:
    with zipfile.ZipFile(wheel) as archive:
        return sum(info.file_size for info in archive.infolist())


def one(wheel: Path) -> tuple[int, int]:
    """Bytes of content and of the layer."""
    tar, blob = hashlib.sha256(), hashlib.sha256()
    zstd = compressor(ZSTD.level)
    content = layer = 0
    with zipfile.ZipFile(wheel) as archive, wheel.open("rb", buffering=0) as file:
        for frame in _frames(_contents(archive, file)):
            content += len(frame)
            tar.update(frame)
            compressed = zstd.compress(frame)
            layer += len(compressed)
            blob.update(compressed)
    return content, layer


def _frames(pieces: Iterator[bytes]) -> Iterator[memoryview]:
    frame, filled = memoryview(bytearray(FRAME)), 0
    for piece in pieces:
        head = piece[: FRAME - filled]
        frame[filled : filled + len(head)] = head
        filled += len(head)
        if filled == FRAME:
            yield frame
            rest = piece[len(head) :]
            frame[: len(rest)], filled = rest, len(rest)
    yield frame[:filled]


def _contents(archive: zipfile.ZipFile, file: BinaryIO) -> Iterator[bytes]:
    for info in archive.infolist():
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
        file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
        yield from _pieces(file, info)


def _pieces(file: BinaryIO, info: zipfile.ZipInfo) -> Iterator[bytes]:
    left = info.compress_size
    stream = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
    while left:
        raw = file.read(min(READ, left))
        left -= len(raw)
        if info.compress_type == zipfile.ZIP_STORED:
            yield raw
            continue
        yield stream.decompress(raw, INFLATE)
        while not stream.needs_input and not stream.eof:
            yield stream.decompress(b"", INFLATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(asdict(measure(arguments.wheels, processes=arguments.processes))))


if __name__ == "__main__":
    main()
