"""Bytecode that was made before, kept in the store by Python, path in the image and source: nothing is compiled twice.

bytecode/<python>/<hex>   a pack: bytecode that one layer had to make, then an index, whose SHA-256 is the name

The index has the hash of every piece, so a pack that was changed, or copied to another name, is not used. Like
everything in the store, packs are not signed: layers that are signed are made in a store of their own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from buildctl.artifacts.bytecode import DEPENDS_ON, BuildPython, Compilation
from buildctl.artifacts.store import Store, recipe_key
from buildctl.ground.errors import EngineError
from buildctl.oci.files import translated
from buildctl.oci.trees.kept import remove_tree

FOLDER = "bytecode"
MOST = 1 << 30  # bytes of all packs; those that were used least recently go
_ROW = struct.Struct("<32s32sQ")  # key, SHA-256 and length of the bytecode; nothing is kept for what does not compile
_COUNT = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCompiler:
    """A `Compiler`: `python`, started only for what it has not compiled before. `identity` is what its bytecode depends
    on besides path and source.
    """

    python: BuildPython
    identity: str
    store: Store

    @property
    def tag(self) -> str:
        return self.python.tag

    @contextlib.contextmanager
    def open(self) -> Iterator[Compilation]:
        """Raises EngineError if the Python cannot start or fails."""
        with contextlib.ExitStack() as held:
            shelf = _Shelf(self.store, recipe_key("bytecode", self.identity, self.tag, DEPENDS_ON), held)
            yield _Kept(shelf, lambda: held.enter_context(self.python.open()))


class _Kept:
    """What is known is checked when the source comes, and read when the layer is ready for it: memory stays small."""

    def __init__(self, shelf: _Shelf, start: Callable[[], Compilation]) -> None:
        self._shelf, self._start = shelf, start
        self._made: Compilation | None = None
        self._given: list[tuple[bytes, _Place | None]] = []

    def add(self, path: str, source: bytes) -> None:
        key = self._shelf.key(path, source)
        place = self._shelf.find(key)
        if place is None:
            self._made = self._made or self._start()
            self._made.add(path, source)
        self._given.append((key, place))

    def results(self) -> Iterator[bytes | None]:
        """Raises EngineError, also if what was found has changed since."""
        if self._made is None:
            yield from (self._shelf.read(place) for _, place in self._given if place)
            return
        made = self._made.results()
        with self._shelf.pack() as pack:
            for key, place in self._given:
                data = self._shelf.read(place) if place else next(made)
                if data and not place:
                    pack.add(key, data)
                yield data


@dataclass(frozen=True, slots=True)
class _Place:
    pack: Path
    at: int
    size: int
    sha256: bytes


class _Shelf:
    """The packs of one Python. Those that turn out to be damaged are taken away, with a message."""

    def __init__(self, store: Store, python: str, held: contextlib.ExitStack) -> None:
        self._store, self._python, self._held = store, python, held
        self._folder = store.root / FOLDER / python
        self._places: dict[bytes, _Place] = {}
        self._files: dict[Path, IO[bytes]] = {}  # those that something was found in
        for path in sorted(self._folder.glob("*")):
            try:
                state = path.lstat()
                self._places |= _known_index(path, state.st_ino, state.st_mode, state.st_size)
            except (OSError, ValueError) as error:
                self._discard(path, error)

    def key(self, path: str, source: bytes) -> bytes:
        return hashlib.sha256(f"{self._python}\0{path}\0".encode() + hashlib.sha256(source).digest()).digest()

    def find(self, key: bytes) -> _Place | None:
        """Where it is, if it is known and right."""
        place = self._places.get(key)
        if place is None:
            return None
        try:
            _read(self._file(place.pack), place)
        except (OSError, ValueError) as error:
            self._discard(place.pack, error)
            self._places = {k: p for k, p in self._places.items() if p.pack != place.pack}
            return None
        return place

    def read(self, place: _Place) -> bytes:
        try:
            return _read(self._file(place.pack), place)
        except (OSError, ValueError) as error:
            raise EngineError(f"{place.pack} has changed while it was read", hint="run the command again") from error

    def _file(self, path: Path) -> IO[bytes]:
        if path not in self._files:
            self._files[path] = self._held.enter_context(path.open("rb", buffering=0))
            with contextlib.suppress(OSError):
                os.utime(path)  # used now
        return self._files[path]

    def _discard(self, path: Path, error: OSError | ValueError) -> None:
        """A whole pack that cannot be read now (too many open files, no permission) stays, and is not used."""
        if isinstance(error, ValueError):
            self._store.discard(path, "it does not match its SHA-256; the bytecode in it is made again")

    @contextlib.contextmanager
    def pack(self) -> Iterator[_Pack]:
        """To write to; it appears when the block ends. What is not on the disk after a power cut is found out."""
        with translated(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        with self._store.temporary() as path:
            with translated(path), path.open("wb") as file:
                pack = _Pack(file)
                yield pack
                name = pack.finish()
            if name:
                with translated(self._folder):
                    path.chmod(0o644)
                    path.replace(self._folder / name)
        _trim(self._store)


class _Pack:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._rows = file, list[bytes]()

    def add(self, key: bytes, data: bytes) -> None:
        self._file.write(data)
        self._rows.append(_ROW.pack(key, hashlib.sha256(data).digest(), len(data)))

    def finish(self) -> str:
        """Its name; empty if nothing is in it."""
        rows = b"".join(self._rows)
        self._file.write(rows + _COUNT.pack(len(self._rows)))
        return hashlib.sha256(rows).hexdigest() if rows else ""


def is_whole(path: Path) -> bool:
    """Whether a pack is what its name says, to the last byte."""
    try:
        places = _index(path)
        with path.open("rb") as file:
            for _, place in places:
                _read(file, place)
    except (OSError, ValueError):
        return False
    return True


@functools.cache
def _known_index(path: Path, *_: int) -> dict[bytes, _Place]:
    """`_index`, read once by a process that makes many layers; again if something else is there now."""
    return dict(_index(path))


def _index(path: Path) -> list[tuple[bytes, _Place]]:
    """Raises OSError, and ValueError for a pack that is not what its name says."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("not a file")
    with path.open("rb", buffering=0) as file:
        end = file.seek(0, os.SEEK_END) - _COUNT.size
        file.seek(max(end, 0))
        tail = file.read(_COUNT.size)
        start = end - _COUNT.unpack(tail)[0] * _ROW.size if len(tail) == _COUNT.size else -1
        file.seek(max(start, 0))
        rows = file.read(end - start) if start >= 0 else b""
    if hashlib.sha256(rows).hexdigest() != path.name:
        raise ValueError("another index")
    at, found = 0, list[tuple[bytes, _Place]]()
    for key, sha256, size in _ROW.iter_unpack(rows):
        found.append((key, _Place(path, at, size, sha256)))
        at += size
    if at != start:
        raise ValueError("another length")
    return found


def _read(file: IO[bytes], place: _Place) -> bytes:
    """Raises ValueError if it is not what the index says."""
    file.seek(place.at)
    data = file.read(place.size)
    if hashlib.sha256(data).digest() != place.sha256:
        raise ValueError("another content")
    return data


def _trim(store: Store) -> None:
    """Remove packs beyond MOST; another process may be doing the same."""
    found = list[tuple[float, int, Path]]()
    for path in (store.root / FOLDER).glob("*/*"):
        with contextlib.suppress(OSError):
            state = path.lstat()
            found.append((state.st_mtime, state.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > MOST:
            remove_tree(path)  # a folder in the place of a pack, too
