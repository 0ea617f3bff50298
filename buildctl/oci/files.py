"""Files that appear complete and on disk, or not at all, readable by everyone whatever the umask."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from buildctl.ground.errors import BuildctlError, EngineError, LayoutError, WriteError
from buildctl.oci.digest import Digest
from buildctl.oci.trees.kept import remove_tree

TEMPORARY = ".tmp-"  # prefix of the names of files that are still being written
CHUNK = 1 << 20
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FICLONE = 0x40049409  # linux/fs.h; shares the data of two files on btrfs, XFS and bcachefs
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EROFS, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})


def write_whole(target: Path, data: bytes) -> None:
    """Create or replace `target`; when this returns, file and name are on disk."""
    with _temporary(target) as temporary:
        with temporary.open("wb") as file:
            file.write(data)
            _finish(file)
        temporary.replace(target)
    sync_directory(target.parent)


def keep_whole(target: Path, data: bytes) -> None:
    """`write_whole` for files of our own, in store and layout: a folder under that name is damage, and goes."""
    if target.is_dir():
        remove_tree(target)
    write_whole(target, data)


def bring(source: Path, target: Path, digest: Digest, size: int) -> None:
    """Put the content of `source` at `target`: as a hard link, else a copy that shares its data, else a hashed copy.

    Only a real copy is hashed; the caller vouches for what can be linked. A copy has the time of `source`. The name is
    on disk only after a `sync_directory`. Raises LayoutError if size or digest is wrong.
    """
    try:
        actual = source.stat().st_size
    except OSError as error:
        raise LayoutError(f"cannot read blob {digest}: {source}: {error.strerror}") from error
    if actual != size:
        raise LayoutError(f"{source} has {actual} bytes, but blob {digest} must have {size}")
    with _temporary(target) as temporary:
        if not _link(source, temporary):
            copied = _copy(source, temporary)
            if copied is not None and copied != digest:
                raise LayoutError(f"{source} is {copied}, but must be blob {digest}")
            state = source.stat()
            os.utime(temporary, ns=(state.st_atime_ns, state.st_mtime_ns))
        if target.is_dir():
            remove_tree(target)
        temporary.replace(target)  # nothing, if both are the same file already


def sync_directory(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def translated(path: Path, size: int = 0) -> Iterator[None]:
    """Turn an OSError into the one error that the user reads: EngineError for a full disk, WriteError for the rest."""
    try:
        yield
    except (BuildctlError, BlockingIOError):  # the latter comes from a lock and is not a failure
        raise
    except OSError as error:
        if error.errno in FULL:
            raise full_disk(path, size) from error
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def full_disk(path: Path, size: int = 0) -> EngineError:
    """The error after writing `path`, or `size` bytes to it, failed with one of FULL."""
    need = f" ({size / 1e6:.1f} MB)" if size else ""
    lacks = "the file system has no inode left" if out_of_inodes(path) else "the disk is full"
    return EngineError(
        f"{lacks}: cannot write {path}{need}",
        hint=f"{make_room(path)} and run the command again; it resumes from finished files",
    )


def out_of_inodes(path: Path) -> bool:
    """Whether the file system of `path` has space for bytes, but not for one more file."""
    for place in (path, *path.parents):
        with suppress(OSError):
            state = os.statvfs(place)
            return state.f_files > 0 and state.f_favail == 0 and state.f_bavail > 0
    return False


def make_room(path: Path) -> str:
    """The beginning of a hint after a write failed with one of FULL."""
    return "remove some files there, however small," if out_of_inodes(path) else "free some space"


def has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def is_the_same(source: Path, target: Path) -> bool:
    """Whether `target` is `source`, or a copy that `bring` made of it."""
    try:
        here, there = target.stat(), source.stat()
    except OSError:
        return False
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def holds(path: Path, digest: Digest) -> bool:
    """Whether the content of the file is what the digest says; hashes it."""
    try:
        return Digest.of_file(path) == digest
    except OSError:
        return False


def make_directory(path: Path, *, again: bool = False) -> None:
    """Make a directory that other users can read, whatever the umask; `again` after a possibly killed attempt."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        if not again:
            return
    path.chmod(0o755)


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    path = target.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
    try:
        yield path
    finally:
        with suppress(OSError):  # must not hide the real error: on a read-only file system this also fails
            path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> bool:
    """False if the file system, or the owner of `source`, does not allow it."""
    try:
        with source.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o777 != 0o644:
                os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.link(source, target)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def _copy(source: Path, target: Path) -> Digest | None:
    """Copy to a new file, on disk when this returns; None when the file system shared the data instead of copying."""
    with source.open("rb") as reader, target.open("wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            seen = hashlib.sha256()
            while chunk := reader.read(CHUNK):
                seen.update(chunk)
                writer.write(chunk)
            _finish(writer)
            return Digest(seen.hexdigest())
        _finish(writer)
        return None


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fchmod(file.fileno(), 0o644)
    os.fsync(file.fileno())
