"""Layouts in one file: read back whole, refused when cut or changed, completed from elsewhere."""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest

from buildctl.ground.errors import LayoutError
from buildctl.oci.archive import END, blob_member, is_archive, member, unpack_archive
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import LAYOUT_FILE, Layout
from tests.support.images import file, image, tar


def packed(layout: Layout, *, without: Digest | None = None) -> bytes:
    pieces = [*member("oci-layout", LAYOUT_FILE), *member("index.json", layout.index_path.read_bytes())]
    for path in sorted(layout.blobs.iterdir()):
        blob = Descriptor(media_type="", digest=Digest(path.name), size=path.stat().st_size)
        if blob.digest != without:
            pieces += blob_member(layout, blob)
    return b"".join([*pieces, END])


def test_a_layout_comes_out_as_it_went_in(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")), tar(file("b")))
    (tmp_path / "a.tar").write_bytes(packed(layout))
    assert is_archive(tmp_path / "a.tar")
    out = unpack_archive(tmp_path / "a.tar", tmp_path / "out", held=lambda _: None)
    assert out.reachable([descriptor]) == layout.reachable([descriptor])
    assert out.index_path.read_bytes() == layout.index_path.read_bytes()
    assert {p.name: p.read_bytes() for p in out.blobs.iterdir()} == {
        p.name: p.read_bytes() for p in layout.blobs.iterdir()
    }


def test_what_is_left_out_is_taken_from_where_it_is(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")), tar(file("b")))
    gone = layout.manifest(descriptor).layers[0].digest
    (tmp_path / "a.tar").write_bytes(packed(layout, without=gone))
    there = unpack_archive(tmp_path / "a.tar", tmp_path / "out", held=layout.blob_path)
    assert there.blob_path(gone).is_file()
    absent = unpack_archive(tmp_path / "a.tar", tmp_path / "again", held=lambda _: None)
    assert not absent.blob_path(gone).exists()


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.97])
def test_a_cut_archive_is_refused(tmp_path: Path, keep: float) -> None:
    layout, _ = image(tmp_path, tar(file("a", b"x" * 5000)), tar(file("b", bytes(range(256)) * 40)))
    data = packed(layout)
    (tmp_path / "a.tar").write_bytes(data[: int((len(data) - len(END)) * keep)])
    with pytest.raises(LayoutError, match=r"damaged|does not match|No such"):
        unpack_archive(tmp_path / "a.tar", tmp_path / "out", held=lambda _: None)


def test_a_changed_blob_is_refused(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")))
    data = packed(layout)
    blob = layout.blob_path(layout.manifest(descriptor).layers[0].digest).read_bytes()
    (tmp_path / "a.tar").write_bytes(data.replace(blob, blob[:-1] + bytes([blob[-1] ^ 1])))
    with pytest.raises(LayoutError, match="does not match its name"):
        unpack_archive(tmp_path / "a.tar", tmp_path / "out", held=lambda _: None)


@pytest.mark.parametrize("name", ["../../escaped", "blobs/sha256/../../../escaped", "/etc/escaped"])
def test_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    layout, _ = image(tmp_path, tar(file("a")))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "a.tar").write_bytes(out.getvalue()[:1024] + packed(layout))
    with suppress(LayoutError):
        unpack_archive(tmp_path / "a.tar", tmp_path / "out", held=lambda _: None)
    assert list(tmp_path.rglob("escaped")) == []


@pytest.mark.parametrize("content", [b"", b"text\n" * 500, tar(file("something/else"))])
def test_other_files_are_not_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert not is_archive(tmp_path / "x")
    assert not is_archive(tmp_path / "nothing")
