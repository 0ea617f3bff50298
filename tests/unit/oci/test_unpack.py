from __future__ import annotations

import os
import stat
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildctl.ground.errors import EngineError, LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import MediaType
from buildctl.oci.scan import scan_layer
from buildctl.oci.trees import unpack
from buildctl.oci.trees.unpack import unpack_image, unpack_layer, unpack_layers
from tests.support.images import Member, compress, file, folder, hard_link, image, symlink, tar

TYPES = [MediaType.LAYER_ZSTD, MediaType.LAYER_GZIP, MediaType.LAYER_TAR]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def one_layer(tmp_path: Path, *members: Member, stack: bool = False, media_type: str = MediaType.LAYER_ZSTD) -> Path:
    blob = tmp_path / "blob"
    blob.write_bytes(compress(tar(*members), media_type))
    assert unpack_layer(blob, media_type, tmp_path / "root", stack=stack)
    return tmp_path / "root"


def whole_image(tmp_path: Path, *tars: bytes) -> Path:
    layout, descriptor = image(tmp_path, *tars)
    unpack_image(layout, descriptor, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the code does for an ordinary user, whoever runs the tests."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.parametrize("media_type", TYPES)
def test_every_kind_of_entry(tmp_path: Path, media_type: str) -> None:
    root = one_layer(
        tmp_path,
        folder("d"),
        file("d/f", b"x" * 3_000_000),
        file("empty", b""),
        symlink("d/s", "/etc/f"),
        hard_link("h", "d/f"),
        media_type=media_type,
    )
    assert (root / "d/f").read_bytes() == b"x" * 3_000_000
    assert (root / "empty").read_bytes() == b""
    assert (root / "d/s").readlink() == Path("/etc/f")
    assert (root / "h").samefile(root / "d/f")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blob", "root"]


@pytest.mark.usefixtures("umask")
def test_modes_and_times_are_exact_whatever_the_umask(tmp_path: Path) -> None:
    sticky = Member(name="tmp", kind=tarfile.DIRTYPE, mode=0o1777, mtime=1)
    closed = Member(name="closed", kind=tarfile.DIRTYPE, mode=0o555, mtime=2)
    root = one_layer(
        tmp_path, folder("./"), sticky, closed, file("closed/f", mode=0o604), file("implied/f", mode=0o777)
    )
    assert [mode(root / p) for p in ("tmp", "closed", "closed/f", "implied", "implied/f")] == [
        0o1777,
        0o555,
        0o604,
        0o755,
        0o777,
    ]
    assert mode(root) == 0o755
    assert [(root / p).stat().st_mtime for p in ("tmp", "closed", "closed/f")] == [1, 2, 315532800]


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can give files away")
def test_root_sets_owners_and_setuid(tmp_path: Path) -> None:
    members = (
        Member(name="f", uid=1000, gid=1001, mode=0o4755),
        Member(name="d", uid=1002, gid=1003, kind=tarfile.DIRTYPE, mode=0o2775),
        Member(name="s", uid=1004, gid=1005, kind=tarfile.SYMTYPE, target="f"),
    )
    root = one_layer(tmp_path, *members)
    assert [((root / n).lstat().st_uid, (root / n).lstat().st_gid) for n in "fds"] == [
        (1000, 1001),
        (1002, 1003),
        (1004, 1005),
    ]
    assert (mode(root / "f"), mode(root / "d")) == (0o4755, 0o2775)


@pytest.mark.usefixtures("as_user")
def test_an_ordinary_user_keeps_the_files_and_no_setuid(tmp_path: Path) -> None:
    root = one_layer(tmp_path, Member(name="f", uid=1234, gid=1234, mode=0o6755))
    assert (root / "f").stat().st_uid == os.getuid()
    assert mode(root / "f") == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: an ordinary user has no ids to lose")
def test_root_of_a_user_namespace_that_lacks_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "chown", refuse)
    assert (one_layer(tmp_path, Member(name="f", uid=99999)) / "f").exists()


# layers on top of each other


def test_later_layers_win(tmp_path: Path) -> None:
    root = whole_image(
        tmp_path,
        tar(folder("d"), file("d/f", b"old"), file("x"), folder("was-dir"), file("was-dir/f"), symlink("s", "d")),
        tar(file("d/f", b"new"), folder("x"), file("x/y"), file("was-dir"), file("s", b"file")),
    )
    assert (root / "d/f").read_bytes() == b"new"
    assert (root / "x/y").is_file()
    assert (root / "was-dir").is_file()
    assert not (root / "s").is_symlink()


def test_a_later_layer_changes_a_directorys_mode_and_keeps_its_files(tmp_path: Path) -> None:
    root = whole_image(tmp_path, tar(folder("d"), file("d/f")), tar(folder("d", mode=0o700)))
    assert mode(root / "d") == 0o700
    assert (root / "d/f").is_file()


def test_a_replaced_file_leaves_its_hard_link_alone(tmp_path: Path) -> None:
    root = whole_image(tmp_path, tar(file("a", b"old"), hard_link("b", "a")), tar(file("a", b"new")))
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"new", b"old")


def test_whiteouts(tmp_path: Path) -> None:
    lower = tar(folder("d"), file("d/a"), file("d/b"), folder("e"), file("e/f"), file("top"))
    root = whole_image(tmp_path, lower, tar(file("d/.wh.a", b""), file(".wh.e", b""), file(".wh.top", b"")))
    assert sorted(str(p.relative_to(root)) for p in root.rglob("*")) == ["d", "d/b"]


@pytest.mark.parametrize("first", [True, False], ids=["whiteout first", "whiteout last"])
def test_an_opaque_whiteout_spares_what_its_own_layer_brings(tmp_path: Path, first: bool) -> None:
    opaque, new = file("d/.wh..wh..opq", b""), [folder("d/sub"), file("d/sub/new"), file("d/same", b"new")]
    lower = tar(folder("d"), file("d/old"), file("d/same", b"old"), folder("d/sub"), file("d/sub/old"))
    root = whole_image(tmp_path, lower, tar(folder("d"), *([opaque, *new] if first else [*new, opaque])))
    assert sorted(str(p.relative_to(root)) for p in root.rglob("*")) == ["d", "d/same", "d/sub", "d/sub/new"]
    assert (root / "d/same").read_bytes() == b"new"


def test_a_whiteout_spares_what_its_own_layer_brings(tmp_path: Path) -> None:
    root = whole_image(tmp_path, tar(file("a", b"old")), tar(file("a", b"new"), file(".wh.a", b"")))
    assert (root / "a").read_bytes() == b"new"


def test_a_whiteout_of_what_is_not_there(tmp_path: Path) -> None:
    assert list(whole_image(tmp_path, tar(file(".wh.a", b""))).iterdir()) == []


@pytest.mark.parametrize("name", ["d/.wh.a", "d/.wh..wh..opq"])
def test_a_layer_with_whiteouts_cannot_be_stacked(tmp_path: Path, name: str) -> None:
    with pytest.raises(LayoutError, match="a stacked layer cannot have"):
        one_layer(tmp_path, folder("d"), file(name, b""), stack=True)
    assert [p.name for p in tmp_path.iterdir()] == ["blob"]


def test_files_through_a_symlink_of_a_lower_layer_land_where_it_leads(tmp_path: Path) -> None:
    lower = tar(folder("usr"), folder("usr/lib"), symlink("lib", "usr/lib"), symlink("abs", "/usr/lib"))
    root = whole_image(tmp_path, lower, tar(file("lib/a"), file("abs/b")))
    assert sorted(p.name for p in (root / "usr/lib").iterdir()) == ["a", "b"]
    assert (root / "lib").is_symlink()


# escapes


@pytest.mark.parametrize(
    "members",
    [
        (file("../evil"),),
        (file("a/../../evil"),),
        (file("/evil"),),
        (hard_link("a", "../outside"),),
        (hard_link("a", "/outside"),),
        (file(".wh...", b""),),
        (file("a/.wh.", b""),),
        (symlink("./", "../outside"),),
    ],
    ids=lambda members: members[-1].name + " " + members[-1].target,
)
def test_names_and_targets_that_escape_are_refused(tmp_path: Path, members: tuple[Member, ...]) -> None:
    (tmp_path / "outside").write_text("precious")
    with pytest.raises(LayoutError, match="layer blob"):
        one_layer(tmp_path, *members)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blob", "outside"]


@pytest.mark.parametrize("target", ["../outside", "../../../../../../../../..{outside}", "{outside}"])
def test_a_symlink_out_is_followed_inside_only(tmp_path: Path, target: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("precious")
    link = symlink("d", target.format(outside=outside))
    root = one_layer(tmp_path, link, file("d/f", b"evil"), file("d/g", b"evil"))
    assert [(p.name, p.read_text()) for p in outside.iterdir()] == [("f", "precious")]
    assert (root / "d").is_symlink()
    inside = (root / "outside") if target == "../outside" else root / str(outside).lstrip("/")
    assert sorted(p.name for p in inside.iterdir()) == ["f", "g"]


def test_a_file_over_a_symlink_replaces_the_link_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    root = one_layer(tmp_path, symlink("a", "../outside"), file("a", b"new"))
    assert (tmp_path / "outside").read_text() == "precious"
    assert (root / "a").read_bytes() == b"new"


def test_a_directory_over_a_symlink_does_not_change_its_target(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    root = one_layer(tmp_path, symlink("a", "../outside"), folder("a", mode=0o777), file("a/f"))
    assert mode(outside) == 0o700
    assert list(outside.iterdir()) == []
    assert (root / "a/f").is_file()


def test_a_hard_link_through_a_symlink_stays_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    with pytest.raises(LayoutError, match="'h' is a hard link to 'd/secret', which is not a file here"):
        one_layer(tmp_path, symlink("d", str(outside)), hard_link("h", "d/secret"))


def test_a_hard_link_to_a_symlink_links_the_symlink(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    root = one_layer(tmp_path, symlink("s", "../outside"), hard_link("h", "s"))
    assert (root / "h").is_symlink()
    assert (tmp_path / "outside").stat().st_nlink == 1


def test_a_cached_directory_that_became_a_symlink_is_looked_at_again(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    one_layer(tmp_path, folder("d"), file("d/a"), symlink("d", "../outside"), file("d/evil"))
    assert list(outside.iterdir()) == []


def test_a_whiteout_below_a_symlink_removes_nothing_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("precious")
    whole_image(tmp_path, tar(symlink("d", str(outside))), tar(file("d/.wh.f", b""), file("d/.wh..wh..opq", b"")))
    assert (outside / "f").read_text() == "precious"


def test_symlinks_in_a_circle(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="'a/f' is behind a loop of symlinks"):
        one_layer(tmp_path, symlink("a", "b"), symlink("b", "a"), file("a/f"))


def test_a_name_below_a_file(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="'a/f' is below 'a', which is not a directory"):
        one_layer(tmp_path, file("a"), file("a/f"))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"7"])
def test_device_nodes_and_the_like_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(LayoutError, match="'x' is a device node, a FIFO or of unknown type"):
        one_layer(tmp_path, Member(name="x", kind=kind))


@pytest.mark.parametrize(
    "member",
    [
        Member(name="n" * 300),
        Member(name="x", pax=(("mtime", "nan"),)),
        Member(name="x", pax=(("mtime", "1e300"),)),
        Member(name="x", kind=tarfile.DIRTYPE, pax=(("mtime", "inf"),)),
        Member(name="x", pax=(("uid", "999999999999999999999999"),)),
        Member(name="x", kind=tarfile.SYMTYPE, pax=(("linkpath", "a\0b"),)),
    ],
    ids=["long name", "nan", "far future", "inf of a directory", "huge uid", "NUL in a target"],
)
def test_what_the_system_refuses_is_one_clear_error(tmp_path: Path, member: Member) -> None:
    with pytest.raises(LayoutError, match="layer blob"):
        one_layer(tmp_path, member)
    assert [p.name for p in tmp_path.iterdir()] == ["blob"]


# whole or not at all


def test_a_broken_blob_leaves_nothing(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(compress(tar(file("a"), file("b", os.urandom(500_000))))[:-100])
    with pytest.raises(LayoutError, match="broken compressed data"):
        unpack_layer(blob, MediaType.LAYER_ZSTD, tmp_path / "root")
    assert [p.name for p in tmp_path.iterdir()] == ["blob"]


def test_a_wrong_diff_id_leaves_nothing(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(compress(tar(file("a"))))
    with pytest.raises(LayoutError, match=r"has the diff id .*, not .* as in the configuration"):
        unpack_layer(blob, MediaType.LAYER_ZSTD, tmp_path / "root", diff_id=Digest.of(b"x"))
    assert [p.name for p in tmp_path.iterdir()] == ["blob"]


def test_a_directory_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    root = one_layer(tmp_path, file("a"))
    (root / "a").write_text("changed")
    assert not unpack_layer(tmp_path / "blob", MediaType.LAYER_ZSTD, root)
    assert (root / "a").read_text() == "changed"


def test_an_image_is_not_unpacked_over_something(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")))
    (tmp_path / "root").mkdir()
    unpack_image(layout, descriptor, tmp_path / "root")
    with pytest.raises(LayoutError, match="is not empty"):
        unpack_image(layout, descriptor, tmp_path / "root")


def test_what_a_killed_process_left_is_swept_and_what_one_at_work_has_is_not(tmp_path: Path) -> None:
    for name in ("stale", "busy"):
        (tmp_path / f".root.unpack-{name}/sub").mkdir(parents=True)
    with unpack._held(tmp_path / ".root.unpack-busy"):
        one_layer(tmp_path, file("a"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".root.unpack-busy", "blob", "root"]


def test_eight_at_once_all_get_the_same_directory(tmp_path: Path) -> None:
    blob, failures = tmp_path / "blob", list[BaseException]()
    blob.write_bytes(compress(tar(*(file(f"d{n}/f", os.urandom(1000)) for n in range(100)))))

    def work() -> None:
        try:
            unpack_layer(blob, MediaType.LAYER_ZSTD, tmp_path / "root")
            assert len(list((tmp_path / "root").iterdir())) == 100
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blob", "root"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "utime", full)
    with pytest.raises(EngineError, match="the disk is full") as caught:
        one_layer(tmp_path, file("a"))
    assert "free some space" in str(caught.value.hint)
    assert [p.name for p in tmp_path.iterdir()] == ["blob"]


def test_layers_of_an_image_in_directories_of_their_own(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a", b"1")), tar(file("a", b"2")), tar(file("a", b"1")))
    lower, upper, again = unpack_layers(layout, descriptor, tmp_path / "cache")
    assert [(p / "a").read_bytes() for p in (lower, upper, again)] == [b"1", b"2", b"1"]
    assert lower == again
    assert lower.name == layout.config(descriptor).diff_ids[0].hex
    stamp = (lower / "a").stat().st_ctime_ns
    assert unpack_layers(layout, descriptor, tmp_path / "cache") == (lower, upper, again)
    assert (lower / "a").stat().st_ctime_ns == stamp


def test_layers_that_cannot_be_stacked(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")), tar(file(".wh.a", b"")))
    with pytest.raises(LayoutError, match="a stacked layer cannot have"):
        unpack_layers(layout, descriptor, tmp_path / "cache")


FUZZED = tar(folder("d"), file("d/f", b"x" * 700), symlink("s", "../.."), hard_link("h", "d/f"), file("s/" + "n" * 120))


@given(
    changes=st.lists(st.tuples(st.integers(0, len(FUZZED) - 1), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, len(FUZZED)),
    mend=st.booleans(),
)
def test_whatever_the_bytes_nothing_lands_outside(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int, mend: bool
) -> None:
    data = bytearray(FUZZED[: len(FUZZED) - cut])
    for place, value in changes:
        data[place % max(1, len(data)) : place % max(1, len(data)) + 1] = bytes([value])
    for start in range(0, len(data) - 511, 512) if mend else ():  # checksums that hold let faults through to the names
        if data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    folder_ = tmp_path_factory.mktemp("fuzz")
    (folder_ / "blob").write_bytes(data)
    with (folder_ / "blob").open("rb", buffering=0) as blob:
        scan = scan_layer(blob, MediaType.LAYER_TAR, where="layer")
    try:
        unpack_layer(folder_ / "blob", MediaType.LAYER_TAR, folder_ / "root")
    except LayoutError:
        assert scan.problems, "the check passes what cannot be unpacked"
    assert {p.name for p in folder_.iterdir()} <= {"blob", "root"}
