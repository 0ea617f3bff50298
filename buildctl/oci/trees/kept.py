"""Folders that are unpacked once and used many times: they appear whole, and a changed one is noticed.

Next to the folder FOLDER stands FOLDER.receipt with the state of all that is in it. Whoever puts a folder in its place,
or takes one away, holds an flock on the parent; a process that is killed in between leaves a folder without a receipt,
which counts as changed.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from buildctl.oci.receipts import tree_state


def keep_tree(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`; another process may have been faster. Raises OSError."""
    with _alone(target.parent):
        if rename_tree(folder, target):
            remove_tree(_receipt(target))  # whatever is there
            _receipt(target).write_text(tree_state(target), "ascii")


def rename_tree(folder: Path, target: Path) -> bool:
    """False if there is something already, which is as good. Raises OSError."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def discard_changed(target: Path) -> bool:
    """Take away a folder that is not as it was kept; True if there was one. Raises OSError."""
    if _is_kept(target) is not False:
        return False
    with _alone(target.parent):
        if _is_kept(target) is not False:  # another process took it away, or has only just finished it
            return False
        gone = target.with_name(f".{target.name}.unpack-{secrets.token_hex(8)}")
        target.rename(gone)
        remove_tree(_receipt(target))
    remove_tree(gone)
    return True


def is_changed(target: Path) -> bool:
    """Whether it is there, but not as it was kept."""
    return _is_kept(target) is False


def remove_tree(folder: Path) -> None:
    """Remove what an image may have left: however deep, without write permission. What cannot be removed stays."""
    if folder.is_symlink() or not folder.is_dir():
        with suppress(OSError):
            folder.unlink()
        return
    todo, moved = [folder], f".gone-{secrets.token_hex(8)}-"
    for number in itertools.count():  # deeper folders are moved up, so that no path grows too long
        if number == len(todo):
            break
        for path in _emptied(todo[number]):
            there = path if todo[number] == folder else folder / f"{moved}{len(todo)}"
            with suppress(OSError):
                path.chmod(0o700)
                path.rename(there)
                todo.append(there)
    for path in reversed(todo):
        with suppress(OSError):
            path.rmdir()


def _emptied(folder: Path) -> list[Path]:
    """The folders in it, after everything else there was removed."""
    found = []
    with suppress(OSError):
        folder.chmod(0o700)
        with os.scandir(folder) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    found.append(Path(entry.path))
                else:
                    Path(entry.path).unlink(missing_ok=True)
    return found


def _is_kept(target: Path) -> bool | None:
    """None if it does not exist."""
    if not os.path.lexists(target):
        return None
    try:
        return _receipt(target).read_text("ascii") == tree_state(target)
    except (OSError, UnicodeDecodeError):
        return False


def _receipt(target: Path) -> Path:
    return target.with_name(f"{target.name}.receipt")


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    lock = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
