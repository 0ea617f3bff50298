"""What is known of a layer without its bytes: the packages in it, and its files by path, size and hash.

Both lie next to the layer in the shared cache, so that the bill of materials and the check for files that two layers
bring do not need the layer. They are read from the finished layer, and are the same bytes for the same layer.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from buildctl.artifacts.contents import LayerContents, read_contents
from buildctl.ground.errors import LayoutError
from buildctl.oci.image import Descriptor, Layer, canonical_json
from buildctl.oci.tarread import CHUNK, LayerReader

CONTENTS_TYPE = "application/vnd.buildctl.contents.v2+json+zstd"
FILES_TYPE = "application/vnd.buildctl.files.v1+json+zstd"
FORMAT = 1
_LEVEL = 12
_LIMIT = 128 << 20  # bytes of a document before compression; a layer of 100,000 files needs 12 MB
HASH = 32  # hexadecimal digits, 128 bits: enough to tell files apart that a signature covers
# made again by every installer, from files that are compared: bytecode, and what tells who installed
_DERIVED = re.compile(r".*/__pycache__/[^/]+\.pyc|.*\.dist-info/(?:RECORD|INSTALLER|REQUESTED)")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFile:
    """A regular file of a layer; `content` is the beginning of its SHA-256 in hex, `label` names the layer."""

    path: str
    label: str
    size: int
    executable: bool
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The two documents about a layer, compressed."""

    contents: bytes
    files: bytes


class _Hashing:
    """The entries of a layer, with the hash of every regular file that has passed, whoever read how much of it."""

    def __init__(self, reader: LayerReader) -> None:
        self.where, self.files = reader.where, dict[str, tuple[int, bool, str]]()
        self._reader, self._hash = reader, hashlib.sha256()

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        for info in self._reader:
            self._hash = hashlib.sha256()
            yield info
            while self.read():
                pass
            if info.isreg() and not _DERIVED.fullmatch(info.name):
                self.files[info.name] = (info.size, bool(info.mode & 0o111), self._hash.hexdigest()[:HASH])

    def read(self, limit: int = CHUNK) -> bytes:
        data = self._reader.read(limit)
        self._hash.update(data)
        return data


def facts_of(path: Path, layer: Layer) -> Facts:
    """Read the layer's blob at `path`. Raises LayoutError if it is not the layer: facts of something else are lies."""
    contents, files = _read(path, layer.descriptor, layer)
    rows = [[name, size, executable, content] for name, (size, executable, content) in sorted(files.items())]
    return Facts(
        contents=_packed(contents.to_json()),
        files=_packed({"format": FORMAT, "files": rows}),
    )


def files_of(path: Path, layer: Layer, label: str) -> tuple[KnownFile, ...]:
    """The files of a layer whose blob is at `path`. Raises LayoutError."""
    return _known({name: list(row) for name, row in _read(path, layer.descriptor, layer)[1].items()}, label)


def parse_contents(data: bytes) -> LayerContents:
    """Raises LayoutError."""
    return LayerContents.parse(_unpacked(data))


def parse_files(data: bytes, label: str) -> tuple[KnownFile, ...]:
    """Raises LayoutError."""
    try:
        value = json.loads(_unpacked(data))
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']!r}")
        return _known({str(name): list(row) for name, *row in value["files"]}, label)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise LayoutError(f"{label}: not a list of files in format {FORMAT} ({error!r})") from error


def _known(files: Mapping[str, list[Any]], label: str) -> tuple[KnownFile, ...]:
    return tuple(
        KnownFile(path=name, label=label, size=int(size), executable=bool(executable), content=str(content))
        for name, (size, executable, content) in files.items()
    )


def _read(
    path: Path, descriptor: Descriptor, layer: Layer
) -> tuple[LayerContents, Mapping[str, tuple[int, bool, str]]]:
    try:
        with path.open("rb") as file:
            reader = LayerReader(file, descriptor.media_type, f"layer sha256:{descriptor.digest.short}")
            hashing = _Hashing(reader)
            contents = read_contents(hashing)
    except OSError as error:
        raise LayoutError(f"{path}: {error.strerror}", hint="build the image again") from error
    if (reader.digest, reader.diff_id) != (descriptor.digest, layer.diff_id):
        raise LayoutError(f"{path} is {reader.digest}, not layer {descriptor.digest}", hint="build the image again")
    return contents, hashing.files


def _packed(value: Any) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(canonical_json(value))


def _unpacked(data: bytes) -> bytes:
    try:
        size = zstandard.get_frame_parameters(data).content_size
        if not 0 < size <= _LIMIT:
            raise LayoutError(f"a document about a layer of {size} bytes, over the limit of {_LIMIT}")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=_LIMIT)
    except zstandard.ZstdError as error:
        raise LayoutError(f"a document about a layer is not zstd: {error}") from error
