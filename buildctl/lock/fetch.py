"""From locks to artifacts in the store. The user's own configuration of uv, pip and apt decides where to fetch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from buildctl.artifacts.debian.package import DebPackage
from buildctl.artifacts.download import Download, download
from buildctl.artifacts.store import Store
from buildctl.console.progress import Progress
from buildctl.ground.errors import FetchError, LockError
from buildctl.ground.net import Patience
from buildctl.lock.index import with_credentials
from buildctl.lock.uv import NoSolutionError, index_of, locate
from buildctl.lock.wheels import LockedWheel, WheelLock
from buildctl.matrix.cells import Cell
from buildctl.oci.digest import Digest

_LOOKUPS = 4
_AGAIN = "run `buildctl lock --upgrade`, or configure uv or pip with the index that was used to lock"


def fetch_wheels(
    locks: Iterable[tuple[Cell, WheelLock]],
    *,
    store: Store,
    progress: Progress,
    connections: int = 8,
    patience: Patience | None = None,
) -> None:
    """Download all wheels of these locks into the store. No network, and no uv, if they are there.

    Raises FetchError, with `vanished` if the index no longer has a pinned file; ArtifactError if it serves
    other bytes for it; EngineError if the disk is full.
    """
    items = wheel_downloads(locks, store=store)
    download(items, store=store, progress=progress, connections=connections, patience=patience)


def wheel_downloads(locks: Iterable[tuple[Cell, WheelLock]], *, store: Store) -> list[Download]:
    """What `fetch_wheels` would download: the index is asked where it is, and nothing is downloaded.

    Raises FetchError, with `vanished` if the index no longer lists a pinned file.
    """
    wanted: set[Digest] = set()
    asked: list[tuple[Cell, list[LockedWheel]]] = []
    for cell, lock in locks:
        missing = [w for w in lock.wheels if w.digest not in wanted and store.artifact(w.digest) is None]
        if missing:
            asked.append((cell, missing))
            wanted |= {wheel.digest for wheel in missing}
    if not asked:
        return []
    # an index may take seconds to answer: all locks ask at once
    with ThreadPoolExecutor(_LOOKUPS) as pool:
        found = list(pool.map(_items, asked))
    return [item for part in found for item in part]


def _items(asked: tuple[Cell, list[LockedWheel]]) -> list[Download]:
    cell, wheels = asked
    urls = _locate(cell, wheels)
    return [_item(cell, wheel, urls) for wheel in wheels]


def _locate(cell: Cell, wheels: Sequence[LockedWheel]) -> dict[Digest, str]:
    pins = [f"{wheel.name}=={wheel.version}" for wheel in wheels]
    try:
        with index_of(cell.accelerator) as index:
            return locate(pins, python=cell.python, index=index)
    except NoSolutionError as error:
        raise FetchError(
            f"{cell.id}: the package index no longer has a locked wheel\n{error.message}", hint=_AGAIN, vanished=True
        ) from error
    except LockError as error:
        raise FetchError(f"{cell.id}: the package index cannot be queried: {error.message}", hint=error.hint) from error


def _item(cell: Cell, wheel: LockedWheel, urls: Mapping[Digest, str]) -> Download:
    if wheel.digest not in urls:
        raise FetchError(
            f"{cell.id}: the package index has no {wheel.filename} with SHA-256 {wheel.digest.hex}",
            hint=_AGAIN,
            vanished=True,
        )
    url = with_credentials(urls[wheel.digest], cell.accelerator.index)
    return Download(label=wheel.filename, urls=(url,), size=wheel.size, digest=wheel.digest)


def fetch_debs(
    packages: Iterable[DebPackage],
    *,
    store: Store,
    mirrors: Mapping[str, Sequence[str]],
    progress: Progress,
    connections: int = 8,
    patience: Patience | None = None,
) -> None:
    """Download Debian packages into the store. `mirrors`: base URLs by archive name ("debian", "debian-security").

    Raises as `fetch_wheels` does; `vanished` if the file is missing from every mirror of the archive.
    """
    items = deb_downloads(packages, store=store, mirrors=mirrors)
    download(items, store=store, progress=progress, connections=connections, patience=patience)


def deb_downloads(
    packages: Iterable[DebPackage], *, store: Store, mirrors: Mapping[str, Sequence[str]]
) -> list[Download]:
    """What `fetch_debs` would download. Raises FetchError for an archive without a mirror."""
    items = [
        Download(
            label=package.filename.rsplit("/", 1)[-1],
            urls=tuple(f"{base.rstrip('/')}/{package.filename}" for base in mirrors.get(package.archive, ())),
            size=package.size,
            digest=package.digest,
        )
        for package in packages
        if store.artifact(package.digest) is None
    ]
    for item in items:
        if not item.urls:
            raise FetchError(
                f"{item.label}: no mirror configured for it", hint="set mirror.debian in matrix.yaml to a Debian mirror"
            )
    return items
