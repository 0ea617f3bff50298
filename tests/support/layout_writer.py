"""The program that writes images into a layout and is killed: `python layout_writer.py ROOT once|copy|forever SEED`.

It imports no more than it needs, because it is started a hundred times.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import sys
from pathlib import Path

from buildctl.ground.errors import BuildctlError
from buildctl.oci.image import Layer
from buildctl.oci.layout import Layout
from tests.support.images import Blobs, file, put, tar

REFUSED = 3  # exit status when it printed one clear error


def layers(blobs: Blobs, seed: int) -> list[Layer]:
    own = random.Random(seed)
    return [blobs.add(tar(file("shared", b"x" * 100_000))), blobs.add(tar(file(f"own-{seed}", own.randbytes(300_000))))]


def write(root: Path, seed: int) -> None:
    blobs = Blobs(root / "blobs")
    layout = Layout(root / "dist")
    descriptor = put(layout, blobs, layers(blobs, seed), name=f"image-{seed}-amd64")
    layout.put_index(name=f"image-{seed}", manifests=[descriptor])


def program(root: Path, how: str, seed: int) -> int:
    os.umask(0o077)
    if how == "copy":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        os.link = refuse
    try:
        write(root, seed)
        for number in itertools.count(1) if how == "forever" else ():
            write(root, seed + number)
    except BuildctlError as error:
        sys.stderr.write(f"{type(error).__name__}: {error.message}")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(program(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
