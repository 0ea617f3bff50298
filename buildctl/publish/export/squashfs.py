"""A file system image for Apptainer, enroot and Charliecloud, packed by squashfs-tools-ng."""

from __future__ import annotations

import os
from pathlib import Path

from buildctl.ground.errors import ToolError
from buildctl.ground.run import pour, which
from buildctl.oci.entry import EPOCH
from buildctl.oci.files import FULL
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.trees.merged import merged_tar

LAST = 1800.0  # seconds for what a packer still has to do after the last byte
PACKER = "tar2sqfs"
# Level 3: its own 15 took 121 s of processor time for cpu-2.6 instead of 11, for 14 % less. It writes the same bytes
# whatever the number of cores; other versions may write others. squashfs-tools 4.5 (sqfstar) cannot set the time of the
# root directory, so it is not used.
OPTIONS = ("-q", "--no-skip", "--no-xattr", "--compressor=zstd", "--comp-extra=level=3", f"--defaults=mtime={EPOCH}")
HINT = "sudo apt-get install squashfs-tools-ng"


def find_packer() -> list[str]:
    """The program and its options. Raises ToolError with what to install."""
    if (program := which(PACKER)) is None:
        raise ToolError(f"a squashfs is packed by {PACKER}, which is not installed", hint=HINT)
    return [str(program), *OPTIONS]


def write_squashfs(packer: list[str], layout: Layout, descriptor: Descriptor, target: Path) -> None:
    """Raises ToolError, LayoutError, and OSError for a full disk."""
    try:
        pour([*packer, target], merged_tar(layout, descriptor), last=LAST)
    except ToolError as error:
        full = next((code for code in FULL if os.strerror(code) in error.message), None)
        if full is not None:
            raise OSError(full, os.strerror(full)) from error
        raise
