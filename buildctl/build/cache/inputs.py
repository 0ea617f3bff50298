"""What a signed layer is made from: hashed in this run, in a store of its own that disappears afterwards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from buildctl.artifacts.store import Store
from buildctl.ground.errors import ArtifactError
from buildctl.ground.scratch import scratch
from buildctl.oci.digest import Digest
from buildctl.oci.files import bring, translated


@contextlib.contextmanager
def scratch_store(store: Store) -> Iterator[Store]:
    """An empty store on the same disk, removed at the end; those of killed processes are removed first."""
    parent = store.root / "scratch"
    with contextlib.ExitStack() as stack:
        with translated(parent):
            parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(scratch("inputs", under=parent))
        yield Store(folder)


def take_hashed(artifacts: Iterable[Digest], store: Store, into: Store) -> None:
    """Link these artifacts of `store` into another, each hashed now: what was hashed when it was downloaded may have
    changed since; what is in `into` was. Raises ArtifactError for one that is missing or is not what its name says.
    """

    def one(digest: Digest) -> None:
        if into.artifact_path(digest).exists():
            return
        path = store.artifact(digest)
        if path is None:
            raise ArtifactError(f"{digest} is not in the store", hint="run the build again to fetch it")
        target = into.artifact_path(digest)
        with translated(target):
            bring(path, target, digest, path.stat().st_size)
            found = Digest.of_file(target)
        if found != digest:
            path.unlink(missing_ok=True)
            raise ArtifactError(
                f"the store's file of {digest} has changed: it is {found} now",
                hint="it was removed: run the build again to fetch it",
            )

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(one, dict.fromkeys(artifacts)):
            pass
