"""The image that a user names, whole in a layout on this machine: of the project, another layout or a registry."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from buildctl.artifacts.store import Store
from buildctl.console.progress import open_progress
from buildctl.ground.errors import LayoutError, UsageError
from buildctl.matrix.project import Project
from buildctl.oci.layout import Layout
from buildctl.registry.pull import pull
from buildctl.registry.target import Image, Target, find_target, in_layout
from buildctl.runtimes.api import ImageRef

PULLED = "pulled"  # a layout in the store; `buildctl prune` removes it


def find_built(open_project: Callable[[], Project], text: str) -> Target:
    """What is built under a name of the matrix, or what a reference or PATH[:NAME] leads to.

    Raises BuildctlError with the next step if there is nothing.
    """
    if (elsewhere := find_target(text)) is not None:
        return elsewhere
    project = open_project()
    layout = Layout(project.layout)
    with suppress(LayoutError):
        if text in layout.names():
            return in_layout(layout, text)
    cell = project.matrix.images_of([text])[0]  # raises, with the reason or a suggestion
    raise LayoutError(f"{text} is not built", hint=f"buildctl build {cell.image}")


def only_image(target: Target, arch: str | None, *, preferred: str | None = None) -> Image:
    """The one image for `arch`; without it, the only one, or that for `preferred`. Raises LayoutError, UsageError."""
    found = target.of(arch)
    for image in found:
        if len(found) == 1 or (image.arch == preferred and len({i.name for i in found}) == 1):
            return image
    kinds = ", ".join(dict.fromkeys(f"{image.name} for {image.arch}" for image in found))
    raise UsageError(f"{target.text} is more than one image: {kinds}", hint="choose with --arch, or PATH:NAME")


def brought(target: Target, image: Image) -> ImageRef:
    """One image of `target`, with its layers; what a registry has is pulled into the store."""
    layout = target.layout or _pulled(target, image)
    name = f"{image.title}-{image.arch}" if image.title else f"{image.name} linux/{image.arch}"
    return ImageRef(layout=layout.root, descriptor=image.descriptor, name=name, arch=image.arch, config=image.config)


def _pulled(target: Target, image: Image) -> Layout:
    """The image in a layout of the store; layers built here are linked, not fetched."""
    assert target.repository is not None  # noqa: S101 - else it has a layout
    store = Store.default()
    layout = Layout(store.root / PULLED)
    layout.create()
    for layer in image.manifest.layers:
        made = store.blob(layer.digest)
        if store.receipts.genuine(made, layer.digest):
            layout.add_blob(made, layer.digest, layer.size)
    digest = image.descriptor.digest
    with open_progress("fetched") as progress:
        pull(target.repository, str(digest), arch=image.arch, layout=layout, name=digest.hex, progress=progress)
    return layout
