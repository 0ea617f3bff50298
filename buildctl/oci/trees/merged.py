"""All layers of an image as one tar, whiteouts applied: owners, modes, times and hard links as the layers give them."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.entry import CAPABILITY, Entry, Kind, directory_entry
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.tar import BLOCK, RECORD, header, root_header
from buildctl.oci.tarread import LayerReader
from buildctl.oci.trees.tree import LayerTree


@dataclass(slots=True)
class Node:
    """What one or, of a file with hard links, several paths lead to; `place` is layer and number of the entry in it."""

    info: tarfile.TarInfo
    place: tuple[int, int]
    paths: set[str] = field(default_factory=set)


class MergedTree(LayerTree):
    """Only names and headers, in memory: 1.1 GB for a million entries."""

    each, factor = 900, 3

    def __init__(self) -> None:
        super().__init__(stack=False)
        self.nodes: dict[str, Node] = {}
        self.below: dict[str, set[str]] = {"": set()}
        self.place = (0, 0)
        self.root = directory_entry("")

    def mode(self, path: str) -> int | None:
        if not path:
            return stat.S_IFDIR
        node = self.nodes.get(path)
        if node is None:
            return None
        return stat.S_IFDIR if path in self.below else stat.S_IFLNK if node.info.issym() else stat.S_IFREG

    def link_target(self, path: str) -> str:
        return self.nodes[path].info.linkname

    def names(self, path: str) -> set[str]:
        return self.below[path]

    def remove(self, path: str) -> None:
        folder, _, last = path.rpartition("/")
        if folder in self.below:
            self.below[folder].discard(last)
        todo = [path]  # an image may be deeper than calls
        while todo:
            path = todo.pop()
            todo += [f"{path}/{name}" for name in self.below.pop(path, ())]
            self.nodes.pop(path).paths.discard(path)

    def put_directory(self, path: str, info: tarfile.TarInfo, *, fresh: bool) -> None:
        if path:
            self._name(path, Node(info, self.place))
        else:
            self.root = _entry("", info, Kind.DIRECTORY)
        if fresh:
            self.below[path] = set()

    def put(self, path: str, info: tarfile.TarInfo, reader: LayerReader) -> None:  # noqa: ARG002 - the second pass reads
        self._name(path, Node(info, self.place))

    def put_link(self, path: str, source: str, info: tarfile.TarInfo) -> None:
        node = self.nodes.get(source)
        if node is None or self.is_directory(source):
            raise LayoutError(f"is a hard link to {info.linkname!r}, which is not a file here")
        self._name(path, node)

    def _name(self, path: str, node: Node) -> None:
        node.paths.add(path)
        self.nodes[path] = node
        folder, _, last = path.rpartition("/")
        self.below[folder].add(last)


def merged_tar(layout: Layout, descriptor: Descriptor) -> Iterator[bytes]:
    """The same bytes for the same layers. Reads each layer twice; raises LayoutError before the first byte for a layer
    that does not match its diff id or cannot be unpacked, and later for one that changes meanwhile.

    Extended attributes are left out. Directories and symlinks come first, then files in the order of the layers.
    """
    tree = MergedTree()
    learn_image(tree, layout, descriptor)
    size = 0
    for data in _packed(tree, layout, layout.manifest(descriptor).layers):
        size += len(data)
        yield data
    yield bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)


def learn_image(tree: MergedTree, layout: Layout, descriptor: Descriptor) -> None:
    """All layers, lowest first. Raises LayoutError for one that does not match its diff id or cannot be unpacked."""
    manifest, config = layout.manifest(descriptor), layout.config(descriptor)
    if len(manifest.layers) != len(config.diff_ids):
        raise LayoutError(
            f"image {descriptor.digest}: {len(manifest.layers)} layers, but {len(config.diff_ids)} diff ids"
        )
    for number, (layer, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True)):
        with layout.open_blob(layer.digest) as file:
            _learn(tree, file, layer, number, diff_id)


def _learn(tree: MergedTree, file: BinaryIO, layer: Descriptor, number: int, diff_id: Digest) -> None:
    reader = LayerReader(file, layer.media_type, f"layer {layer.digest.short}", hash_blob=False)
    tree.begin_layer()
    for position, info in enumerate(reader):
        tree.place = (number, position)
        try:
            tree.add(info, reader)
        except LayoutError as error:
            raise LayoutError(f"{reader.where}: {info.name!r} {error.message}") from error
    if reader.diff_id != diff_id:
        raise LayoutError(f"{reader.where} has the diff id {reader.diff_id}, not {diff_id} as in the configuration")


def _packed(tree: MergedTree, layout: Layout, layers: tuple[Descriptor, ...]) -> Iterator[bytes]:
    files: dict[int, dict[int, Node]] = {}
    yield root_header(tree.root)
    for path, node in sorted(tree.nodes.items()):
        if path in tree.below:
            yield header(_entry(path, node.info, Kind.DIRECTORY))
        elif node.info.issym():
            if path == min(node.paths):
                yield header(_entry(path, node.info, Kind.SYMLINK))
                yield from _links(node)
        else:
            number, position = node.place
            files.setdefault(number, {})[position] = node
    for number, wanted in sorted(files.items()):
        layer = layers[number]
        with layout.open_blob(layer.digest) as file:
            reader = LayerReader(file, layer.media_type, f"layer {layer.digest.short}", hash_blob=False)
            for position, info in enumerate(reader):
                if position in wanted:
                    yield from _file(wanted.pop(position), info, reader)
        if wanted:
            raise LayoutError(f"layer {layer.digest.short} changed while it was read")


def _file(node: Node, info: tarfile.TarInfo, reader: LayerReader) -> Iterator[bytes]:
    if info.size != node.info.size:
        raise LayoutError(f"{reader.where} changed while it was read")
    yield header(_entry(min(node.paths), info, Kind.FILE))
    while data := reader.read():
        yield data
    yield bytes(-info.size % BLOCK)
    yield from _links(node)


def _links(node: Node) -> Iterator[bytes]:
    first, *others = sorted(node.paths)
    for path in others:
        yield header(_entry(path, node.info, Kind.HARDLINK, target=first))


def _entry(path: str, info: tarfile.TarInfo, kind: Kind, *, target: str = "") -> Entry:
    return Entry(
        path=path,
        kind=kind,
        mode=info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        size=info.size if kind is Kind.FILE else 0,
        mtime=max(0, int(info.mtime)),
        target=target or (info.linkname if kind is Kind.SYMLINK else ""),
        capability=info.pax_headers.get(CAPABILITY, "").encode("utf-8", "surrogateescape")
        if kind is Kind.FILE
        else b"",
    )
