"""Whether two engines made the same image: every path of the file systems, every field of the configurations."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, cast

import zstandard

from buildctl.oci.image import Descriptor, MediaType
from buildctl.oci.layout import Layout

# What may differ between the engines, and why.
INSTALLER = ".dist-info/INSTALLER"  # names the program that installed: uv or buildctl
# uv adds pip's third name, as pip itself does; the wheel does not declare it
ONLY_BUILDKIT = re.compile(r".*/bin/pip3\.\d+")
# Lines of RECORD, which otherwise are the same: bytecode is listed by those who know of it when they install.
RECORD_MAY_DIFFER = re.compile(rb"/INSTALLER,|__pycache__/|\.\./bin/pip3\.\d+,")
CONFIG_MAY_DIFFER = {
    "history": "each engine tells it in its own words",
    "rootfs": "INSTALLER and RECORD; BuildKit has an empty layer for WORKDIR",
}
IN_CONFIG_MAY_DIFFER = {"ArgsEscaped": "a mark of BuildKit's that only Windows containers read"}


def file_differences(ours: Mapping[str, Mapping[str, Any]], buildkits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs between two trees and must not."""
    known = {path for path in buildkits if ONLY_BUILDKIT.fullmatch(path)}
    out = [f"{path}: only assembled" for path in sorted(set(ours) - set(buildkits))]
    out += [f"{path}: only of BuildKit" for path in sorted(set(buildkits) - set(ours) - known)]
    if any(path.endswith("/bin/pip") for path in ours) and not known:
        out.append("pip3.N: not of BuildKit any more")
    for path in sorted(set(ours) & set(buildkits)):
        fields = set(ours[path]) - ({"content"} if path.endswith(INSTALLER) else set())
        pairs = {field: (ours[path][field], buildkits[path][field]) for field in sorted(fields)}
        out += [f"{path}: {field} {a!r}, not {b!r}" for field, (a, b) in pairs.items() if a != b]
    return out


def configuration_differences(ours: dict[str, Any], buildkits: dict[str, Any]) -> list[str]:
    """The same of two raw image configurations, field by field, the unknown ones too."""
    pairs = {k: (ours.get(k), buildkits.get(k)) for k in {*ours, *buildkits} - {"config", *CONFIG_MAY_DIFFER}}
    inner = (ours["config"], buildkits["config"])
    names = {name for config in inner for name in config} - set(IN_CONFIG_MAY_DIFFER)
    pairs |= {f"config.{name}": (inner[0].get(name), inner[1].get(name)) for name in names}
    return sorted(f"{name}: {a!r}, not {b!r}" for name, (a, b) in pairs.items() if a != b)


def raw_configuration(layout: Layout, descriptor: Descriptor) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(layout.read_bytes(layout.manifest(descriptor).config))
    return found


def tree(layout: Layout, descriptor: Descriptor) -> dict[str, Mapping[str, Any]]:
    """Every path of the image with type, mode, owner, time, link target and content; no layer here has whiteouts."""
    found: dict[str, Mapping[str, Any]] = {}
    for layer in layout.manifest(descriptor).layers:
        with (
            layout.open_blob(layer.digest) as blob,
            tarfile.open(fileobj=plain(blob, layer.media_type), mode="r|") as t,
        ):
            found.update(entries(t))
    return found


def plain(blob: IO[bytes], media_type: str) -> IO[bytes]:
    if media_type == MediaType.LAYER_ZSTD:
        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(blob))
    return cast("IO[bytes]", gzip.GzipFile(fileobj=blob)) if media_type == MediaType.LAYER_GZIP else blob


def entries(archive: tarfile.TarFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for member in archive:
        body = archive.extractfile(member) if member.isfile() else None
        yield (
            member.name.rstrip("/"),
            {
                "type": member.type,
                "mode": member.mode,
                "owner": (member.uid, member.gid),
                "mtime": member.mtime,
                "target": member.linkname,
                "content": content(member.name, body) if body else "",
            },
        )


def content(name: str, body: IO[bytes]) -> str:
    """The hash of it, in bounded memory: a library has a gigabyte. Of a RECORD that which must not differ."""
    if name.endswith(".dist-info/RECORD"):
        lines = sorted(line for line in body.read().splitlines() if not RECORD_MAY_DIFFER.search(line))
        return hashlib.sha256(b"\n".join(lines)).hexdigest()
    return hashlib.file_digest(body, "sha256").hexdigest()  # type: ignore[arg-type]  # any readinto will do
