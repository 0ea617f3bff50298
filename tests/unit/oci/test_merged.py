"""The tar of a whole image against what the layers unpack to."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.ground import machine
from buildctl.ground.errors import LayoutError
from buildctl.oci import tarread
from buildctl.oci.compression import UNCOMPRESSED
from buildctl.oci.entry import CAPABILITY, capability, file_entry
from buildctl.oci.layer import write_layer
from buildctl.oci.layout import Layout
from buildctl.oci.trees.kept import remove_tree
from buildctl.oci.trees.merged import merged_tar
from buildctl.oci.trees.unpack import unpack_image
from tests.support.images import Blobs, Member, file, folder, hard_link, image, symlink, tar
from tests.support.images import put as put_image

LOWER = tar(
    folder("bin"), file("bin/sh", b"shell", mode=0o755), hard_link("bin/ash", "bin/sh"), symlink("lib", "usr/lib"),
    folder("usr"), folder("usr/lib", mode=0o750), replace(file("usr/lib/a", b"x" * 700), uid=7, gid=8, mtime=5),
    folder("gone"), file("gone/x"), folder("cleared"), file("cleared/old"), file("replaced", b"one"),
)  # fmt: skip
UPPER = tar(
    file("lib/b", b"through a link"), file(".wh.gone", b""), file("cleared/new"), file("cleared/.wh..wh..opq", b""),
    file("replaced", b"two"), file("bin/sh", b"another", mode=0o4755), symlink("to", "/bin/ash"), file("ä" * 60),
)  # fmt: skip
CALLS = 300  # in each other, while something is to be deeper
DEEP = file("a/" * (CALLS + 100) + "f")


def read(data: bytes) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            if info.name == ".":
                continue
            body = archive.extractfile(info) if info.isfile() else None
            content = body.read() if body else info.linkname
            found[info.name] = (info.type, info.mode, info.uid, info.gid, info.mtime, content)
    return found


def test_file_capabilities_stay(tmp_path: Path) -> None:
    value = capability("cap_net_raw,cap_net_admin=eip")
    out = io.BytesIO()
    write_layer([replace(file_entry("ping", b"x"), capability=value)], out, compression=UNCOMPRESSED)
    layout, descriptor = image(tmp_path, out.getvalue())
    data = b"".join(merged_tar(layout, descriptor))
    assert b" SCHILY.xattr.security.capability=" + value + b"\n" in data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getmember("ping").pax_headers[CAPABILITY].encode() == value
    unpack_image(layout, descriptor, tmp_path / "root")  # where nobody could use them, they are left out
    assert (tmp_path / "root/ping").read_bytes() == b"x"


def test_layers_are_merged_as_they_are_unpacked(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, LOWER, UPPER)
    found = read(b"".join(merged_tar(layout, descriptor)))
    unpack_image(layout, descriptor, tmp_path / "root")
    there = {str(p.relative_to(tmp_path / "root")) for p in (tmp_path / "root").rglob("*")}
    assert set(found) == there
    assert {n for n in found if "gone" in n or "old" in n} == set()
    assert found["usr/lib/a"] == (tarfile.REGTYPE, 0o644, 7, 8, 5, b"x" * 700)
    assert found["usr/lib/b"][-1] == b"through a link"
    assert found["bin/sh"][1::4] == (0o4755, b"another")
    assert found["bin/ash"][-1] == b"shell"  # what the link led to before
    for name, (kind, mode, _, _, mtime, content) in found.items():
        path = tmp_path / "root" / name
        if kind != tarfile.SYMTYPE:
            assert (path.stat().st_mode & 0o7777, int(path.stat().st_mtime)) == (mode, mtime), name
        if kind == tarfile.REGTYPE:
            assert path.read_bytes() == content


def test_hard_links_stay_links_to_one_file(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("b", b"1"), hard_link("a", "b"), hard_link("c", "a")))
    found = read(b"".join(merged_tar(layout, descriptor)))
    assert [(name, found[name][0], found[name][-1]) for name in found] == [
        ("a", tarfile.REGTYPE, b"1"), ("b", tarfile.LNKTYPE, "a"), ("c", tarfile.LNKTYPE, "a"),
    ]  # fmt: skip


def test_the_same_layers_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = (image(tmp_path / name, LOWER, UPPER) for name in ("one", "other"))
    assert b"".join(merged_tar(*one)) == b"".join(merged_tar(*other))


@pytest.mark.parametrize(
    ("members", "says"),
    [((hard_link("a", "nothing"),), "is a hard link to 'nothing'"), ((file("../a"),), "escapes"),
     ((Member(name="null", kind=tarfile.CHRTYPE),), "device node"), ((file("a"), file("a/b")), "is below 'a'")],
)  # fmt: skip
def test_what_cannot_be_unpacked_gives_not_one_byte(tmp_path: Path, members: tuple[Member, ...], says: str) -> None:
    layout, descriptor = image(tmp_path, LOWER, tar(*members))
    with pytest.raises(LayoutError, match=says):
        next(merged_tar(layout, descriptor))


@pytest.mark.parametrize(
    "layers", [(tar(DEEP), tar(file(".wh.a"))), (tar(DEEP, file(".wh.a")),), (tar(DEEP, file(".wh..wh..opq")),)]
)
def test_whiteouts_of_what_is_deeper_than_calls(tmp_path: Path, layers: tuple[bytes, ...]) -> None:
    layout, descriptor = image(tmp_path, *layers)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(CALLS)
    try:
        unpack_image(layout, descriptor, tmp_path / "root")
        remove_tree(tmp_path / "root")  # pytest cannot
        merged = b"".join(merged_tar(layout, descriptor))
    finally:
        sys.setrecursionlimit(before)
    with tarfile.open(fileobj=io.BytesIO(merged)) as archive:
        assert any(name.endswith("/f") for name in archive.getnames()) == (len(layers) == 1)


def test_names_that_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kilobyte of a blob may be a gigabyte of folders in each other; a gigabyte of honest names has a large blob."""
    monkeypatch.setattr(tarread, "_BOMB_SIZE", 100_000)
    monkeypatch.setattr(tarread, "_BOMB_RATIO", 300)
    layout, descriptor = image(tmp_path / "flat", tar(*(file(f"{n}") for n in range(200))))
    assert b"".join(merged_tar(layout, descriptor))
    monkeypatch.setattr(machine, "memory", lambda: 300_000)
    with pytest.raises(LayoutError, match="the names need 0 MB, more than half of this machine's memory"):
        next(merged_tar(layout, descriptor))
    monkeypatch.setattr(machine, "memory", lambda: 1 << 30)
    layout, descriptor = image(tmp_path / "deep", tar(*(file(f"{n}/" + "a/" * 100 + "f") for n in range(20))))
    with pytest.raises(LayoutError, match="MB of names in so few bytes"):
        next(merged_tar(layout, descriptor))
    with pytest.raises(LayoutError, match="MB of names in so few bytes"):
        unpack_image(layout, descriptor, tmp_path / "store")


def test_another_diff_id_gives_not_one_byte(tmp_path: Path) -> None:
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    layer = blobs.add(LOWER)
    false = replace(layer, diff_id=blobs.add(UPPER).diff_id)
    descriptor = put_image(layout, blobs, [false])
    with pytest.raises(LayoutError, match="has the diff id"):
        next(merged_tar(layout, descriptor))


def test_bodies_come_in_pieces(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("big", os.urandom(8 << 20))))
    assert max(len(piece) for piece in merged_tar(layout, descriptor)) <= 1 << 20
