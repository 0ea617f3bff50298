"""A bill of materials for one image: CycloneDX 1.6, every Debian package and Python distribution.

The contents are read from the layers, the hashes of the original files from the locks. An image and
its locks that disagree are an error, not a document. Same image, same bytes.
"""

from __future__ import annotations

from buildctl.artifacts.bill import SBOM_KIND, Key, bill, compare
from buildctl.artifacts.store import Store
from buildctl.build.cache.contents import packages_here
from buildctl.lock.locked import LockedCell
from buildctl.matrix.cells import DebianBase
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, canonical_json
from buildctl.oci.layout import Layout
from buildctl.registry.referrers import Document


def sbom_document(
    layout: Layout, locked: LockedCell, descriptor: Descriptor, *, store: Store | None = None
) -> Document:
    """The bill of materials of a cell's image in `layout`. Raises LayoutError."""
    cell = locked.cell
    packages = packages_here(layout, descriptor, store=store or Store.default())
    hashes = locked_hashes(locked)
    compare(cell.id, packages, hashes, whole=isinstance(cell.base, DebianBase))
    suite = cell.base.suite if isinstance(cell.base, DebianBase) else ""
    value = bill(cell.image, descriptor, layout.config(descriptor), packages, hashes, suite=suite)
    annotations = {"org.opencontainers.image.title": f"{cell.id}.cdx.json"}
    return Document(kind=SBOM_KIND, data=canonical_json(value), annotations=annotations)


def locked_hashes(locked: LockedCell) -> dict[Key, Digest]:
    found: dict[Key, Digest] = {("pypi", w.name, w.version): w.digest for w in locked.wheels.wheels}
    for lock in locked.debian:
        found |= {("deb", p.name, p.version): p.digest for p in lock.packages}
    return found
