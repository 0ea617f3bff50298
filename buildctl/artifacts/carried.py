"""Packed OCI layouts that the user names: each is unpacked into the store once, and then read like any other."""

from __future__ import annotations

import hashlib
from pathlib import Path

from buildctl.artifacts.store import Store
from buildctl.console.log import say
from buildctl.oci.archive import is_archive, unpack_archive
from buildctl.oci.digest import Digest
from buildctl.oci.layout import Layout
from buildctl.oci.trees.unpack import workplace

CARRIED = "carried"  # folder of the store; `buildctl prune` removes it


def opened(text: str) -> str:
    """For FILE or FILE:NAME of a packed layout, PATH or PATH:NAME of the unpacked one; anything else as it is.

    Raises LayoutError for an archive that is damaged.
    """
    plain = text.removeprefix("oci-archive:")
    path, _, name = plain.rpartition(":")
    for file, wanted in ((plain, ""), (path, name)):
        if file and Path(file).is_file() and is_archive(Path(file)):
            layout = _unpacked(Path(file), Store.default())
            return f"{layout.root}:{wanted}" if wanted else str(layout.root)
    return text


def _unpacked(path: Path, store: Store) -> Layout:
    """The folder's name is a hash of what the file is, not of its bytes: those are hashed while it is unpacked."""
    facts = path.stat()
    what = (str(path.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ino)
    target = store.root / CARRIED / hashlib.sha256(repr(what).encode()).hexdigest()[:16] / _plain(path)
    if not (target / "oci-layout").is_file():
        say(f"unpacking {path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with workplace(target.parent, f".{target.name}.unpack-") as folder:
            made = unpack_archive(path, folder / target.name, held=lambda digest: _held(store, digest))
            if not target.exists():
                made.root.rename(target)
    return Layout(target)


def _plain(path: Path) -> str:
    """A name that cannot be taken for PATH:NAME."""
    return path.name.replace(":", "_")


def _held(store: Store, digest: Digest) -> Path | None:
    """Where this machine has a blob already: made here, pulled, or carried before."""
    made = store.blob(digest)
    if store.receipts.genuine(made, digest):
        return made
    places = [
        Layout(store.root / "pulled").blob_path(digest),
        *(store.root / CARRIED).glob(f"*/*/blobs/sha256/{digest.hex}"),
    ]
    return next((place for place in places if place.is_file()), None)
