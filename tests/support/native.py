"""A native environment on this Linux machine from a built image: its Python, started here, and its wheels, unpacked.

What `buildctl native` leaves on a Mac: bin/python, pyvenv.cfg, scripts and site-packages, nothing of a container.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from buildctl.oci.layout import Layout
from buildctl.oci.trees.unpack import unpack_layers

TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
LOADERS = {"amd64": "ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}


def environment_of(layout: Path, name: str, arch: str, *, unpacked: Path, target: Path) -> Path:
    """`unpacked` is where a sandbox of the same store unpacks layers; `target` lies on the same disk (hard links)."""
    found = Layout(layout)
    root = target / "root"
    for layer in unpack_layers(found, found.resolve(name, arch), unpacked):
        subprocess.run(["cp", "-al", "--remove-destination", f"{layer}/.", root], check=True)
    folder = target / "environment"
    packages = folder / "lib" / "python3.13" / "site-packages"
    packages.parent.mkdir(parents=True)
    (root / "usr/local/lib/python3.13/dist-packages").rename(packages)
    shutil.copytree(root / "usr/local/bin", folder / "bin", symlinks=True)
    interpreter = folder / "bin" / "python"
    for script in (folder / "bin").iterdir():
        text = script.read_bytes()
        if text.startswith(b"#!"):
            script.unlink()  # a copy of a hard link is a file of its own, but be sure
            script.write_bytes(re.sub(rb"\A#!.*", f"#!{interpreter}".encode(), text))
            script.chmod(0o755)
    (folder / "pyvenv.cfg").write_text(f"home = {root}/usr/bin\ninclude-system-site-packages = false\nversion = 3.13\n")
    start = (
        f"exec {root}/usr/lib/{TRIPLETS[arch]}/{LOADERS[arch]} --argv0 {interpreter}"
        f" --library-path {root}/usr/lib/{TRIPLETS[arch]} {root}/usr/bin/python3.13"
    )
    interpreter.write_text(f'#!/bin/sh\n{start} "$@"\n')
    interpreter.chmod(0o755)
    (folder / "bin" / "python3").symlink_to("python")
    return folder
