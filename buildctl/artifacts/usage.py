"""What the store takes on the disk, by kind, and removing some of it. Sizes are blocks on the disk, each inode once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from buildctl.artifacts.kept_bytecode import FOLDER as BYTECODE
from buildctl.artifacts.store import Store, layer_of
from buildctl.oci.trees.kept import remove_tree

_YOUNG = 3600.0  # seconds; a build may be about to name such a layer
_BLOCK = 512  # what st_blocks counts, on every system


class Sort(StrEnum):
    DOWNLOADS = "downloads"
    LAYERS = "layers"
    ORPHANS = "layers of nobody"
    UNPACKED = "unpacked trees"
    BYTECODE = "bytecode"
    OTHER = "other"


# What a build or test makes again by itself, without a download.
CHEAP = (Sort.UNPACKED, Sort.ORPHANS)
FOLDERS: Mapping[Sort, tuple[str, ...]] = {
    Sort.UNPACKED: ("unpacked", "unpacked-images", "pulled", "carried", "trees"),
    Sort.OTHER: ("python", "contents", "bases", "libraries", "remembered"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that can be removed: its `paths`, what that frees (`size`), and what stays because a layout has hard
    links to it (`shared`). `used` is when it was last made, linked or read, in seconds since 1970.
    """

    sort: Sort
    paths: tuple[Path, ...]
    size: int
    shared: int
    used: float


def items(store: Store) -> Iterator[Item]:
    """Everything in the store that can be removed; what is being written in tmp/ and locks/ is left out."""
    for path in [*_files(store.root / "artifacts", "*/*"), *_files(store.root / "partial", "*")]:
        yield from _item(Sort.DOWNLOADS, path)
    yield from _layers(store)
    for path in _files(store.root / BYTECODE, "*/*"):
        yield from _item(Sort.BYTECODE, path)
    for sort, folders in FOLDERS.items():
        for folder in folders:
            for path in sorted((store.root / folder).glob("*")):
                yield from _item(sort, path)


def _layers(store: Store) -> Iterator[Item]:
    """A layer goes with the keys that lead to it."""
    keys: dict[str, list[Path]] = {}
    for path in _files(store.root / "layers", "*.json"):
        layer = layer_of(path.stem, path.read_bytes())
        keys.setdefault(layer.descriptor.digest.hex if layer else "", []).append(path)
    for blob in _files(store.root / "blobs/sha256", "*"):
        yield from _item(Sort.LAYERS if blob.name in keys else Sort.ORPHANS, blob, *keys.get(blob.name, ()))


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _item(sort: Sort, *paths: Path) -> Iterator[Item]:
    """Nothing for what another process has just removed."""
    size = shared = 0
    with contextlib.suppress(FileNotFoundError):
        for path in paths:
            own, linked = measured(path)
            size, shared = size + own, shared + linked
        stat = paths[0].lstat()
        used = max(stat.st_atime, stat.st_mtime, stat.st_ctime)
        yield Item(sort=sort, paths=paths, size=size, shared=shared, used=used)


def measured(path: Path) -> tuple[int, int]:
    """Bytes on the disk that removing this file or tree frees, and those that other links keep."""
    links: dict[tuple[int, int], int] = {}
    seen: dict[tuple[int, int], os.stat_result] = {}
    for stat in _stats(path):
        key = (stat.st_dev, stat.st_ino)
        links[key] = links.get(key, 0) + 1
        seen[key] = stat
    kept = {key for key, stat in seen.items() if stat.st_nlink > links[key] and not _is_folder(stat)}
    sizes = {key: stat.st_blocks * _BLOCK for key, stat in seen.items()}
    return sum(count for key, count in sizes.items() if key not in kept), sum(sizes[key] for key in kept)


def _is_folder(stat: os.stat_result) -> bool:
    return (stat.st_mode & 0o170000) == 0o040000


def _stats(path: Path) -> Iterator[os.stat_result]:
    yield path.lstat()
    if path.is_dir() and not path.is_symlink():
        todo = [path]
        while todo:
            # gone meanwhile, not ours, or too deep for a path: what cannot be seen is not counted
            with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
                for entry in entries:
                    yield entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(Path(entry.path))


def chosen(found: Sequence[Item], sorts: Collection[Sort], *, now: float, unused: float = 0.0) -> tuple[Item, ...]:
    """Those of these sorts that nothing has used for `unused` seconds."""
    return tuple(
        item
        for item in found
        if item.sort in sorts and now - item.used >= max(unused, _YOUNG if item.sort is Sort.ORPHANS else 0.0)
    )


def remove(store: Store, gone: Sequence[Item]) -> int:
    """Returns the bytes of what was really removed. Keys go before the layers that they lead to."""
    freed = 0
    for item in gone:
        there = os.path.lexists(item.paths[0])  # another process may have been first
        for path in reversed(item.paths):
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)
            (store.root / "receipts" / path.name).unlink(missing_ok=True)
        freed += item.size if there and not os.path.lexists(item.paths[0]) else 0
    store.sweep()
    return freed
