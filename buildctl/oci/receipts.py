"""Which files are known to hold what their digest says, so that they are not hashed every time.

A receipt is size, modification time (ns) and inode of a file whose content was hashed and found right. A file that
still has all three is believed; any other is hashed, and gets a new receipt. This catches whatever writes to a file,
and files restored from elsewhere. It does not catch a disk that flips bits by itself, nor somebody who forges receipts:
`fsck` and `publish` always hash, and cast `doubt` on what is wrong.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from buildctl.oci.digest import Digest

# receipts of folders that cannot be written to: worth as long as this process lives
_unwritten: dict[Path, str] = {}


@dataclass(frozen=True, slots=True)
class Receipts:
    """Receipts in `folder`, one for each digest. Losing them costs a hash."""

    folder: Path

    def genuine(self, path: Path, digest: Digest) -> bool:
        """Whether the file is there and holds what `digest` says; hashes it unless its receipt fits."""
        try:
            if self.noted(digest, path.stat()):
                return True
            with path.open("rb") as file:
                state = os.fstat(file.fileno())  # taken first, so that a change meanwhile shows the next time
                found = Digest.of_stream(file)
        except PermissionError:
            raise
        except OSError:  # not there, a folder, or on a disk that does not give it back
            return False
        if found == digest:
            self.note(digest, state)
        return found == digest

    def noted(self, digest: Digest, state: os.stat_result) -> bool:
        path = self._path(digest)
        try:
            known = path.read_text("ascii")
        except (OSError, UnicodeDecodeError):
            known = _unwritten.get(path, "")
        return known == _line(state)

    def note(self, digest: Digest, state: os.stat_result) -> None:
        """The file with this state was hashed and is right."""
        path = self._path(digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():  # damaged
                shutil.rmtree(path)
            path.write_text(_line(state), "ascii")  # one short write; half of it fits nothing
        except OSError:
            _unwritten[path] = _line(state)

    def _path(self, digest: Digest) -> Path:
        return self.folder / digest.hex


def doubt(path: Path) -> None:
    """What is in this file turned out to be wrong: no receipt, and no copy with its time, vouches for it any longer."""
    with suppress(OSError):
        os.utime(path)


def tree_state(root: Path) -> str:
    """One digest over names, kinds and modes of all that is in a folder, and size, time and inode of files.

    Raises OSError.
    """
    seen = hashlib.sha256()
    for name, state in sorted(_entries(root)):
        seen.update(f"{name}\0{state}\n".encode("utf-8", "surrogateescape"))
    return seen.hexdigest()


def _entries(root: Path) -> Iterator[tuple[str, str]]:
    todo = [""]
    while todo:
        below = todo.pop()
        with os.scandir(root / below) as found:
            for entry in found:
                name = f"{below}{entry.name}"
                state = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    todo.append(f"{name}/")
                    yield name, f"{state.st_mode:o}"
                else:
                    yield name, f"{state.st_mode:o} {_line(state)}"


def _line(state: os.stat_result) -> str:
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ino}\n"
