"""A base image in a registry, by digest: fetched once into a layout of the cache, then never asked for again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from buildctl.console.progress import Progress
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.registry.reference import Reference


def mirrored(image: str, mirrors: Iterable[tuple[str, str]]) -> str:
    """Where to fetch `image` from: its registry's mirror (pairs REGISTRY, MIRROR), else its own registry."""
    reference = Reference.parse(image)
    mirror = dict(mirrors).get(reference.registry)
    return image if mirror is None else f"{mirror}/{str(reference).removeprefix(f'{reference.registry}/')}"


def top_digest(image: str) -> Digest:
    """What a tag leads to now: the digest of an index or an image. Raises RegistryError."""
    from buildctl.registry.client import open_repository  # noqa: PLC0415 - as below

    reference = Reference.parse(image)
    return open_repository(reference).manifest(reference.wanted).descriptor.digest


def base_from_registry(image: str, *, arch: str, root: Path, progress: Progress) -> tuple[Layout, Descriptor]:
    """`image` is NAME@sha256:HEX, of an index or an image; `root` the layout to keep it in. The manifest is for `arch`.

    Raises LayoutError without a digest, RegistryError.
    """
    reference = Reference.parse(image)
    if reference.digest is None:
        raise LayoutError(f"{image} has no digest, so it can change at any time", hint="NAME@sha256:...")
    layout, name = Layout(root), f"{reference.digest.hex}-{arch}"
    layout.create()
    if name in layout.names():
        return layout, layout.resolve(name, arch)
    from buildctl.registry.client import open_repository  # noqa: PLC0415 - every build names bases, few fetch one
    from buildctl.registry.pull import pull  # noqa: PLC0415

    repository = open_repository(reference)
    found = pull(repository, str(reference.digest), arch=arch, layout=layout, name=name, progress=progress)
    return layout, layout.resolve(str(found.digest), arch)
