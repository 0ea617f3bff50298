"""Small images for tests, honest unless a test makes them lie."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, History, ImageConfig, Layer, MediaType, Platform
from buildctl.oci.layout import Layout

AMD64_ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + (62).to_bytes(2, "little") + bytes(44)
ARM64_ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + (183).to_bytes(2, "little") + bytes(44)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A tar entry exactly as given, however wrong."""

    name: str
    data: bytes = b""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    uid: int = 0
    gid: int = 0
    mtime: float = 315532800
    pax: tuple[tuple[str, str], ...] = ()


def file(name: str, data: bytes = b"content\n", *, mode: int = 0o644) -> Member:
    return Member(name=name, data=data, mode=mode)


def folder(name: str, *, mode: int = 0o755) -> Member:
    return Member(name=name, mode=mode, kind=tarfile.DIRTYPE)


def symlink(name: str, target: str) -> Member:
    return Member(name=name, mode=0o777, kind=tarfile.SYMTYPE, target=target)


def hard_link(name: str, target: str) -> Member:
    return Member(name=name, kind=tarfile.LNKTYPE, target=target)


def tar(*members: Member, layout: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.mode, info.type, info.linkname = member.mode, member.kind, member.target
            info.uid, info.gid, info.mtime = member.uid, member.gid, member.mtime
            info.size, info.pax_headers = len(member.data), dict(member.pax)
            archive.addfile(info, io.BytesIO(member.data))
    return out.getvalue()


def compress(data: bytes, media_type: str = MediaType.LAYER_ZSTD) -> bytes:
    match media_type:
        case MediaType.LAYER_ZSTD:
            return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data)
        case MediaType.LAYER_GZIP:
            return gzip.compress(data, 1, mtime=0)
    return data


class Blobs:
    """Layer blobs in a folder of their own, as the store holds them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        return self.root / digest.hex

    def add(self, data: bytes, media_type: str = MediaType.LAYER_ZSTD, *, blob: bytes | None = None) -> Layer:
        """A layer of the tar `data`; `blob` replaces what compressing it gives."""
        blob = compress(data, media_type) if blob is None else blob
        digest = Digest.of(blob)
        if not self.path(digest).exists():  # it may be linked into a layout
            self.path(digest).write_bytes(blob)
        descriptor = Descriptor(media_type=media_type, digest=digest, size=len(blob))
        return Layer(descriptor=descriptor, diff_id=Digest.of(data), uncompressed_size=len(data))


def config_of(layers: Sequence[Layer], *, arch: str = "amd64") -> ImageConfig:
    history = tuple(History(created_by=f"layer {n}") for n, _ in enumerate(layers))
    return ImageConfig(platform=Platform(architecture=arch), history=history, env=(("PATH", "/bin"),))


def put(
    layout: Layout, blobs: Blobs, layers: Sequence[Layer], *, name: str = "a-amd64", arch: str = "amd64"
) -> Descriptor:
    return layout.put_image(name=name, config=config_of(layers, arch=arch), layers=layers, blob=blobs.path)


def image(
    root: Path, *tars: bytes, media_type: str = MediaType.LAYER_ZSTD, arch: str = "amd64"
) -> tuple[Layout, Descriptor]:
    """A layout at root/dist with one image, `a-ARCH`, of these layers."""
    layout, blobs = Layout(root / "dist"), Blobs(root / "blobs")
    layers = [blobs.add(data, media_type) for data in tars]
    return layout, put(layout, blobs, layers, name=f"a-{arch}", arch=arch)


def nested(root: Path, depth: int, *, name: str = "d") -> Path:
    """A folder with folders in it, `depth` deep, and a file in the last: too deep for any path."""
    root.mkdir(parents=True)
    handle = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=handle)
        below = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(os.open("file", os.O_CREAT, dir_fd=handle))
    os.close(handle)
    return root
