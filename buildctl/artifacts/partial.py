"""A file being downloaded into the store: it grows in parts, is hashed in order, and survives a kill.

`partial/<hex>` holds the bytes and `partial/<hex>.parts` the numbers of the whole parts. The rule that makes the hash
true: a region has one writer at a time, and is hashed after its last write. The writer's flock on the file keeps other
processes out; the hash at the end is what decides, so the journal needs no fsync.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from buildctl.artifacts.store import NO_WRITING, Store
from buildctl.ground.errors import EngineError
from buildctl.oci.digest import Digest
from buildctl.oci.files import FULL, make_room, out_of_inodes

PART = 16 << 20
_ABANDONED = 30 * 24 * 3600.0


class Partial:
    """One file of known size and digest. Methods may be called from several threads, `write` for disjoint regions."""

    def __init__(self, store: Store, digest: Digest, size: int) -> None:
        self.store, self.digest, self.size = store, digest, size
        self.path = folder(store) / digest.hex
        self.journal = self.path.with_name(f"{digest.hex}.parts")
        self.count = max(1, -(-size // PART))
        self._file: BinaryIO | None = None
        self._mutex, self._hashing = threading.Lock(), threading.Lock()
        self._begin(set())

    def _begin(self, done: set[int]) -> None:
        self.done = done
        self._hasher, self._hashed = hashlib.sha256(), 0

    @property
    def file(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError("open() must come first")
        return self._file

    def span(self, part: int) -> tuple[int, int]:
        """First byte, and the one after the last."""
        return part * PART, min((part + 1) * PART, self.size)

    def part_at(self, position: int) -> int:
        return position // PART

    @property
    def missing(self) -> list[int]:
        with self._mutex:
            return [part for part in range(self.count) if part not in self.done]

    @property
    def received(self) -> int:
        """Bytes in whole parts."""
        with self._mutex:
            return sum(end - start for start, end in map(self.span, self.done))

    def open(self) -> bool:
        """Become the only writer, and resume from an earlier run. False while another process is the writer."""
        with disk(self.path):
            file = open(self.path, "a+b", buffering=0)  # noqa: PTH123, SIM115 - kept open; creates, never truncates
        with disk(self.path), contextlib.ExitStack() as stack:
            stack.callback(file.close)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # else it was moved into the store, or removed, between the two calls
                if os.fstat(file.fileno()).st_ino != self.path.stat().st_ino:
                    return False
            except (BlockingIOError, FileNotFoundError):
                return False
            self._file = open(self.path, "r+b", buffering=0)  # noqa: PTH123, SIM115 - "a" would ignore the offset
            self._lock = stack.pop_all()
            kept = self._read_journal() if os.fstat(file.fileno()).st_size == self.size else None
            if kept is None:
                self.rewind()
            else:
                self._begin(kept)
        return True

    def _read_journal(self) -> set[int] | None:
        try:
            first, *lines = self.journal.read_text("ascii").split("\n")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        # the piece after the last newline is empty, or was cut short by a crash: never a number to trust
        return {int(n) for n in lines[:-1] if n.isdigit() and int(n) < self.count} if first == str(PART) else None

    def rewind(self) -> None:
        """Discard everything received. Only while nobody writes."""
        with disk(self.path), self._hashing, self._mutex:
            self.journal.write_text(f"{PART}\n", "ascii")
            self.file.truncate(0)
            self.file.truncate(self.size)
            self._begin(set())

    def write(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        with disk(self.path):
            while view:
                written = os.pwrite(self.file.fileno(), view, offset)
                view, offset = view[written:], offset + written

    def finish(self, part: int) -> None:
        """That part is written. Hashes what is complete from the start, unless another thread is at it."""
        with disk(self.journal), self._mutex:
            self.done.add(part)
            with self.journal.open("a", encoding="ascii") as file:
                file.write(f"{part}\n")
        if self._hashing.acquire(blocking=False):
            try:
                self._hash_prefix()
            finally:
                self._hashing.release()

    def _hash_prefix(self) -> None:
        while self._hashed in self.done:
            position, end = self.span(self._hashed)
            while position < end:
                data = os.pread(self.file.fileno(), min(1 << 20, end - position), position)
                if not data:
                    raise EngineError(f"{self.path} shrank while it was being written")
                self._hasher.update(data)
                position += len(data)
            self._hashed += 1

    def settle(self) -> Digest:
        """The digest of the complete file; if it is right, the file moves into the store. Only while nobody writes."""
        with self._hashing:
            self._hash_prefix()
            digest = Digest(self._hasher.hexdigest())
        if digest == self.digest:
            target = self.store.artifact_path(self.digest)
            with disk(self.path):
                os.fsync(self.file.fileno())
                self.path.chmod(0o644)
                self.path.replace(target)
                _sync(target.parent)
                self.store.receipts.note(self.digest, os.fstat(self.file.fileno()))
                self.journal.unlink(missing_ok=True)
            self.close()
        return digest

    def discard(self) -> None:
        """Remove it because its content is wrong. Only while nobody writes."""
        self.path.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Release the lock. Only while nobody writes."""
        if self._file is not None:
            self._file.close()
            self._lock.close()
            self._file = None


def folder(store: Store) -> Path:
    return store.root / "partial"


def prepare(store: Store, needed: int) -> None:
    """Make the folder, remove what was abandoned a month ago. Raises EngineError if `needed` bytes do not fit."""
    place = folder(store)
    with disk(place):
        place.mkdir(parents=True, exist_ok=True)
        for path in sorted(place.iterdir()):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()
        free = shutil.disk_usage(place).free
        # sparse files: bytes of an earlier run are already off the free space
        there = 0
        for path in place.iterdir():
            with contextlib.suppress(FileNotFoundError):
                there += path.stat().st_blocks * 512
    if free + there < needed:
        raise EngineError(
            f"not enough space for the downloads in {place}: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free",
            hint="free some space, or set BUILDCTL_CACHE to a folder on a larger disk",
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise EngineError(
                f"no {'inode' if out_of_inodes(path) else 'space'} left for downloads: {path}",
                hint=f"{make_room(path)}, or set BUILDCTL_CACHE to a folder on a larger disk; the next run resumes",
            ) from error
        raise EngineError(
            f"cannot write {error.filename or path}: {error.strerror or error}",
            hint="set BUILDCTL_CACHE to a writable folder" if error.errno in NO_WRITING else None,
        ) from error
