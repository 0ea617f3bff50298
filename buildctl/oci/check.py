"""Our own layout checker: reads every byte, recomputes every digest, size and diff id.

It also finds what other validators miss: names that escape or are absolute, a platform that differs from the
configuration or from the programs inside, setuid files, device nodes, entries given twice, a layer that turns a
symlink of a lower one into a directory. Faults are returned, not raised, each naming its blob and entry.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from buildctl.ground.errors import LayoutError
from buildctl.oci.chunked.check import chunked_problems
from buildctl.oci.digest import Digest
from buildctl.oci.files import TEMPORARY
from buildctl.oci.image import REF_NAME, Descriptor, ImageConfig, Index, Manifest, Platform
from buildctl.oci.layout import CONFIG_TYPES, INDEX_TYPES, MANIFEST_TYPES, Layout, parse_object
from buildctl.oci.receipts import doubt
from buildctl.oci.scan import DEBIAN_SETUID, LayerScan, scan_layer

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def check_layout(
    root: Path, names: Collection[str] | None = None, *, allow_setuid: frozenset[str] = DEBIAN_SETUID
) -> list[str]:
    """Problems of the layout and of the images that `names` point at; without `names`, of everything in it."""
    layout = Layout(root)
    problems = [*_marker_problems(root)]
    try:
        entries = layout.read_index().manifests
    except LayoutError as error:
        return [*problems, error.message]
    counts = Counter(entry.annotations.get(REF_NAME, "") for entry in entries)
    problems += [f"{root}: index.json has {n} entries named {name}" for name, n in counts.items() if name and n > 1]
    if names is not None:
        problems += [f"{root}: index.json has no entry named {name}" for name in names if name not in counts]
        entries = tuple(entry for entry in entries if entry.annotations.get(REF_NAME) in names)
    check = _ImageCheck(layout, allow_setuid)
    problems += check.descriptors(entries)
    if names is None:
        problems += check.leftovers()
    return list(dict.fromkeys(problems))  # one fault in a shared layer is one problem


def check_image(layout: Layout, descriptor: Descriptor, *, allow_setuid: frozenset[str] = DEBIAN_SETUID) -> list[str]:
    """Problems of one image, or of all images of an index. Setuid and setgid files outside `allow_setuid` (paths
    without a leading slash) are problems too.
    """
    return list(dict.fromkeys(_ImageCheck(layout, allow_setuid).descriptors([descriptor])))


class _ImageCheck:
    def __init__(self, layout: Layout, allow_setuid: frozenset[str]) -> None:
        self.layout, self.allow_setuid = layout, allow_setuid
        self.scans: dict[tuple[Digest, str], LayerScan | LayoutError] = {}
        self.seen: set[Digest] = set()

    def descriptors(self, descriptors: Iterable[Descriptor]) -> Iterator[str]:
        for descriptor in descriptors:
            self.seen.add(descriptor.digest)
            try:
                if descriptor.media_type in INDEX_TYPES:
                    yield from self.index(descriptor)
                elif descriptor.media_type in MANIFEST_TYPES:
                    yield from self.image(descriptor)
                else:
                    yield f"{descriptor.digest} has media type {descriptor.media_type}, which is not an image or index"
            except LayoutError as error:
                yield error.message

    def index(self, descriptor: Descriptor) -> Iterator[str]:
        where = f"index {descriptor.digest.short}"
        value = self.object(descriptor)
        yield from _document_problems(value, descriptor, where)
        children = Index.from_json(value).manifests
        if not children:
            yield f"{where} lists no images"
        counts = Counter(child.platform for child in children)
        for platform, count in counts.items():
            if platform is None:
                yield f"{where} has {count} entries without a platform"
            elif count > 1:
                yield f"{where} has {count} entries for {platform}"
        yield from self.descriptors(children)

    def image(self, descriptor: Descriptor) -> Iterator[str]:
        where = f"image {descriptor.digest.short}"
        value = self.object(descriptor)
        yield from _document_problems(value, descriptor, where)
        manifest = Manifest.from_json(value)
        if _is_artifact(manifest, descriptor):
            for blob in (manifest.config, *manifest.layers):
                yield from self.plain_blob(blob, where)
            return
        self.scan(manifest.layers)
        yield from self.configuration(manifest, descriptor.platform, where)
        yield from self.trees(manifest, where)

    def configuration(self, manifest: Manifest, platform: Platform | None, where: str) -> Iterator[str]:
        self.seen.add(manifest.config.digest)
        if manifest.config.media_type not in CONFIG_TYPES:
            yield f"{where}: the configuration has media type {manifest.config.media_type}"
        try:
            value = self.object(manifest.config)
            config = ImageConfig.from_json(value)
        except LayoutError as error:
            yield f"{where}: {error.message}"
            config = None
        for position, layer in enumerate(manifest.layers):
            expected = config.diff_ids[position] if config and position < len(config.diff_ids) else None
            yield from self.layer(layer, expected, f"{where}, layer {position + 1}")
        if config is not None:
            yield from _configuration_problems(value, config, manifest, platform, where)
            yield from self.machines(manifest, config.platform, where)

    def layer(self, layer: Descriptor, diff_id: Digest | None, where: str) -> Iterator[str]:
        scan = self.scans[layer.digest, layer.media_type]
        if isinstance(scan, LayoutError):
            yield f"{where}: {scan.message}"
            return
        if scan.size != layer.size:
            yield f"{where}: blob {layer.digest} has {scan.size} bytes, not {layer.size} as in its descriptor"
        if scan.digest != layer.digest:
            doubt(self.layout.blob_path(layer.digest))
            yield f"{where}: blob {layer.digest} does not match its digest: computed {scan.digest}"
        if scan.whole and diff_id is not None and scan.diff_id != diff_id:
            yield f"{where}: blob {layer.digest} has the diff id {scan.diff_id}, not {diff_id} as in the configuration"
        elif scan.whole:
            yield from chunked_problems(self.layout.blob_path(layer.digest), layer, diff_id, f"{where}: {layer.digest}")
        yield from scan.problems

    def machines(self, manifest: Manifest, platform: Platform, where: str) -> Iterator[str]:
        for layer in manifest.layers:
            scan = self.scans[layer.digest, layer.media_type]
            for machine, path in {} if isinstance(scan, LayoutError) else scan.machines.items():
                if machine != platform.architecture:
                    yield f"{where}: layer {layer.digest.short}: {path!r} is for {machine}, the image for {platform}"

    def trees(self, manifest: Manifest, where: str) -> Iterator[str]:
        """What a layer does to those below it: a directory over a symlink hides files; a hard link needs its target."""
        merged: dict[str, str] = {}
        for layer in manifest.layers:
            scan = self.scans[layer.digest, layer.media_type]
            if isinstance(scan, LayoutError):
                return
            at = f"{where}: layer {layer.digest.short}"
            _remove(merged, scan.removed)
            for path, target in scan.outside.items():
                if merged.get(target, "directory") == "directory":
                    yield f"{at}: {path!r} is a hard link to {target!r}, which is not a file in this layer or below"
            for path, kind in scan.tree.items():
                if kind == "directory" and merged.get(path) not in (None, "directory"):
                    yield f"{at}: directory {path!r} replaces a {merged[path]} of a lower layer"
                link = _symlink_above(merged, scan.tree, path)
                if link is not None:
                    yield f"{at}: {path!r} is below {link!r}, which is a symlink in a lower layer"
            merged.update(scan.tree)

    def scan(self, layers: Iterable[Descriptor]) -> None:
        """Scan what has not been scanned; hashing and decompressing run in parallel, outside the interpreter."""
        todo = {(layer.digest, layer.media_type): layer for layer in layers}
        todo = {key: layer for key, layer in todo.items() if key not in self.scans}
        biggest_first = sorted(todo.values(), key=lambda layer: -layer.size)
        self.seen.update(layer.digest for layer in biggest_first)
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            scans = pool.map(self.scan_one, biggest_first)
            self.scans.update(((d.digest, d.media_type), scan) for d, scan in zip(biggest_first, scans, strict=True))

    def scan_one(self, layer: Descriptor) -> LayerScan | LayoutError:
        try:
            with self.layout.blob_path(layer.digest).open("rb", buffering=0) as blob:
                where = f"layer {layer.digest}"
                return scan_layer(blob, layer.media_type, where=where, allow_setuid=self.allow_setuid)
        except LayoutError as error:
            return error
        except OSError as error:
            return LayoutError(f"cannot read blob {layer.digest}: {error.strerror}")

    def plain_blob(self, blob: Descriptor, where: str) -> Iterator[str]:
        """Bytes that are not a layer: an SBOM, a signature."""
        self.seen.add(blob.digest)
        path = self.layout.blob_path(blob.digest)
        try:
            digest, size = Digest.of_file(path), path.stat().st_size
        except OSError as error:
            yield f"{where}: cannot read blob {blob.digest}: {error.strerror}"
            return
        if (digest, size) != (blob.digest, blob.size):
            doubt(path)
            yield f"{where}: blob {blob.digest} does not match its descriptor: it has {size} bytes and is {digest}"

    def object(self, descriptor: Descriptor) -> dict[str, Any]:
        return parse_object(self.layout.read_bytes(descriptor), f"{descriptor.media_type} {descriptor.digest}")

    def leftovers(self) -> Iterator[str]:
        """Unreferenced blobs are fine, but must match their digest."""
        for path in sorted(self.layout.blobs.glob("*")):
            if path.name.startswith(TEMPORARY):
                continue  # a writer at work, or a killed one; the next writer sweeps
            try:
                digest = Digest(path.name)
            except LayoutError:
                yield f"{path}: not a blob"
                continue
            if digest not in self.seen and Digest.of_file(path) != digest:
                yield f"{path}: blob {digest} does not match its digest (nothing refers to it)"


def _marker_problems(root: Path) -> Iterator[str]:
    marker = root / "oci-layout"
    try:
        version = parse_object(marker.read_bytes(), str(marker)).get("imageLayoutVersion")
    except OSError as error:
        yield f"{marker}: {error.strerror}"
    except LayoutError as error:
        yield error.message
    else:
        if version != "1.0.0":
            yield f"{marker}: imageLayoutVersion is {version!r}, not '1.0.0'"


def _is_artifact(manifest: Manifest, descriptor: Descriptor) -> bool:
    """Something that travels with images: OCI's empty configuration, or what BuildKit attests."""
    attested = Platform(os="unknown", architecture="unknown")
    return manifest.config.media_type == EMPTY_TYPE or descriptor.platform == attested


def _document_problems(value: Mapping[str, Any], descriptor: Descriptor, where: str) -> Iterator[str]:
    if value.get("schemaVersion") != 2:
        yield f"{where}: schemaVersion is {value.get('schemaVersion')!r}, not 2"
    if value.get("mediaType", descriptor.media_type) != descriptor.media_type:
        yield f"{where} has mediaType {value['mediaType']}, not {descriptor.media_type} as in its descriptor"


def _configuration_problems(
    value: Mapping[str, Any], config: ImageConfig, manifest: Manifest, platform: Platform | None, where: str
) -> Iterator[str]:
    if not config.platform.os or not config.platform.architecture:
        yield f"{where}: the configuration has no platform"
    if platform is not None and platform != config.platform:
        yield f"{where}: the descriptor has {platform}, the configuration {config.platform}"
    if value["rootfs"].get("type") != "layers":
        yield f"{where}: rootfs.type is {value['rootfs'].get('type')!r}, not 'layers'"
    if len(config.diff_ids) != len(manifest.layers):
        yield f"{where}: {len(manifest.layers)} layers, but the configuration has {len(config.diff_ids)} diff ids"
    steps = sum(not step.empty_layer for step in config.history)
    if config.history and steps != len(manifest.layers):
        yield f"{where}: {len(manifest.layers)} layers, but {steps} history entries that make a layer"


def _remove(merged: dict[str, str], removed: Collection[str]) -> None:
    """Apply whiteouts: `a/b` removes that path and everything below it, `a/` only what is below."""
    if not removed:
        return
    if "/" in removed:
        merged.clear()
    for path in list(merged):
        above = [path[:i] for i, letter in enumerate(path) if letter == "/"]
        if path in removed or any(folder in removed or f"{folder}/" in removed for folder in above):
            del merged[path]


def _symlink_above(merged: Mapping[str, str], tree: Mapping[str, str], path: str) -> str | None:
    folder = path.rpartition("/")[0]
    while folder:
        if folder not in tree and merged.get(folder) == "symlink":
            return folder
        folder = folder.rpartition("/")[0]
    return None
