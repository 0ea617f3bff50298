"""Temporary folders that a killed command does not leave behind for good: the next one sweeps them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def scratch(kind: str, *, under: Path | None = None) -> Iterator[Path]:
    """A new folder `buildctl-KIND.*` in `under` (default: the system's place for these), removed at the end.

    It is locked (flock) while the block runs, so those of dead processes show; they are removed first.
    """
    place = under or Path(tempfile.gettempdir())
    _sweep(place)
    with contextlib.ExitStack() as held:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=f"buildctl-{kind}.", dir=place))
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                held.enter_context(_held(folder))
                if folder.exists():  # and was not swept between the two calls
                    break
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(place: Path) -> None:
    for folder in place.glob("buildctl-*.*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink():
                with _held(folder):
                    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """BlockingIOError if another process holds it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
