"""Pushing: blobs, manifests and attached documents to a registry, in parallel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TypeVar

from buildctl.console.progress import Progress, Task
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, Manifest, blob_names
from buildctl.oci.layout import Layout
from buildctl.oci.remote import Place, place_of
from buildctl.publish.result import Candidate, Pushed
from buildctl.registry.client import Repository
from buildctl.registry.problems import AbsentError, RefusedError
from buildctl.registry.referrers import Attached, Signer, attach
from buildctl.registry.remote import RemoteFile, opened
from buildctl.registry.upload import Blob, Moved, Upload

WORKERS = 4


_UNKNOWN_BLOB = frozenset({"BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "MANIFEST_UNVERIFIED"})


T = TypeVar("T")


R = TypeVar("R")


@dataclass(slots=True, kw_only=True)
class ImagePush:
    layout: Layout
    repository: Repository
    progress: Progress
    dry_run: bool
    signer: Signer | None = None
    moved: dict[Digest, tuple[Moved, int]] = field(default_factory=dict)
    diff_ids: dict[Digest, Digest] = field(default_factory=dict)
    names: dict[Digest, str] = field(default_factory=dict)
    _sources: dict[str, Repository] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def images(self, candidates: Sequence[Candidate]) -> list[Pushed]:
        known = parallel(lambda c: self.repository.head(str(c.descriptor.digest)), candidates)
        missing = [c for c, there in zip(candidates, known, strict=True) if there is None]
        needed = {c.cell.id: self._blobs(c) for c in candidates}
        for candidate in missing:
            manifest, config = self.layout.manifest(candidate.descriptor), self.layout.config(candidate.descriptor)
            self.diff_ids.update(zip((d.digest for d in manifest.layers), config.diff_ids, strict=False))
            self.names = blob_names(manifest, config, candidate.cell.id) | self.names
        self.blobs(b for c in missing for b in needed[c.cell.id])
        if not self.dry_run:
            parallel(self.manifest, missing)
        extra = dict(zip([c.cell.id for c in candidates], parallel(self.attach, candidates), strict=True))
        out, counted = [], set[Digest]()
        for candidate in candidates:
            mine = {b.digest for b in needed[candidate.cell.id]} - counted
            counted |= mine
            how = [self.moved.get(d, (Moved.THERE, 0)) for d in mine]
            kinds = [kind for kind, _ in how]
            out.append(
                Pushed(
                    candidate=candidate,
                    sent=sum(count for _, count in how) + sum(a.sent for a in extra[candidate.cell.id]),
                    new=kinds.count(Moved.SENT),
                    mounted=kinds.count(Moved.MOUNTED),
                    there=len(needed[candidate.cell.id]) - kinds.count(Moved.SENT) - kinds.count(Moved.MOUNTED),
                    attached=tuple(a.referrer for a in extra[candidate.cell.id]),
                )
            )
        return out

    def blobs(self, wanted: Iterable[Descriptor]) -> None:
        """Each once, the biggest first."""
        unique = sorted({d.digest: d for d in wanted}.values(), key=lambda d: (-d.size, d.digest))
        parallel(self.blob, unique)

    def blob(self, descriptor: Descriptor) -> None:
        if self.dry_run:
            there = self.repository.blob_size(descriptor.digest) == descriptor.size
            self.moved[descriptor.digest] = (Moved.THERE, 0) if there else (Moved.SENT, descriptor.size)
            return
        name = self.names.get(descriptor.digest, f"sha256:{descriptor.digest.short}")
        task = self.progress.add(name, descriptor.size)
        with ExitStack() as stack:
            upload = self._upload(descriptor, task, stack)
            how = upload.run()
        task.finish()
        self.moved[descriptor.digest] = (how, upload.sent)

    def _upload(self, descriptor: Descriptor, task: Task, stack: ExitStack) -> Upload:
        """From the layout; or from the cache that has the layer: mounted in the same registry, else streamed."""
        path, place = self.layout.blob_path(descriptor.digest), place_of(self.layout.root, descriptor.digest)
        blob = Blob(descriptor=descriptor, path=path, diff_id=self.diff_ids.get(descriptor.digest))
        if place is None:
            return Upload(self.repository, blob, task)
        to, reference = self.repository, self.repository.reference
        if place.registry == reference.registry and place.repository not in (*to.mount_from, reference.repository):
            to = replace(to, mount_from=(place.repository, *to.mount_from))
        if not path.exists():
            source = RemoteFile(self._opened(place), place)
            blob = replace(blob, path=None, remote=lambda: source)
            stack.callback(source.release)
        return Upload(to, blob, task)

    def _opened(self, place: Place) -> Repository:
        """One connection for all blobs of a repository."""
        with self._lock:
            if place.name not in self._sources:
                self._sources |= opened([place])
            return self._sources[place.name]

    def manifest(self, candidate: Candidate) -> None:
        """By digest. If the registry reports a missing blob, checks the image's blobs once more."""
        descriptor = candidate.descriptor
        data = self.layout.read_bytes(descriptor)
        try:
            self.repository.put_manifest(data, descriptor.media_type, str(descriptor.digest))
        except (AbsentError, RefusedError) as error:
            if not _UNKNOWN_BLOB & set(error.codes):
                raise
            for blob in self._blobs(candidate):
                self.blob(blob)
            self.repository.put_manifest(data, descriptor.media_type, str(descriptor.digest))

    def attach(self, candidate: Candidate) -> list[Attached]:
        """The image's documents, and its signature over them."""
        if self.dry_run:
            return []
        done = [attach(self.repository, candidate.descriptor, d) for d in candidate.documents]
        if self.signer:
            self.signer.sign(self.repository, candidate.descriptor, [a.referrer.descriptor.digest for a in done])
        return done

    def _blobs(self, candidate: Candidate) -> tuple[Descriptor, ...]:
        manifest: Manifest = self.layout.manifest(candidate.descriptor)
        return tuple({d.digest: d for d in (manifest.config, *manifest.layers)}.values())


def parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """In the order of `items`. The first failure cancels what has not begun."""
    items = list(items)
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
