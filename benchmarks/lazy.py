"""What a lazy client fetches until a command in an image has its result, and how long that takes behind a network.

A model, not a snapshotter. The image is unpacked, the page cache of its files emptied, the command run there (chroot,
so as root, on the image's own architecture), and the kernel asked (mincore) which pages of which files it has read.
Then the tests' own lazy reader fetches from a registry what these are in: tables of contents, chunks, one after the
other, each checked, and plain layers whole. Seconds are those of fetching, plus those of the command with all files in
memory. A real client waits for each read in between, and passes it through FUSE; it is slower.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from measured import ROOT, Took, measured

sys.path.insert(0, str(ROOT))  # the tests' lazy reader

import zstandard

from buildctl.oci.chunked.twin import twin_of
from buildctl.oci.image import Descriptor, Manifest
from buildctl.oci.layout import Layout
from buildctl.oci.trees.unpack import unpack_image
from tests.support.lazy import STARGZ, Counted, LazyLayer, sha256, stargz_layer

INSIDE = 'mount --bind /dev "$0/dev"; mount -t proc proc "$0/proc"; exec chroot "$0" "$@"'
PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """The files that a command has read, with the numbers of the pages, and the turn of it with a full page cache."""

    pages: Mapping[str, set[int]]
    warm: Took


def reads_of(layout: Layout, image: Descriptor, root: Path, command: list[str]) -> Reads:
    """Unpacks into `root`."""
    unpack_image(layout, image, root)
    forget(root)
    argv = ["unshare", "--mount", "sh", "-euc", INSIDE, str(root), *command]
    subprocess.run(argv, check=True, capture_output=True)
    found = {str(path.relative_to(root)): pages for path in files(root) if (pages := cached(path))}
    warm, _ = measured(lambda: subprocess.run(argv, check=True, capture_output=True))
    return Reads(pages=found, warm=warm)


def fetch(netloc: str, repository: str, layout: Layout, image: Descriptor, reads: Reads) -> tuple[Took, int]:
    """What a lazy client of the twin fetches from the registry at `netloc`: seconds and bytes."""
    data = layout.read_bytes(image)
    manifest = Manifest.from_json(json.loads(twin_of(data) or data))

    def every() -> int:
        connection = http.client.HTTPConnection(netloc)
        count = sum(_layer(connection, repository, layer, reads.pages) for layer in manifest.layers)
        connection.close()
        return count

    return measured(every)


def _layer(
    connection: http.client.HTTPConnection, repository: str, layer: Descriptor, pages: Mapping[str, set[int]]
) -> int:
    def read(offset: int, size: int) -> bytes:
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        connection.request("GET", f"/v2/{repository}/blobs/{layer.digest}", headers=headers)
        return connection.getresponse().read()

    blob = Counted(read)
    if STARGZ not in layer.annotations:
        blob.read(0, layer.size)
        return layer.size
    lazy = stargz_layer(blob, layer.size, layer.annotations)
    for name, records in lazy.files.items():
        if name in pages:
            _chunks(lazy, records, pages[name])
    return blob.bytes


def _chunks(lazy: LazyLayer, records: list[Mapping[str, int]], pages: set[int]) -> None:
    """Of one file, those with a page that was read."""
    for record in records:
        at, size = record.get("chunkOffset", 0), record.get("chunkSize") or records[0].get("size", 0)
        if size and not pages.isdisjoint(range(at // PAGE, -(-(at + size) // PAGE))):
            packed = lazy.blob.read(record["offset"], lazy.ends[record["offset"]] - record["offset"])
            data = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read(size)
            assert sha256(data) == record["chunkDigest"]


def files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink() and path.is_file() and path.stat().st_size:
                yield path


def forget(root: Path) -> None:
    os.sync()
    for path in files(root):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached(path: Path) -> set[int]:
    """Numbers of the pages of a file that are in the page cache."""
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as view:
        there = (ctypes.c_ubyte * -(-size // PAGE))()
        first = ctypes.c_char.from_buffer(view)
        failed = LIBC.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), there)
        del first
        if failed:
            raise OSError(ctypes.get_errno(), str(path))
    return {number for number, byte in enumerate(there) if byte & 1}
