"""How the layers of an image become one file tree: what replaces what, and where a name leads.

Names are taken apart here: every directory on the way is checked, and symlinks on the way are followed inside the
tree alone, as a kernel would do after chroot.
"""

from __future__ import annotations

import stat
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from buildctl.ground import machine
from buildctl.ground.errors import LayoutError
from buildctl.oci.scan import clean_path
from buildctl.oci.tarread import LayerReader, is_bomb

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})
_MAX_LINKS = 40  # as many symlinks as Linux follows in one path


class LayerTree(ABC):
    """Receives the entries of layers, one after the other; what holds them is left to subclasses. Paths are relative to
    the root, which is "". With `stack` a whiteout raises LayoutError, as does what cannot be in a tree.

    `each` and `factor` say how much memory an entry takes: so many bytes, and so many times its path (measured). A few
    bytes of a blob may be thousands of folders in each other, every one with a path as long as its place is deep.
    """

    each, factor = 150, 1

    def __init__(self, *, stack: bool) -> None:
        self.stack = stack
        self.real: dict[str, str] = {"": ""}  # directories that were looked at: path as given -> path without symlinks
        self.added: set[str] = set()  # by this layer, with all directories on the way; whiteouts spare these
        self.held = 0  # bytes of memory for names so far, of all layers
        self.packed, self.reading = 0, 0  # bytes of the layers before this one, and of this one so far

    @abstractmethod
    def mode(self, path: str) -> int | None:
        """As lstat's; None if there is nothing."""

    @abstractmethod
    def link_target(self, path: str) -> str: ...

    @abstractmethod
    def names(self, path: str) -> Iterable[str]:
        """Of what is in the directory."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """With all that is below."""

    @abstractmethod
    def put_directory(self, path: str, info: tarfile.TarInfo, *, fresh: bool) -> None:
        """Make it, or (not `fresh`) give the one that is there this owner, mode and time."""

    @abstractmethod
    def put(self, path: str, info: tarfile.TarInfo, reader: LayerReader) -> None:
        """A file or symlink where there is nothing."""

    @abstractmethod
    def put_link(self, path: str, source: str, info: tarfile.TarInfo) -> None:
        """A hard link to `source`, of which the caller knows nothing."""

    def begin_layer(self) -> None:
        self.added.clear()
        self.packed += self.reading

    def _pay(self, path: str, reader: LayerReader) -> None:
        """For a path that is new in this layer. Raises LayoutError if there is not enough memory for it, or far more is
        needed than the layers' bytes account for.
        """
        self.reading = reader.size
        self.held += self.factor * len(path) + self.each
        if is_bomb(self.packed + self.reading, self.held):
            raise LayoutError(f"is one entry too many: {self.held >> 20} MB of names in so few bytes of layers")
        if self.held > machine.memory() // 2:
            raise LayoutError(
                f"is one entry too many: the names need {self.held >> 20} MB, more than half of this machine's memory"
            )

    def add(self, info: tarfile.TarInfo, reader: LayerReader) -> None:
        name = clean_path(info.name)
        folder, _, last = name.rpartition("/")
        if last.startswith(WHITEOUT):
            self.whiteout(folder, last)
            return
        path = f"{self.directory(folder)}/{last}".lstrip("/") if name else ""
        if info.isdir():
            there = self.is_directory(path)
            if not there:
                self.make_room(path)
            self.put_directory(path, info, fresh=not there)
        else:
            self.make_room(path)
            self.make(path, info, reader)
        while path and path not in self.added:
            self.added.add(path)
            self._pay(path, reader)
            path = path.rpartition("/")[0]

    def make(self, path: str, info: tarfile.TarInfo, reader: LayerReader) -> None:
        if info.type in FILES or info.issym():
            self.put(path, info, reader)
        elif info.islnk():
            folder, _, last = clean_path(info.linkname).rpartition("/")
            self.put_link(path, f"{self.directory(folder)}/{last}".lstrip("/"), info)
        else:
            raise LayoutError("is a device node, a FIFO or of unknown type, which are not supported")

    def is_directory(self, path: str) -> bool:
        mode = self.mode(path)
        return mode is not None and stat.S_ISDIR(mode)

    def directory(self, path: str) -> str:
        """The real path of a directory below the root; made when missing, with mode 0755, as other unpackers do."""
        known = self.real.get(path)
        if known is not None:
            return known
        done = self._walk(path, self._enter)
        self.real[path] = done
        return done

    def resolve(self, path: str) -> str | None:
        """`path` with all links followed; None if it leads nowhere, or in circles. Nothing is made."""
        try:
            return self._walk(path, self._find)
        except LayoutError:
            return None

    def _find(self, step: str, mode: int | None) -> None:
        if mode is None:
            raise LayoutError(f"leads to {step!r}, which is not there")

    def _enter(self, step: str, mode: int | None) -> None:
        if mode is None:
            self.put_directory(step, plain_directory(step), fresh=True)
        elif not stat.S_ISDIR(mode):
            raise LayoutError(f"is below {step!r}, which is not a directory")

    def _walk(self, path: str, pass_by: Callable[[str, int | None], None]) -> str:
        """Where `path` leads; `pass_by` gets each place on the way that is not a link, and its mode."""
        parts, done, links = path.split("/")[::-1], "", 0
        while parts:
            part = parts.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            step = f"{done}/{part}".lstrip("/")
            mode = self.mode(step)
            if mode is None or not stat.S_ISLNK(mode):
                pass_by(step, mode)
                done = step
                continue
            links += 1
            if links > _MAX_LINKS:
                raise LayoutError("is behind a loop of symlinks")
            target = self.link_target(step)
            done = "" if target.startswith("/") else done
            parts.extend(target.split("/")[::-1])
        return done

    def make_room(self, path: str) -> None:
        """Remove what is at `path`; a directory with all that is in it."""
        if self.mode(path) is None:
            return
        if not path:
            raise LayoutError("would replace the root directory")
        self.remove(path)
        self.real = {"": ""}

    def whiteout(self, folder: str, last: str) -> None:
        if self.stack:
            raise LayoutError("is a whiteout, which a stacked layer cannot have")
        where = self.directory(folder)
        if last == OPAQUE:
            self.remove_below(where)
            return
        gone = last.removeprefix(WHITEOUT)
        if gone in ("", ".", "..") or gone.startswith(WHITEOUT):
            raise LayoutError("is a whiteout that does not name an entry of its directory")
        self.remove_lower(f"{where}/{gone}".lstrip("/"))

    def remove_below(self, folder: str) -> None:
        for name in list(self.names(folder)):
            self.remove_lower(f"{folder}/{name}".lstrip("/"))

    def remove_lower(self, path: str) -> None:
        """Remove `path` except for what this layer added: its entries may come before the whiteout."""
        todo = [path]  # an image may be deeper than calls
        while todo:
            path = todo.pop()
            if path not in self.added:
                self.make_room(path)
            elif self.is_directory(path):
                todo += [f"{path}/{name}" for name in self.names(path)]


def plain_directory(path: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info
