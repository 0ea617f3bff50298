"""Environments that have been installed by others: the files of a torch, as far as they are read."""

from __future__ import annotations

import sys
from pathlib import Path

PYTHON = f"{sys.version_info[0]}{sys.version_info[1]}"
VERSION = "__version__ = '{build}'\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = {hip}\ngit_version = 'abc'\n"
LIBRARY = b"\x7fELF\0" + b"sm_80 sm_90 compute_90" + b"\0"


def site(folder: Path) -> Path:
    return next((folder / "lib").glob("python3*")) / "site-packages"


def distribution(folder: Path, name: str, version: str, **files: str) -> None:
    info = site(folder) / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nText\nName: no\n")
    for file, text in files.items():
        (info / file).write_text(text)


def put_torch(
    folder: Path, *, cuda: str | None = None, hip: str | None = None, library: bytes = LIBRARY, body: str = ""
) -> None:
    """What a wheel leaves, as far as it is read; importing it runs `body`."""
    package = site(folder) / "torch"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text(body)
    build = "2.13.0+cu130" if cuda else "2.13.0+cpu"
    (package / "version.py").write_text(VERSION.format(build=build, cuda=repr(cuda), hip=repr(hip)))
    (package / "lib" / "libtorch_python.so").write_bytes(library)
    tag = f"Tag: cp{PYTHON}-cp{PYTHON}-manylinux_2_28_x86_64\n"
    distribution(folder, "torch", "2.13.0", WHEEL=f"Wheel-Version: 1.0\n{tag}", RECORD="torch/version.py,sha256=x,1\n")
