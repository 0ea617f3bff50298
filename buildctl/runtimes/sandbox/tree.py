"""An image's file tree on disk: layers unpacked once and stacked by overlayfs, or merged where that is impossible."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from buildctl.console.log import say
from buildctl.ground.errors import LayoutError
from buildctl.oci.layout import Layout
from buildctl.oci.trees.unpack import Owner, unpack_image, unpack_layers
from buildctl.runtimes.api import ImageRef

WORKSPACE = "workspace"  # where a folder of the host goes
FOLDERS = ("proc", "sys", "dev", "tmp", WORKSPACE)  # what must be there to mount on
SMALL = 1 << 20  # bytes of /etc/passwd that are read


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """`layers` are the unpacked layers, uppermost first; `merged`: there is only one, with the whole image."""

    layers: tuple[Path, ...]
    merged: bool = False

    def exists(self, path: str) -> bool:
        return any(os.path.lexists(layer / path) for layer in self.layers)

    def read(self, path: str) -> str:
        """A small text file of the image, empty if it has none; never follows a link out of the tree."""
        for layer in self.layers:
            parts = [layer.joinpath(*path.split("/")[:n]) for n in range(1, path.count("/") + 2)]
            if parts[-1].is_file() and not any(p.is_symlink() for p in parts):
                with parts[-1].open(encoding="utf-8", errors="replace") as file:
                    return file.read(SMALL)
        return ""


def stacked(image: ImageRef, folder: Path, *, owner: Owner | None) -> Tree | None:
    """The image's layers, each unpacked to `folder`/DIFF-ID unless it exists; None if they cannot be stacked."""
    try:
        layers = unpack_layers(Layout(image.layout), image.descriptor, folder, owner=owner, on_changed=_say_changed)
    except LayoutError:  # a layer that deletes from others; what else may be wrong, `merged` finds as well
        return None
    return Tree(layers=tuple(reversed(layers)))


def _say_changed(path: Path) -> None:
    say(f"{path} is not as it was unpacked; unpacking that layer again")


def merged(image: ImageRef, folder: Path, *, owner: Owner | None) -> Tree:
    """The whole image unpacked to `folder`/MANIFEST-DIGEST; raises LayoutError for a broken image."""
    target = folder / image.descriptor.digest.hex
    if not target.exists():
        unpack_image(Layout(image.layout), image.descriptor, target, owner=owner)
    for name in FOLDERS:
        (target / name).mkdir(exist_ok=True)
    return Tree(layers=(target,), merged=True)
