"""The content-addressed store: artifacts as downloaded, layers as made. Shared by every project of a user.

artifacts/<2 hex>/<hex>   wheels and Debian packages under their SHA-256; only complete files
blobs/sha256/<hex>        finished layers
layers/<key>.json         recipe key -> layer, sealed
receipts/<hex>            what an artifact or blob was when it was hashed last
locks/<key>               held (flock) while the layer of a key is made
tmp/                      what is being written; whoever writes holds an flock, so leftovers of dead processes show

Nothing in here is believed: artifacts and blobs are what their names say, by a receipt or else by hashing them. What
is not is removed, with a message, and fetched or made again.
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

from buildctl.artifacts.sealed import sealed, unsealed
from buildctl.console.log import say
from buildctl.ground.errors import EngineError, LayoutError
from buildctl.oci.compression import Compression
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry
from buildctl.oci.files import FULL, make_room, out_of_inodes
from buildctl.oci.image import Descriptor, Layer, canonical_json
from buildctl.oci.layer import write_layer
from buildctl.oci.receipts import Receipts
from buildctl.oci.trees.kept import remove_tree

# Part of every recipe key: raise it when the same inputs give other layer bytes, and old layers are no longer found.
RECIPE_VERSION = 4
NO_WRITING = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})
KEPT = "finished files are kept"
Source = Callable[[], Iterable[Entry]]
OnBytes = Callable[[int], None] | None


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
        self, key: str, entries: Source, *, compression: Compression, on_bytes: OnBytes = None
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
        """The artifact, if it is there and what its name says; a damaged one is taken away."""
        path = self.root / "artifacts" / digest.hex[:2] / digest.hex
        return path if self._is_genuine(path, digest, "it is fetched again when it is needed") else None

    def blob(self, digest: Digest) -> Path:
        return self.root / "blobs" / "sha256" / digest.hex

    @property
    def receipts(self) -> Receipts:
        return Receipts(self.root / "receipts")

    def get(self, key: str) -> Layer | None:
        """The layer made for `key`, if its blob is there and what its digest says; what is damaged is taken away."""
        layer = self._named(key)
        if layer is None:
            return None
        blob = self.blob(layer.descriptor.digest)
        return layer if self._is_genuine(blob, layer.descriptor.digest, "the layer is made again") else None

    def _named(self, key: str) -> Layer | None:
        """What layers/ says about a key."""
        path = self._key_path(key)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # a folder, or a disk that does not give it back
            data = b""
        layer = layer_of(key, data)
        if layer is None and _is_older(data):
            self._discard_older()
        elif layer is None:
            self.discard(path, "it does not say which layer it is about; the layer is made again")
        return layer

    def _discard_older(self) -> None:
        """Remove them all at once and report it in one line: a store of an earlier buildctl has one for each layer."""
        folder, count = self.root / "layers", 0
        with self._disk("removing what is out of date"):
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    if _is_older(path.read_bytes()):
                        path.unlink()
                        count += 1
        say(f"{folder}: {count} of an earlier buildctl are out of date; their layers are made again when needed")

    def _is_genuine(self, path: Path, digest: Digest, then: str) -> bool:
        with self._disk("reading"):
            if self.receipts.genuine(path, digest):
                return True
            self.discard(path, f"it does not match its SHA-256; {then}")
            return False

    def discard(self, path: Path, why: str) -> None:
        """Take it away and say so, if it is there and was not replaced by another process meanwhile."""
        if os.path.lexists(path):
            with self._disk("removing what is damaged"):
                remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)
            say(f"{path} was damaged: {why}")

    def put(
        self, key: str, entries: Source, *, compression: Compression, on_bytes: OnBytes = None
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
                with path.open("wb", buffering=1 << 17) as file:  # less than a sink writes at a time: no copy of that
                    layer = write_layer(entries(), file, compression=compression, on_bytes=on_bytes)
                    file.flush()
                    os.fsync(file.fileno())
                self._put_blob(path, layer.descriptor.digest)
            with self.temporary() as path:
                _write_synced(path, sealed(key, _layer_to_json(layer)))
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
        """Remove temporary files and locks that no living process holds."""
        for name in ("tmp", "locks"):
            with contextlib.suppress(FileNotFoundError):
                for path in sorted((self.root / name).iterdir()):
                    with contextlib.suppress(OSError):
                        _remove_if_unlocked(path)

    def _key_path(self, key: str) -> Path:
        return self.root / "layers" / f"{key}.json"

    def _folder(self, path: Path) -> None:
        with self._disk("creating a folder"):
            path.mkdir(parents=True, exist_ok=True)

    def _put_blob(self, source: Path, digest: Digest) -> None:
        """What is there already, for another key, stays: layouts share its bytes."""
        target = self.blob(digest)
        if not self.receipts.genuine(target, digest):
            if target.is_dir():
                remove_tree(target)
            self._put(source, target)
            self.receipts.note(digest, target.stat())

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
        handle = _open_locked(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is locked: whoever waits for it finds that it is gone
            os.close(handle)

    @contextlib.contextmanager
    def _disk(self, doing: str) -> Iterator[None]:
        """Turn an OSError into an error with place and hint."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                lacks, free = "inode" if out_of_inodes(self.root) else "space", _free(self.root)
                hint = f"{make_room(self.root)}, or set BUILDCTL_CACHE to a folder on a larger disk; "
                raise EngineError(
                    f"no {lacks} left in the store while {doing}: {self.root}{free}", hint=hint + KEPT
                ) from error
            raise EngineError(
                f"cannot use the store ({error.strerror or error}) while {doing}: {error.filename or self.root}",
                hint="set BUILDCTL_CACHE to a writable folder" if error.errno in NO_WRITING else None,
            ) from error


def _free(path: Path) -> str:
    try:
        return f" ({shutil.disk_usage(path).free / 1e6:.0f} MB free)"
    except OSError:
        return ""


def _create_locked(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.exists():  # else it was swept between the two calls
                return path, handle
        except OSError:
            path.unlink(missing_ok=True)
            os.close(handle)
            raise
        os.close(handle)


def _open_locked(path: Path) -> int:
    """An flock on the file that has this name. Its last holder removes it, so the name may be another's by then."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BaseException:
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


def layer_of(key: str, data: bytes) -> Layer | None:
    """What the file of a key says; None if it was changed, or is another key's."""
    value = unsealed(key, data)
    try:
        return None if value is None else _layer_from_json(value)
    except (LayoutError, KeyError, TypeError, ValueError):
        return None


def _is_older(data: bytes) -> bool:
    """Whether this names a layer as buildctl did before such files were sealed."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "descriptor" in value and "seal" not in value


def _layer_from_json(value: Mapping[str, Any]) -> Layer:
    return Layer(
        descriptor=Descriptor.from_json(value["descriptor"]),
        diff_id=Digest.parse(value["diffId"]),
        uncompressed_size=int(value["uncompressedSize"]),
    )
