"""How many bytes a client fetches lazily until a command in an image has its result: `benchmarks/lazy.py LAYOUT NAME`.

Unpacks the image into a folder, empties the page cache of its files, runs the command there (chroot, so as root, on the
image's own architecture), and asks the kernel (mincore) which pages of which files are in the cache afterwards. A lazy
client fetches the chunks that these are in, the tables of contents, and plain layers whole.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from buildctl.oci.chunked.read import read_table
from buildctl.oci.chunked.table import Chunk, Places
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.trees.unpack import unpack_image

COMMAND = ["python3", "-c", "import torch; print(torch.ones(3).sum())"]
INSIDE = 'mount --bind /dev "$0/dev"; mount -t proc proc "$0/proc"; exec chroot "$0" "$@"'
PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)


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


def pages(path: Path) -> set[int]:
    """Numbers of the pages in the cache."""
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as view:
        there = (ctypes.c_ubyte * -(-size // PAGE))()
        first = ctypes.c_char.from_buffer(view)
        failed = LIBC.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), there)
        del first
        if failed:
            raise OSError(ctypes.get_errno(), str(path))
    return {number for number, byte in enumerate(there) if byte & 1}


def touched(chunks: tuple[Chunk, ...], cached: set[int]) -> Iterator[Chunk]:
    at = 0
    for chunk in chunks:
        if not cached.isdisjoint(range(at // PAGE, -(-(at + chunk.size) // PAGE))):
            yield chunk
        at += chunk.size


def fetched(layout: Layout, layer: Descriptor, cached: dict[str, set[int]]) -> int:
    places = Places.of(layer)
    if places is None:
        return layer.size
    with layout.blob_path(layer.digest).open("rb") as blob:
        table = read_table(blob, places, layer.digest.short)
    wanted = [c for name, chunks in table.chunks.items() if name in cached for c in touched(chunks, cached[name])]
    return places.table.size + sum(chunk.end - chunk.start for chunk in wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", type=Path)
    parser.add_argument("name")
    parser.add_argument("command", nargs="*", default=COMMAND)
    given = parser.parse_args()
    layout = Layout(given.layout)
    image = layout.resolve(given.name, "amd64")
    with tempfile.TemporaryDirectory(dir=given.layout.parent) as folder:
        root = Path(folder, "root")
        unpack_image(layout, image, root)
        forget(root)
        argv = ["unshare", "--mount", "sh", "-euc", INSIDE, str(root), *given.command]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        cached = {str(path.relative_to(root)): found for path in files(root) if (found := pages(path))}
    layers = layout.manifest(image).layers
    counts = [fetched(layout, layer, cached) for layer in layers]
    plain = sum(layer.size for layer in layers if Places.of(layer) is None)
    answer = {
        "said": said,
        "files": len(cached),
        "pageBytes": sum(map(len, cached.values())) * PAGE,
        "fetchedBytes": sum(counts),
        "ofPlainLayers": plain,
        "imageBytes": sum(layer.size for layer in layers),
        "layers": {layer.digest.short: [count, layer.size] for layer, count in zip(layers, counts, strict=True)},
    }
    json.dump(answer, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
