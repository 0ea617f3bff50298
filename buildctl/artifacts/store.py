"""The content-addressed store: artifacts as downloaded, layers as made. Shared by every project of a user.

artifacts/<2 hex>/<hex>   wheels and Debian packages under their SHA-256; only complete files
blobs/sha256/<hex>        finished layers
layers/<key>.json         recipe key -> layer
locks/<key>               held (flock) while the layer of a key is made
tmp/                      what is being written; whoever writes holds an flock, so leftovers of dead processes show
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, Self

from buildctl.ground.errors import EngineError, LayoutError
from buildctl.oci.compression import Compression
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry
from buildctl.oci.image import Descriptor, Layer, canonical_json
from buildctl.oci.layer import write_layer

# Part of every recipe key: raise it when the same inputs give other layer bytes, and old layers are no longer found.
RECIPE_VERSION = 3


def recipe_key(*parts: Any) -> str:
    """SHA-256 in hex over the canonical JSON of `parts` and the recipe version: what a layer is made from.

    Takes JSON values, digests, enums, frozen dataclasses and sequences of these; raises TypeError for anything else,
    paths above all: a key must not depend on where things are.
    """
    return hashlib.sha256(canonical_json([RECIPE_VERSION, [_plain(part) for part in parts]])).hexdigest()


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int():
            return value
        case Digest() | Enum():
            return str(value)
        case str():
            return value
        case Mapping():
            return {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _plain(asdict(value))
        case _:
            raise TypeError(f"not part of a recipe: {value!r}")


class LayerStore(Protocol):
    """Where layers are by recipe key. It crosses to worker processes. A cache elsewhere wraps the store of this
    machine: it brings here what it has when it is asked, and takes what was made.
    """

    def get(self, key: str) -> Layer | None:
        """The layer made for `key`, with its blob on this machine."""

    def put(
        self,
        key: str,
        entries: Callable[[], Iterable[Entry]],
        *,
        compression: Compression,
        on_bytes: Callable[[int], None] | None = None,
    ) -> tuple[Layer, bool]:
        """The layer of `key`, made from `entries()` if it is not there yet; True with it when this call made it."""

    def blob(self, digest: Digest) -> Path: ...


@dataclass(frozen=True, slots=True)
class Store:
    """A `LayerStore`, and the downloads that layers are made from."""

    root: Path

    @classmethod
    def default(cls) -> Self:
        """$BUILDCTL_CACHE, or `buildctl` in $XDG_CACHE_HOME or ~/.cache."""
        if own := os.environ.get("BUILDCTL_CACHE"):
            return cls(Path(own))
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        # the XDG specification: a relative path is to be ignored
        return cls((Path(xdg) if xdg.startswith("/") else Path.home() / ".cache") / "buildctl")

    def artifact_path(self, digest: Digest) -> Path:
        """Where the artifact is or will be; creates the folder; the file exists only if complete."""
        path = self.root / "artifacts" / digest.hex[:2] / digest.hex
        self._folder(path.parent)
        return path

    def artifact(self, digest: Digest) -> Path | None:
        path = self.root / "artifacts" / digest.hex[:2] / digest.hex
        return path if path.is_file() else None

    def blob(self, digest: Digest) -> Path:
        return self.root / "blobs" / "sha256" / digest.hex

    def get(self, key: str) -> Layer | None:
        """The layer made for `key`, if its blob is there with the right size."""
        try:
            layer = _layer_from_json(json.loads(self._key_path(key).read_bytes()))
            size = self.blob(layer.descriptor.digest).stat().st_size
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, LayoutError):
            return None
        return layer if size == layer.descriptor.size else None

    def put(
        self,
        key: str,
        entries: Callable[[], Iterable[Entry]],
        *,
        compression: Compression,
        on_bytes: Callable[[int], None] | None = None,
    ) -> tuple[Layer, bool]:
        """The layer of `key`, made from `entries()` if missing; with True if this call made it.

        Any number of processes may ask for the same key at once: one makes it, the others wait. Nothing appears before
        it is whole and on disk. Raises EngineError if the disk is full.
        """
        if found := self.get(key):
            return found, False
        with self._disk("making a layer"), self._lock(key):
            if found := self.get(key):
                return found, False
            with self.temporary() as path:
                with path.open("wb", buffering=1 << 18) as file:
                    layer = write_layer(entries(), file, compression=compression, on_bytes=on_bytes)
                    file.flush()
                    os.fsync(file.fileno())
                self._put(path, self.blob(layer.descriptor.digest))
            with self.temporary() as path:
                _write_synced(path, canonical_json(_layer_to_json(layer)))
                self._put(path, self._key_path(key))
        return layer, True

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """An empty file in tmp/ to write to and to rename into place; removed at the end if it is still there.

        It is locked while the block runs. Leftovers of dead processes are removed first.
        """
        folder = self.root / "tmp"
        with self._disk("writing"):
            self._folder(folder)
            self.sweep()
            path, lock = _create_locked(folder)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            os.close(lock)

    def sweep(self) -> None:
        """Remove temporary files that no living process holds."""
        with contextlib.suppress(FileNotFoundError):
            for path in sorted((self.root / "tmp").iterdir()):
                with contextlib.suppress(OSError):
                    _remove_if_unlocked(path)

    def _key_path(self, key: str) -> Path:
        return self.root / "layers" / f"{key}.json"

    def _folder(self, path: Path) -> None:
        with self._disk("creating a folder"):
            path.mkdir(parents=True, exist_ok=True)

    def _put(self, source: Path, target: Path) -> None:
        """Rename into place, and make the rename itself durable."""
        self._folder(target.parent)
        source.chmod(0o644)
        source.replace(target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        path = self.root / "locks" / key
        self._folder(path.parent)
        # never removed: a lock file that comes and goes lets two holders in, and an empty file costs nothing
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _disk(self, doing: str) -> Iterator[None]:
        """Turn an OSError into an error with place and hint."""
        try:
            yield
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise EngineError(
                    f"no space left in the store while {doing}: {self.root}{_free(self.root)}",
                    hint="free some space, or set BUILDCTL_CACHE to a folder on a larger disk; finished files are kept",
                ) from error
            if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
                raise EngineError(
                    f"cannot use the store ({error.strerror}) while {doing}: {error.filename or self.root}",
                    hint="set BUILDCTL_CACHE to a writable folder",
                ) from error
            raise


def _free(path: Path) -> str:
    try:
        return f" ({shutil.disk_usage(path).free / 1e6:.0f} MB free)"
    except OSError:
        return ""


def _create_locked(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.exists():  # else it was swept between the two calls
                return path, handle
        except OSError:
            path.unlink(missing_ok=True)
            os.close(handle)
            raise
        os.close(handle)


def _remove_if_unlocked(path: Path) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(handle)


def remove_tree(root: Path) -> None:
    """Including what an image made read-only."""

    def writable(_: Callable[..., object], path: str, __: object) -> None:
        with contextlib.suppress(OSError):
            Path(path).parent.chmod(0o700)
            Path(path).chmod(0o700)
            shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()

    shutil.rmtree(root, onerror=writable)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _layer_to_json(layer: Layer) -> dict[str, Any]:
    return {
        "descriptor": layer.descriptor.to_json(),
        "diffId": str(layer.diff_id),
        "uncompressedSize": layer.uncompressed_size,
    }


def _layer_from_json(value: Mapping[str, Any]) -> Layer:
    return Layer(
        descriptor=Descriptor.from_json(value["descriptor"]),
        diff_id=Digest.parse(value["diffId"]),
        uncompressed_size=int(value["uncompressedSize"]),
    )
