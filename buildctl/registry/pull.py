"""Pull an image of a registry into an OCI layout: only missing blobs, each checked before it has a name."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from buildctl.console.progress import Progress, Task
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.files import TEMPORARY, translated
from buildctl.oci.image import Descriptor, ImageConfig, Manifest, Platform, blob_names
from buildctl.oci.layout import JSON_LIMIT, MANIFEST_TYPES, Layout, parse_object
from buildctl.registry.client import Fetched, Repository
from buildctl.registry.members import NotAnImageError, entries, is_unknown, look, same_platform
from buildctl.registry.problems import AgainError, RefusedError, UnavailableError
from buildctl.registry.transport import Tries

WORKERS = 4
MISMATCHES = 3


def resolve(repository: Repository, wanted: str, arch: str) -> Fetched:
    """The image manifest for linux/ARCH that a tag or digest leads to; an image itself, whatever it is for.

    Raises AbsentError, LayoutError.
    """
    top = repository.manifest(wanted)
    if top.descriptor.media_type in MANIFEST_TYPES:
        return top
    platform, platforms = Platform(architecture=arch), []
    for entry in entries(repository, top):
        if entry.said is None or same_platform(entry.said, platform):
            try:
                member = look(repository, entry)
            except NotAnImageError:
                continue
            if member.misplaced:
                raise LayoutError(f"{repository.reference}: {entry.descriptor.digest}: {member.misplaced}")
            if same_platform(member.platform, platform):
                return member.fetched
            platforms.append(str(member.platform))
        elif not is_unknown(entry.said):
            platforms.append(str(entry.said))
    raise LayoutError(f"{repository.reference} has no {platform}", hint=f"it has: {', '.join(platforms) or 'nothing'}")


def pull(
    repository: Repository, wanted: str, *, arch: str, layout: Layout, name: str, progress: Progress
) -> Descriptor:
    """Pull the image for linux/ARCH into `layout` as `name`; byte for byte, so its digest stays."""
    layout.create()
    found = resolve(repository, wanted, arch)
    manifest = Manifest.from_json(found.json())
    blobs = {d.digest: d for d in (manifest.config, *manifest.layers)}.values()
    missing = [d for d in blobs if not _there(layout, d)]
    with ThreadPoolExecutor(WORKERS) as pool:
        if manifest.config in missing:  # first: it says what the layers are
            fetch_blob(repository, layout, manifest.config, progress, f"configuration ({name})")
        config = ImageConfig.from_json(_json(layout, manifest.config))
        names = blob_names(manifest, config, name)
        layers = [d for d in missing if d.digest != manifest.config.digest]
        futures = [pool.submit(fetch_blob, repository, layout, d, progress, names[d.digest]) for d in layers]
        for future in futures:
            future.result()
    written = layout.write_bytes(found.descriptor.media_type, found.data)
    descriptor = replace(written, platform=config.platform)
    layout.tag(descriptor, name)
    return descriptor


def fetch_blob(
    repository: Repository, layout: Layout, descriptor: Descriptor, progress: Progress, name: str = ""
) -> None:
    """One blob, resumed if a connection breaks, restarted if it does not match; `name` is for people. Raises
    RegistryError.
    """
    what = f"blob sha256:{descriptor.digest.short}"
    tries = Tries(repository.transport.patience, f"{repository.reference.name}: {what}")
    with _temporary(layout) as temporary:
        coming = _Coming(repository, descriptor, temporary, progress.add(name or what, descriptor.size))
        for _ in range(MISMATCHES):
            while coming.size < descriptor.size:
                before = coming.size
                try:
                    coming.go_on()
                except AgainError as error:
                    if coming.size > before:
                        tries.progressed()
                    tries.failed(error)
                except RefusedError as error:
                    if not before:
                        raise
                    coming.start_over()  # a registry without ranges
                    tries.failed(AgainError(error.message))
            if coming.is_true():
                layout.add_blob(temporary, descriptor.digest, descriptor.size)
                return
            coming.start_over()
    raise UnavailableError(
        f"{repository.reference.name}: {what}: the data received does not match its digest, {MISMATCHES} times",
        hint="a proxy changes the data, or the registry's storage is corrupt",
    )


@dataclass(slots=True)
class _Coming:
    """A blob that is being downloaded to `path`."""

    repository: Repository
    descriptor: Descriptor
    path: Path
    task: Task
    size: int = 0
    seen: Any = field(default_factory=hashlib.sha256)

    def go_on(self) -> None:
        """One request for what is still missing. Raises AgainError if less arrives; what arrived is kept."""
        wanted = self.descriptor.size
        with self.path.open("ab") as file, self.repository.open_blob(self.descriptor, self.size) as chunks:
            for chunk in chunks:
                with translated(self.path, wanted):
                    file.write(chunk)
                self.seen.update(chunk)
                self.size += len(chunk)
                self.task.advance(len(chunk))
                if self.size > wanted:
                    return
        if self.size < wanted:
            raise AgainError(f"received {self.size} of {wanted} bytes")

    def is_true(self) -> bool:
        return self.size == self.descriptor.size and Digest(self.seen.hexdigest()) == self.descriptor.digest

    def start_over(self) -> None:
        self.task.advance(-self.size)
        self.size, self.seen = 0, hashlib.sha256()
        self.path.write_bytes(b"")


def _there(layout: Layout, descriptor: Descriptor) -> bool:
    path = layout.blob_path(descriptor.digest)
    return path.is_file() and path.stat().st_size == descriptor.size


def _json(layout: Layout, descriptor: Descriptor) -> dict[str, object]:
    if descriptor.size > JSON_LIMIT:
        raise LayoutError(f"configuration of {descriptor.size} bytes")
    return parse_object(layout.read_bytes(descriptor), f"configuration {descriptor.digest}")


@contextmanager
def _temporary(layout: Layout) -> Iterator[Path]:
    path = layout.root / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
