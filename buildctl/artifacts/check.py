"""`buildctl fsck --store`: hash everything in the store, whatever its receipts say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from buildctl.artifacts.kept_bytecode import FOLDER, is_whole
from buildctl.artifacts.sealed import unsealed
from buildctl.artifacts.store import Store, layer_of
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.files import translated
from buildctl.oci.image import Layer
from buildctl.oci.layout import Layout
from buildctl.oci.receipts import doubt
from buildctl.oci.tarread import layer_hashes
from buildctl.oci.trees.kept import is_changed, remove_tree

Problem = tuple[Path, str]  # a file or folder, and what is wrong with it
TREES = ("python", "unpacked")


def check_store(store: Store, *, repair: bool = False) -> list[str]:
    """Problems of the store, each with its path; with `repair` what they name is removed, to be made or fetched again.

    What has only been written in part (tmp, partial downloads) is no problem.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [*_artifacts(store, pool), *_layers(store, pool), *_sealed(store), *_bytecode(store, pool)]
        problems += [*_trees(store), *_pulled(store)]
    for path, _ in problems if repair else ():
        with translated(path):
            remove_tree(path)
    return [f"{path}: {why}{', removed' if repair else ''}" for path, why in problems]


def _artifacts(store: Store, pool: ThreadPoolExecutor) -> Iterator[Problem]:
    files = [path for folder in _in(store.root / "artifacts") for path in _in(folder)]
    return _hashed(store, files, pool)


def _layers(store: Store, pool: ThreadPoolExecutor) -> Iterator[Problem]:
    """Blobs against their names; then each key's file against its name, and its blob against what it says."""
    bad = list(_hashed(store, _in(store.root / "blobs" / "sha256"), pool))
    yield from bad
    damaged, named = {path.name for path, _ in bad}, list[tuple[Path, Layer]]()
    for path in _in(store.root / "layers"):
        layer = layer_of(path.stem, _read(path))
        if layer is None:
            yield path, "it does not say which layer it is about"
        elif layer.descriptor.digest.hex in damaged or not store.blob(layer.descriptor.digest).exists():
            yield path, f"its layer {layer.descriptor.digest} is damaged or not there"
        else:
            named.append((path, layer))
    wrong = pool.map(lambda pair: _is_another(store, pair[1]), named)
    for (path, layer), why in zip(named, wrong, strict=True):
        if why:
            yield path, f"it describes {layer.descriptor.digest} wrongly: {why}"


def _is_another(store: Store, layer: Layer) -> str:
    blob = store.blob(layer.descriptor.digest)
    try:
        with blob.open("rb") as file:
            _, diff_id = layer_hashes(file, layer.descriptor.media_type, "the layer")
    except LayoutError as error:
        return error.message
    if blob.stat().st_size != layer.descriptor.size:
        return f"it has {blob.stat().st_size} bytes, not {layer.descriptor.size}"
    return "" if diff_id == layer.diff_id else f"its diff id is {diff_id}, not {layer.diff_id}"


def _sealed(store: Store) -> Iterator[Problem]:
    for path in _in(store.root / "contents"):
        if unsealed(path.stem, _read(path)) is None:
            yield path, "it does not say which layer it is about"


def _bytecode(store: Store, pool: ThreadPoolExecutor) -> Iterator[Problem]:
    packs = [path for folder in _in(store.root / FOLDER) for path in _in(folder)]
    for path, right in zip(packs, pool.map(is_whole, packs), strict=True):
        if not right:
            yield path, "it does not match its SHA-256"


def _trees(store: Store) -> Iterator[Problem]:
    for name in TREES:
        for folder in _in(store.root / name):
            below = _in(folder) if folder.name.startswith("ids-") else [folder]
            for tree in below:
                if len(tree.name) == len(Digest.of(b"").hex) and is_changed(tree):
                    yield tree, "it is not as it was unpacked"


def _pulled(store: Store) -> Iterator[Problem]:
    """Layouts of what came from registries."""
    for name in ("pulled", "bases"):
        blobs = Layout(store.root / name).blobs
        for path in _in(blobs):
            if not path.name.startswith(".") and not _is(path):
                yield path, "it does not match its SHA-256"


def _hashed(store: Store, files: list[Path], pool: ThreadPoolExecutor) -> Iterator[Problem]:
    for path, right in zip(files, pool.map(_noted(store), files), strict=True):
        if not right:
            yield path, "it does not match its SHA-256"


def _noted(store: Store) -> Callable[[Path], bool]:
    """Hash a file, and give a right one a receipt."""

    def check(path: Path) -> bool:
        state = path.stat()
        if right := _is(path):
            store.receipts.note(Digest(path.name), state)
        else:
            doubt(path)
        return right

    return check


def _is(path: Path) -> bool:
    try:
        return Digest.of_file(path).hex == path.name
    except OSError:
        return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
