"""The packages of an image in a layout, also where the layout lacks its layers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from buildctl.artifacts.contents import Package, keep_contents, kept_contents, packages_of
from buildctl.artifacts.facts import parse_contents
from buildctl.artifacts.store import Store
from buildctl.ground.errors import BuildctlError
from buildctl.oci.absent import absent
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout

WORKERS = 8


def packages_here(layout: Layout, image: Descriptor, *, store: Store) -> tuple[Package, ...]:
    """As `packages_of`. Of a layer that is only in a cache, the document about its contents is fetched, and where
    there is none that this version can read, the layer. Raises LayoutError, RegistryError.
    """
    places = absent(layout, [image])
    needed = [place for digest, place in places.items() if kept_contents(store, digest) is None]
    if needed:
        from buildctl.registry.remote import bring_layers, opened  # noqa: PLC0415 - only for layers that are elsewhere

        repositories = opened(needed)
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                documents = list(pool.map(lambda p: parse_contents(repositories[p.name].blob(p.contents)), needed))
                for place, contents in zip(needed, documents, strict=True):
                    keep_contents(store, place.layer.digest, contents)
            except BuildctlError:
                bring_layers(layout, [image], "the list of packages")
    return packages_of(layout, image, store=store)
