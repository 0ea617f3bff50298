"""An OCI image layout on disk (image-spec, image-layout.md), safe for writers in parallel, kills and full disks.

Order of appearance: blobs, then what names them, then index.json. A file appears under its final name only when it is
whole and on disk. Two lock files stand in the layout's directory: `.writers.lock` is shared by everybody who adds blobs
and exclusive for whoever removes some; `.index.lock` is exclusive around read, change, rename of index.json. Readers
take no lock. Blobs are hard links into the store where the file system allows it: never change one in place.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.files import (
    TEMPORARY,
    bring,
    has_size,
    holds,
    is_the_same,
    keep_whole,
    make_directory,
    sync_directory,
    translated,
)
from buildctl.oci.image import (
    REF_NAME,
    Descriptor,
    ImageConfig,
    Index,
    Layer,
    Manifest,
    MediaType,
    Platform,
    canonical_json,
)
from buildctl.oci.remote import place_of
from buildctl.oci.trees.kept import remove_tree

LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_TYPES = frozenset({MediaType.INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"})
MANIFEST_TYPES = frozenset({MediaType.MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"})
CONFIG_TYPES = frozenset({MediaType.CONFIG, "application/vnd.docker.container.image.v1+json"})
_ALGORITHM = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*")  # image-spec, descriptor.md, "digests"
JSON_LIMIT = 4 << 20  # bytes; what the distribution specification asks registries to take, so nothing bigger is made


class Layout:
    """A layout directory. Making the object touches nothing; `create` does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self.mended: list[str] = []  # what was found damaged and put right, for whoever tells the user

    def __repr__(self) -> str:
        return f"Layout({str(self.root)!r})"

    def blob_path(self, digest: Digest) -> Path:
        return self.blobs / digest.hex

    @property
    def index_path(self) -> Path:
        return self.root / "index.json"

    # writing

    def create(self) -> None:
        """Create what an empty layout lacks; `oci-layout` comes last, so if it exists, the layout is complete.

        Both files of a layout are made again if they are damaged; the old index is kept as `index.json.damaged`.
        """
        with translated(self.root):
            marker = self.root / "oci-layout"
            self._mend(marker)
            make_directory(self.root)
            for folder in (self.blobs.parent, self.blobs):
                make_directory(folder, again=not marker.exists())
            self._sweep()
            if not self.index_path.exists():
                with self._locked(".index.lock", fcntl.LOCK_EX):
                    if not self.index_path.exists():
                        self._replace(self.index_path, canonical_json(Index(manifests=()).to_json()))
            if not marker.exists():
                self._replace(marker, LAYOUT_FILE)

    def _mend(self, marker: Path) -> None:
        if not marker.is_file() and not self.blobs.is_dir():
            return  # whatever is here, it is not a layout yet
        if marker.is_dir() or (marker.is_file() and marker.read_bytes() != LAYOUT_FILE and _is_damaged_marker(marker)):
            remove_tree(marker)
            self.mended.append(f"{marker} was damaged: written again")
        with suppress(FileNotFoundError), self._locked(".index.lock", fcntl.LOCK_EX):
            try:
                self.read_index()
            except (IsADirectoryError, LayoutError) as error:
                if not self.index_path.exists():
                    return
                kept = self.index_path.with_name("index.json.damaged")
                remove_tree(kept)
                self.index_path.rename(kept)
                self.mended.append(f"{self.index_path} was damaged: begun again; build the other images, too ({error})")

    def add_blob(self, source: Path, digest: Digest, size: int) -> None:
        """Add the file `source` under its digest: a hard link, else a shared copy, else a copy that is hashed.

        What is there already stays if it is that file, a copy of it made here (it has its time), or hashes to the
        digest. The caller vouches for the digest of `source`. Raises LayoutError if the size, or what was copied, does
        not match; EngineError if the disk is full.
        """
        target = self.blob_path(digest)
        if is_the_same(source, target):
            return
        with self._locked(".writers.lock", fcntl.LOCK_SH), translated(target, size):
            if os.path.lexists(target) and not holds(target, digest):
                self.mended.append(f"{target} was damaged: put back")
            bring(source, target, digest, size)

    def write_bytes(self, media_type: str, data: bytes) -> Descriptor:
        """Store a small blob; returns its descriptor."""
        digest = Digest.of(data)
        target = self.blob_path(digest)
        if len(data) > JSON_LIMIT:
            raise LayoutError(f"{media_type} of {len(data)} bytes exceeds what registries accept ({JSON_LIMIT})")
        with self._locked(".writers.lock", fcntl.LOCK_SH), translated(target, len(data)):
            if not holds(target, digest):
                if os.path.lexists(target):
                    self.mended.append(f"{target} was damaged: written again")
                self._replace(target, data)
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def tag(self, descriptor: Descriptor, name: str) -> None:
        """Name `descriptor` in index.json, replacing the entry of that name; other entries stay."""
        entry = dataclasses.replace(descriptor, annotations={**descriptor.annotations, REF_NAME: name}).to_json()
        with self._locked(".index.lock", fcntl.LOCK_EX), translated(self.index_path):
            index = self._index_json()
            others = [m for m in index["manifests"] if _name(m) != name]
            manifests = sorted([*others, entry], key=lambda m: (_name(m), canonical_json(m)))
            if index["manifests"] != manifests:
                sync_directory(self.blobs)  # all that the new index names is on disk before the index is
                self._replace(self.index_path, canonical_json({**index, "manifests": manifests}))

    def put_image(
        self,
        *,
        name: str,
        config: ImageConfig,
        layers: Sequence[Layer],
        blob: Callable[[Digest], Path],
        annotations: Mapping[str, str] | None = None,
    ) -> Descriptor:
        """Store blobs, config and manifest, then tag; returns the manifest's descriptor, with platform, without name.

        The diff ids come from `layers`; a config with others is refused. `blob` gives the path of a layer's blob; one
        without a file stays out of the layout if `remote` knows where it is.
        """
        diff_ids = tuple(layer.diff_id for layer in layers)
        if config.diff_ids not in ((), diff_ids):
            raise LayoutError(f"{name}: the configuration's diff ids are not those of its layers")
        steps = sum(not step.empty_layer for step in config.history)
        if config.history and steps != len(layers):
            raise LayoutError(f"{name}: {steps} history steps make layers, but there are {len(layers)} layers")
        self.create()
        with self._locked(".writers.lock", fcntl.LOCK_SH):
            for layer in layers:
                self._add_layer(blob(layer.descriptor.digest), layer.descriptor)
            config = dataclasses.replace(config, diff_ids=diff_ids)
            manifest = Manifest(
                config=self.write_bytes(MediaType.CONFIG, canonical_json(config.to_json())),
                layers=tuple(layer.descriptor for layer in layers),
                annotations=annotations or {},
            )
            written = self.write_bytes(MediaType.MANIFEST, canonical_json(manifest.to_json()))
            descriptor = dataclasses.replace(written, platform=config.platform)
            self.tag(descriptor, name)
        return descriptor

    def _add_layer(self, path: Path, layer: Descriptor) -> None:
        if (
            path.exists()
            or has_size(self.blob_path(layer.digest), layer.size)
            or place_of(self.root, layer.digest) is None
        ):
            self.add_blob(path, layer.digest, layer.size)

    def put_index(
        self, *, name: str, manifests: Sequence[Descriptor], annotations: Mapping[str, str] | None = None
    ) -> Descriptor:
        """Store an image index over manifests that are in this layout, then tag it.

        Raises LayoutError if one is missing, has no platform, or two share a platform.
        """
        platforms = [m.platform for m in manifests]
        if None in platforms or len(set(platforms)) != len(platforms):
            found = ", ".join(str(p) for p in platforms)
            raise LayoutError(f"{name}: an index needs manifests of different platforms, not: {found}")
        self.create()
        with self._locked(".writers.lock", fcntl.LOCK_SH):
            for manifest in manifests:
                if not has_size(self.blob_path(manifest.digest), manifest.size):
                    raise LayoutError(f"{name}: manifest {manifest.digest} is not in {self.root}")
            ordered = tuple(sorted(manifests, key=lambda m: str(m.platform)))
            index = Index(manifests=ordered, annotations=annotations or {})
            descriptor = self.write_bytes(MediaType.INDEX, canonical_json(index.to_json()))
            self.tag(descriptor, name)
        return descriptor

    def prune(self) -> tuple[Digest, ...]:
        """Remove the blobs that index.json does not refer to, unless a writer is at work; returns what was removed."""
        with self._locked(".writers.lock", fcntl.LOCK_EX), translated(self.blobs):
            used = self.reachable(self.read_index().manifests)
            self._remove_temporaries()
            unused = sorted(p for p in self.blobs.iterdir() if len(p.name) == 64 and Digest(p.name) not in used)
            for path in unused:
                path.unlink()
        return tuple(Digest(path.name) for path in unused)

    # reading

    def read_index(self) -> Index:
        """Raises LayoutError if index.json is missing or malformed."""
        return Index.from_json(self._index_json())

    def entries(self) -> tuple[Descriptor, ...]:
        """The entries of index.json, without those whose digest algorithm is not supported."""
        ours = (m for m in self._index_json()["manifests"] if not _other_algorithm(m))
        return tuple(Descriptor.from_json(m) for m in ours)

    def names(self) -> tuple[str, ...]:
        named = (m.annotations.get(REF_NAME) for m in self.entries())
        return tuple(sorted({name for name in named if name}))

    def resolve(self, name: str, arch: str | None = None) -> Descriptor:
        """What `name` (or `sha256:...`, of anything that index.json leads to) points at.

        With `arch`, always an image manifest of that architecture. Raises LayoutError listing what is there.
        """
        if name.startswith("sha256:"):
            digest = Digest.parse(name)
            found = next((d for d in self.walk(self.entries()) if d.digest == digest), None)
        else:
            found = next((m for m in self.entries() if m.annotations.get(REF_NAME) == name), None)
        if found is None:
            there = ", ".join(self.names()) or "nothing"
            raise LayoutError(f"{self.root} has no {name}", hint=f"it has: {there}")
        return found if arch is None else self._of_architecture(found, name, arch)

    def index(self, descriptor: Descriptor) -> Index:
        return Index.from_json(self._json(descriptor))

    def manifest(self, descriptor: Descriptor) -> Manifest:
        return Manifest.from_json(self._json(descriptor))

    def config(self, descriptor: Descriptor) -> ImageConfig:
        """The configuration of an image, by the descriptor of its manifest or of the configuration itself."""
        if descriptor.media_type not in CONFIG_TYPES:
            descriptor = self.manifest(descriptor).config
        return ImageConfig.from_json(self._json(descriptor))

    def open_blob(self, digest: Digest) -> BinaryIO:
        """Raises LayoutError if it does not exist."""
        try:
            return self.blob_path(digest).open("rb")
        except OSError as error:
            raise LayoutError(f"{self.root}: blob {digest}: {error.strerror}") from error

    def read_bytes(self, descriptor: Descriptor) -> bytes:
        """A small blob, its size and digest verified; raises LayoutError."""
        where = f"{self.root}: {descriptor.media_type} {descriptor.digest}"
        if descriptor.size > JSON_LIMIT:
            raise LayoutError(f"{where} claims {descriptor.size} bytes, over the limit of {JSON_LIMIT}")
        with self.open_blob(descriptor.digest) as file:
            data = file.read(descriptor.size + 1)
        if len(data) != descriptor.size:
            size = self.blob_path(descriptor.digest).stat().st_size
            raise LayoutError(f"{where} has {size} bytes, not {descriptor.size} as in its descriptor")
        if Digest.of(data) != descriptor.digest:
            raise LayoutError(f"{where} does not match its digest")
        return data

    def reachable(self, descriptors: Iterable[Descriptor]) -> frozenset[Digest]:
        """The digests of everything that `descriptors` lead to, themselves included."""
        found: set[Digest] = set()
        for descriptor in self.walk(descriptors):
            found.add(descriptor.digest)
            if descriptor.media_type in MANIFEST_TYPES:
                manifest = self.manifest(descriptor)
                found.update(d.digest for d in (manifest.config, *manifest.layers))
        return frozenset(found)

    def manifests(self, descriptors: Iterable[Descriptor]) -> Iterator[tuple[Descriptor, Manifest]]:
        """Every manifest that `descriptors` lead to, those of artifacts among them."""
        for descriptor in self.walk(descriptors):
            if descriptor.media_type in MANIFEST_TYPES:
                yield descriptor, self.manifest(descriptor)

    def walk(self, descriptors: Iterable[Descriptor]) -> Iterator[Descriptor]:
        """These, and what the indexes among them lead to."""
        for descriptor in descriptors:
            yield descriptor
            if descriptor.media_type in INDEX_TYPES:
                yield from self.walk(self.index(descriptor).manifests)

    def _of_architecture(self, found: Descriptor, name: str, arch: str) -> Descriptor:
        images = [d for d in self.walk([found]) if d.media_type in MANIFEST_TYPES]
        platforms = [d.platform or self.config(d).platform for d in images]
        wanted = Platform(architecture=arch)
        for image, platform in zip(images, platforms, strict=True):
            if (platform.os, platform.architecture) == (wanted.os, wanted.architecture):
                return dataclasses.replace(image, platform=platform)
        there = ", ".join(str(p) for p in platforms) or "no image"
        raise LayoutError(f"{self.root}: {name} has no {wanted}", hint=f"it has: {there}")

    def _json(self, descriptor: Descriptor) -> dict[str, Any]:
        return parse_object(self.read_bytes(descriptor), f"{self.root}: {descriptor.media_type} {descriptor.digest}")

    def _index_json(self) -> dict[str, Any]:
        """The raw index, a list of dicts under `manifests`: fields that only other tools know survive a change."""
        try:
            value = parse_object(self.index_path.read_bytes(), str(self.index_path))
        except FileNotFoundError as error:
            raise LayoutError(
                f"{self.root} is not an OCI layout: it has no index.json", hint="`buildctl build` makes one"
            ) from error
        manifests = value.get("manifests")
        if not isinstance(manifests, list) or not all(isinstance(m, dict) for m in manifests):
            raise LayoutError(f"{self.index_path}: `manifests` is not a list of descriptors")
        return value

    # files

    def _replace(self, target: Path, data: bytes) -> None:
        with self._locked(".writers.lock", fcntl.LOCK_SH):  # so that the temporary file is not swept
            keep_whole(target, data)

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        with translated(self.root / name):
            lock = os.open(self.root / name, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(PermissionError):  # somebody else's file: keep its mode
                os.fchmod(lock, 0o644)
            with translated(self.root / name):
                fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)

    def _sweep(self) -> None:
        """Remove leftovers of killed writers, unless another writer is at work."""
        with suppress(BlockingIOError), self._locked(".writers.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._remove_temporaries()

    def _remove_temporaries(self) -> None:
        for folder in (self.blobs, self.root):
            for path in folder.glob(f"{TEMPORARY}*"):
                path.unlink(missing_ok=True)


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object; raises LayoutError with `where`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise LayoutError(f"{where} is not a JSON object")
    return value


def _name(manifest: Mapping[str, Any]) -> str:
    annotations = manifest.get("annotations")
    return str(annotations.get(REF_NAME, "")) if isinstance(annotations, dict) else ""


def _other_algorithm(manifest: Mapping[str, Any]) -> bool:
    """As `sha512:...`, which other programs write; anything else that is not a digest is an error."""
    algorithm, colon, encoded = str(manifest.get("digest", "")).partition(":")
    return bool(colon and encoded) and algorithm != "sha256" and _ALGORITHM.fullmatch(algorithm) is not None


def _is_damaged_marker(marker: Path) -> bool:
    try:
        return "imageLayoutVersion" not in parse_object(marker.read_bytes(), str(marker))
    except LayoutError:
        return True
