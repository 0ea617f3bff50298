"""Wheels made for tests: good ones, and bytes to patch for bad ones."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from buildctl.artifacts.wheels.layer import WheelFile


def record_line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"{name},sha256={digest},{len(data)}"


def wheel_contents(
    files: Mapping[str, bytes], *, name: str = "demo", version: str = "1.0", entry_points: str = ""
) -> dict[str, bytes]:
    """All members of a good wheel, RECORD last."""
    info = f"{name}-{version}.dist-info"
    members = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if entry_points:
        members[f"{info}/entry_points.txt"] = entry_points.encode()
    lines = [record_line(n, d) for n, d in members.items() if not n.endswith("/")]
    members[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    return members


def zipped(members: Mapping[str, bytes], *, modes: Mapping[str, int] | None = None, stored: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.compress_type = archive.compression
            default = 0o40755 if name.endswith("/") else 0o100644
            info.external_attr = (modes or {}).get(name, default) << 16
            archive.writestr(info, data)
    return out.getvalue()


def make_wheel(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    name: str = "demo",
    version: str = "1.0",
    entry_points: str = "",
    modes: Mapping[str, int] | None = None,
    stored: bool = False,
) -> WheelFile:
    """A wheel under the name of its hash, as in the store."""
    contents = wheel_contents(files, name=name, version=version, entry_points=entry_points)
    return saved(folder, zipped(contents, modes=modes, stored=stored), name=name, version=version)


def saved(folder: Path, data: bytes, *, name: str = "demo", version: str = "1.0") -> WheelFile:
    path = folder / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    return WheelFile(path=path, filename=f"{name}-{version}-py3-none-any.whl")
