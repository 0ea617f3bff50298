"""A file system image for Apptainer, enroot and Charliecloud, packed by squashfs-tools-ng or squashfs-tools."""

from __future__ import annotations

import os
from pathlib import Path

from buildctl.ground.errors import ToolError
from buildctl.ground.run import pour, which
from buildctl.oci.entry import EPOCH
from buildctl.oci.files import FULL
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.merged import merged_tar

LAST = 1800.0  # seconds for what a packer still has to do after the last byte
# Level 3: their own 15 took 121 s of processor time for cpu-2.6 instead of 11, for 14 % less. Both write the same bytes
# whatever the number of cores; between versions they may differ.
PACKERS = {
    "tar2sqfs": ("-q", "--no-skip", "--no-xattr", "--compressor", "zstd", "--comp-extra", "level=3",
                 "--defaults", f"mtime={EPOCH}"),
    "sqfstar": ("-quiet", "-no-progress", "-no-xattrs", "-comp", "zstd", "-Xcompression-level", "3",
                "-mkfs-time", str(EPOCH), "-root-mode", "0755", "-root-uid", "0", "-root-gid", "0"),
}  # fmt: skip
HINT = "sudo apt-get install squashfs-tools-ng  # or squashfs-tools 4.6"


def find_packer() -> list[str]:
    """The program and its options. Raises ToolError with what to install."""
    for name, options in PACKERS.items():
        if (program := which(name)) is not None:
            return [str(program), *options]
    raise ToolError("a squashfs is packed by tar2sqfs or sqfstar, and neither is installed", hint=HINT)


def write_squashfs(packer: list[str], layout: Layout, descriptor: Descriptor, target: Path) -> None:
    """Raises ToolError, LayoutError, and OSError for a full disk."""
    try:
        pour([*packer, target], merged_tar(layout, descriptor), last=LAST)
    except ToolError as error:
        full = next((code for code in FULL if os.strerror(code) in error.message), None)
        if full is not None:
            raise OSError(full, os.strerror(full)) from error
        raise
