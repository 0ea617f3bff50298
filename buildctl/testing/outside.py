"""What an image holds, read from its layers. Nothing of it is run, so nothing in it can lie about it.

Whiteouts are applied and links are followed inside the image. `judging_outside` compares this with what the image
answers, and with what its labels and environment claim.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from buildctl.ground.errors import ArtifactError, LayoutError
from buildctl.lock.torch_wheel import VERSION, architectures, assignments
from buildctl.matrix.arch import ARCHES
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.tarread import LayerReader
from buildctl.oci.trees.merged import MergedTree, learn_image

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Docker's, for an image that sets none
_METADATA = re.compile(r"((?P<folder>.*)/)?[^/]+\.(dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
_PYTHON = re.compile(r"(.*/)?[^/]*python[^/]*")
_LIBRARY = re.compile(r"(.*/)?torch/lib/libtorch_python\.so")
_CPYTHON = re.compile(rb"Py_(BytesMain|RunMain|Main)\b")  # exported by a static one, wanted by one with libpython
_LIMIT = 1 << 20  # bytes of one text that are read
_LONGEST = 64
_LONG = 200  # characters of a name or version; an image may have thousands that claim a megabyte each


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A file that may be executed: its first bytes, and whether it is called python and names CPython's entry."""

    head: bytes
    cpython: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """What torch/version.py assigns, and the architectures in libtorch_python (None where no list is found)."""

    said: Mapping[str, str | None]
    architectures: tuple[str, ...] | None

    @property
    def version(self) -> str:
        return self.said.get("__version__") or ""


class Contents(MergedTree):
    """The tree of an image, with the few file contents that matter, by the place of their entry."""

    def __init__(self) -> None:
        super().__init__()
        self.metadata: dict[tuple[int, int], tuple[str, str]] = {}
        self.versions: dict[tuple[int, int], Mapping[str, str | None]] = {}
        self.lists: dict[tuple[int, int], tuple[str, ...]] = {}
        self.programs: dict[tuple[int, int], Program] = {}

    def make(self, path: str, info: tarfile.TarInfo, reader: LayerReader) -> None:
        if not (info.isdev() or info.isfifo()):  # which hide nothing that is looked for
            super().make(path, info, reader)

    def put(self, path: str, info: tarfile.TarInfo, reader: LayerReader) -> None:
        super().put(path, info, reader)
        if info.issym():
            return
        if _METADATA.fullmatch(path):
            self.metadata[self.place] = _name_and_version(reader.read(_LIMIT))
        elif f"/{path}".endswith(f"/{VERSION}"):
            self.versions[self.place] = _assigned(reader.read(_LIMIT), path)
        elif _LIBRARY.fullmatch(path):
            if (found := _architectures(reader, path)) is not None:
                self.lists[self.place] = found
        elif info.mode & 0o111:
            self.programs[self.place] = _program(reader, named=_PYTHON.fullmatch(path) is not None)


class Outside:
    """Answers about the layers of one image. Paths are given as in the image."""

    def __init__(self, layout: Layout, descriptor: Descriptor) -> None:
        """Reads all layers once. Raises LayoutError for a broken layer, or one that does not match its diff id."""
        self._tree = Contents()
        learn_image(self._tree, layout, descriptor)
        config = layout.config(descriptor)
        self._path = dict(config.env).get("PATH") or _PATH
        self._arch = config.platform.architecture
        self.distributions = frozenset(self._distributions())

    def _distributions(self) -> Iterator[tuple[str, str, str]]:
        """(normalized name, version, folder) of everything installed; the folder has no leading slash."""
        for path, node in self._tree.nodes.items():
            if node.place in self._tree.metadata and (match := _METADATA.fullmatch(path)):
                yield (*self._tree.metadata[node.place], match["folder"] or "")

    def real(self, path: str) -> str | None:
        return self._tree.resolve(path)

    @property
    def interpreter(self) -> str | None:
        """What `python` on the image's PATH really is, without the leading slash."""
        for folder in self._path.split(":"):
            real = self._tree.resolve(posixpath.join(folder, "python"))
            if real is not None and not self._tree.is_directory(real):
                return real
        return None

    @property
    def problem(self) -> str:
        """Why `python` is not an interpreter, so that its answers mean nothing; empty if it is one."""
        real = self.interpreter
        if real is None:
            return f"no python on its PATH ({self._path})"
        program = self._tree.programs.get(self._tree.nodes[real].place)
        head = program.head if program else b""
        if program is None or head[:4] != b"\x7fELF":
            first = head.splitlines()[0].decode("utf-8", "replace") if head[:2] == b"#!" else ""
            what = f"a script ({first})" if first else "not a program"
            return f"`python` is /{real}, {what}, not a Python interpreter: its answers mean nothing"
        known = ARCHES.get(self._arch)
        if known and int.from_bytes(head[18:20], "little") != known.elf:
            return f"`python` is /{real}, which is not a program for {self._arch}"
        return "" if program.cpython else f"`python` is /{real}, a program, but not CPython: its answers mean nothing"

    def torches(self) -> dict[str, Torch]:
        """Every torch, by the folder of its files."""
        found = {}
        for path, node in self._tree.nodes.items():
            if node.place in self._tree.versions and f"/{path}".endswith(f"/{VERSION}"):
                folder = posixpath.dirname(path)
                library = self._tree.nodes.get(f"{folder}/lib/libtorch_python.so")
                flags = self._tree.lists.get(library.place) if library else None
                found[folder] = Torch(said=self._tree.versions[node.place], architectures=flags)
        return found


def look(layout: Layout, descriptor: Descriptor) -> Outside | str:
    """What the layers hold, or why they cannot be read."""
    try:
        return Outside(layout, descriptor)
    except LayoutError as error:
        return error.message


def _name_and_version(data: bytes) -> tuple[str, str]:
    """The first of each, as `importlib.metadata` and the probe in the image read it."""
    header = data.decode("utf-8", "replace").partition("\n\n")[0].splitlines()
    fields = dict(line.partition(": ")[::2] for line in reversed(header))
    name, version = (fields.get(key, "?").strip()[:_LONG] for key in ("Name", "Version"))
    return canonicalize_name(name), version


def _assigned(data: bytes, path: str) -> Mapping[str, str | None]:
    try:
        return assignments(data, path)
    except ArtifactError:
        return {}


def _architectures(reader: LayerReader, path: str) -> tuple[str, ...] | None:
    try:
        return architectures(iter(reader.read, b""), path)
    except ArtifactError:  # a build without CUDA
        return None


def _program(reader: LayerReader, *, named: bool) -> Program:
    head = data = reader.read(_LONGEST)
    found = False
    while named and data:
        rest, data = data[-_LONGEST:], reader.read()
        found = found or _CPYTHON.search(rest + data) is not None
    return Program(head=head, cpython=found)
