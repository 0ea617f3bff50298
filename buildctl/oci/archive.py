"""An OCI layout in one file: a plain tar of `oci-layout`, `index.json` and `blobs/`, as podman and Docker read it."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry, directory_entry
from buildctl.oci.files import CHUNK, translated, write_whole
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import JSON_LIMIT, Layout, parse_object
from buildctl.oci.tar import BLOCK, header

BLOBS = "blobs/sha256/"
END = bytes(2 * BLOCK)
_TOP = ("oci-layout", "index.json")


def blob_name(digest: Digest) -> str:
    return f"{BLOBS}{digest.hex}"


def folders() -> Iterator[bytes]:
    """Of the blobs. Readers that make missing ones give them to root, which fails for everybody else (Apptainer)."""
    for name in ("blobs", "blobs/sha256"):
        yield header(directory_entry(name))


def member(name: str, data: bytes) -> Iterator[bytes]:
    yield header(Entry(path=name, size=len(data)))
    yield data + bytes(-len(data) % BLOCK)


def blob_member(layout: Layout, blob: Descriptor) -> Iterator[bytes]:
    """Raises LayoutError, at the end of its bytes, if it does not match its digest or size."""
    yield header(Entry(path=blob_name(blob.digest), size=blob.size))
    hasher, left = hashlib.sha256(), blob.size
    with layout.open_blob(blob.digest) as file:
        while left and (data := file.read(min(CHUNK, left))):
            hasher.update(data)
            left -= len(data)
            yield data
        longer = file.read(1)
    if left or longer or hasher.hexdigest() != blob.digest.hex:
        raise LayoutError(f"{layout.root}: blob {blob.digest} does not match its digest or size", hint="build it again")
    yield bytes(-blob.size % BLOCK)


def is_archive(path: Path) -> bool:
    """Whether it is a tar that begins as an OCI layout's does: with one of its two files or its folder of blobs."""
    try:
        with tarfile.open(path, "r:") as archive:
            first = archive.next()
    except (OSError, tarfile.TarError, ValueError):
        return False
    return first is not None and (first.name.removeprefix("./") in _TOP or first.name.startswith(("blobs", "./blobs")))


def unpack_archive(path: Path, target: Path, *, held: Callable[[Digest], Path | None]) -> Layout:
    """The layout of an archive in the new folder `target`, each blob hashed. Blobs that its manifests name and that it
    does not carry are taken from where `held` says they are; where that is nowhere they stay away.

    Raises LayoutError for a file that is cut, is not a layout, or has a blob that does not match its name.
    """
    layout = Layout(target)
    layout.create()
    index = b""
    try:
        with tarfile.open(path, "r:") as archive:
            for found in archive:
                name = found.name.removeprefix("./")
                body = archive.extractfile(found) if found.isreg() else None
                if body is None:
                    continue
                if name.startswith(BLOBS):
                    _take(layout, body, name.removeprefix(BLOBS), found.size, path)
                elif name == "index.json":
                    index = body.read(JSON_LIMIT)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise LayoutError(f"{path} is damaged or cut off: {error}", hint="copy it again") from error
    if not index:
        raise LayoutError(f"{path} has no index.json: it is damaged, cut off or not an OCI archive")
    parse_object(index, f"{path}: index.json")
    write_whole(layout.index_path, index)
    _complete(layout, held)
    return layout


def _take(layout: Layout, body: IO[bytes], name: str, size: int, path: Path) -> None:
    digest = Digest(name)
    temporary = layout.blobs / f".tmp-{name}"
    hasher, left = hashlib.sha256(), size
    with translated(temporary, size):
        try:
            with temporary.open("wb") as file:
                while left and (data := body.read(min(CHUNK, left))):
                    hasher.update(data)
                    left -= file.write(data)
            if left or hasher.hexdigest() != digest.hex:
                raise LayoutError(f"{path}: blob {digest} does not match its name", hint="copy the archive again")
            temporary.replace(layout.blob_path(digest))
        finally:
            temporary.unlink(missing_ok=True)


def _complete(layout: Layout, held: Callable[[Digest], Path | None]) -> None:
    for descriptor in needed(layout):
        if not layout.blob_path(descriptor.digest).exists() and (there := held(descriptor.digest)) is not None:
            layout.add_blob(there, descriptor.digest, descriptor.size)


def needed(layout: Layout) -> tuple[Descriptor, ...]:
    """Configuration and layers of every manifest that the layout leads to. Raises LayoutError for a manifest that is
    not there.
    """
    found: dict[Digest, Descriptor] = {}
    for _, manifest in layout.manifests(layout.entries()):
        found |= {d.digest: d for d in (manifest.config, *manifest.layers)}
    return tuple(found.values())
