from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildctl.artifacts.debian import deb as module
from buildctl.artifacts.debian.deb import Deb, open_deb, read_control
from buildctl.artifacts.debian.deb822 import parse_stanzas
from buildctl.ground.errors import ArtifactError
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Kind
from tests.support import debs
from tests.support.debs import ar, deb, file, folder, link, tar
from tests.support.images import Member

PLAIN = [file("usr/bin/thing", "#!/bin/sh\n", 0o4755), link("usr/bin/other", "thing"), folder("var/thing", 0o1777)]


def opened(tmp_path: Path, data: bytes, digest: Digest | None = None) -> Deb:
    path = tmp_path / "thing_1.0_amd64.deb"
    path.write_bytes(data)
    with tempfile.TemporaryFile() as scratch:
        found = open_deb(path, scratch, digest=digest)
        for entry in found.entries:
            assert len(b"".join(entry.body.chunks()) if entry.body else b"") == entry.size
        return found


def raw(*members: Member) -> bytes:
    """A package with exactly this data archive."""
    return around(tar(*members))


def around(data: bytes, name: str = "data.tar") -> bytes:
    control = tar(file("control", "Package: thing\nVersion: 1.0\nArchitecture: amd64\n"))
    return ar(("debian-binary", b"2.0\n"), ("control.tar", control), (name, data))


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_every_kind_of_entry_in_every_compression(tmp_path: Path, suffix: str) -> None:
    hard = Member(name="./usr/bin/hard", kind=tarfile.LNKTYPE, target="./usr/bin/thing")
    found = opened(tmp_path, deb(members=[*PLAIN, hard], suffix=suffix))
    entries = {e.path: e for e in found.entries}
    assert list(entries) == ["usr", "usr/bin", "usr/bin/thing", "usr/bin/other", "var", "var/thing", "usr/bin/hard"]
    assert found.names == ("/.", *(f"/{path}" for path in entries))
    thing = entries["usr/bin/thing"]
    assert (thing.kind, thing.mode, thing.size, thing.mtime) == (Kind.FILE, 0o4755, 10, 1700000000)
    assert (entries["usr/bin/other"].kind, entries["usr/bin/other"].target) == (Kind.SYMLINK, "thing")
    assert (entries["usr/bin/hard"].kind, entries["usr/bin/hard"].target) == (Kind.HARDLINK, "usr/bin/thing")
    assert (entries["var/thing"].kind, entries["var/thing"].mode) == (Kind.DIRECTORY, 0o1777)


def test_bodies_can_be_read_more_than_once_and_out_of_order(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(deb(members=[file("a", "first"), file("b", "second")]))
    with tempfile.TemporaryFile() as scratch:
        a, b = open_deb(path, scratch).entries
        assert a.body is not None
        assert b.body is not None
        assert [b"".join(body.chunks()) for body in (b.body, a.body, b.body)] == [b"second", b"first", b"second"]


def test_the_control_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(deb("lib", [file("a")], fields={"Multi-Arch": "same"}, control={"postinst": "#!/bin/sh\n"}))
    control = read_control(path)
    assert (control.package, control.version, control.architecture) == ("lib", "1.0", "amd64")
    assert control.unambiguous == "lib:amd64"
    assert control.fields["Description"] == "a thing\n more"
    assert set(control.files) == {"md5sums", "postinst"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([Member(name="/etc/passwd")], "escapes the tree or is not clean: '/etc/passwd'"),
        ([Member(name="./../etc/passwd")], "escapes the tree or is not clean: './../etc/passwd'"),
        ([Member(name="./a/../../b")], "escapes the tree"),
        ([Member(name="./a//b")], "not clean"),
        ([file("a"), file("a")], "a is in the archive twice"),
        ([link("a", "/etc"), file("a/passwd")], "a/passwd is below a, which is a symlink"),
        ([file("a"), file("a/b")], "a/b is below a, which is a file"),
        ([link("usr/a", "../../etc/passwd")], "symlink usr/a escapes the tree: '../../etc/passwd'"),
        ([link("a", "")], "symlink a escapes the tree: ''"),
        ([Member(name="./a", kind=tarfile.LNKTYPE, target="./b")], "hard link a to b, which is not an earlier file"),
        ([Member(name="./a", kind=tarfile.LNKTYPE, target="/etc/passwd")], "escapes the tree"),
        ([link("b", "c"), Member(name="./a", kind=tarfile.LNKTYPE, target="./b")], "which is not an earlier file"),
        ([Member(name="./a", kind=tarfile.CHRTYPE)], "a: neither file, directory nor link"),
        ([Member(name="./a", kind=tarfile.FIFOTYPE)], "a: neither file, directory nor link"),
    ],
)
def test_malicious_data_archives_are_refused_by_name(tmp_path: Path, members: list[Member], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        opened(tmp_path, raw(*members))
    assert caught.value.message.startswith("thing_1.0_amd64.deb: ")
    assert message in caught.value.message


def test_symlinks_inside_the_tree_are_kept_as_written(tmp_path: Path) -> None:
    members = [link("usr/a/b", "../../etc/c"), link("d", "/etc/passwd"), link("e", "usr/./a")]
    assert [e.target for e in opened(tmp_path, raw(*members)).entries] == ["../../etc/c", "/etc/passwd", "usr/./a"]


def test_another_digest_than_the_locks(tmp_path: Path) -> None:
    data = deb()
    assert opened(tmp_path, data, Digest.of(data)).control.package == "thing"
    with pytest.raises(ArtifactError, match=r"thing_1.0_amd64.deb: sha256 is [0-9a-f]{64}, the lock has 00"):
        opened(tmp_path, data, Digest("0" * 64))


def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = around(debs.COMPRESS[".xz"](bytes(40 << 20)), "data.tar.xz")
    with pytest.raises(ArtifactError, match="unpacks to more than"):
        opened(tmp_path, bomb)
    monkeypatch.setattr(module, "MAX_CONTROL", 1000)
    with pytest.raises(ArtifactError, match=r"control\.tar\.xz unpacks to more than 1000"):
        opened(tmp_path, deb())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04", "no ar archive"),
        (ar(("data.tar", b"")), "not a Debian package: members"),
        (ar(("debian-binary", b"3.0\n"), ("control.tar", b""), ("data.tar", b"")), "unknown package format b'3.0"),
        (ar(("debian-binary", b"2.0\n"), ("data.tar", b""), ("control.tar", b"")), "unexpected members"),
        (ar(("debian-binary", b"2.0\n"), ("control.tar", b""), ("data.tar", b""), ("more", b"")), "unexpected members"),
        (around(b"x" * 700), "damaged data archive"),
        (around(b"not xz", "data.tar.xz"), "data.tar.xz is damaged"),
        (around(b"not gz", "data.tar.gz"), "data.tar.gz is damaged"),
        (around(b"not zst", "data.tar.zst"), "data.tar.zst is damaged"),
        (around(b"", "data.tar.lzma"), "unknown compression '.lzma'"),
    ],
)
def test_what_is_no_package(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        opened(tmp_path, data)
    assert message in caught.value.message


def pax(**headers: str) -> bytes:
    """One file with these headers in front of it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("./a")
        info.size, info.pax_headers = 10, headers
        archive.addfile(info, io.BytesIO(bytes(10)))
    return out.getvalue()


BROKEN_DEFLATE = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\xff" * 50
SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "99"}


@pytest.mark.parametrize(
    "data",
    [
        around(BROKEN_DEFLATE, "data.tar.gz"),
        ar(("debian-binary", b"2.0\n"), ("control.tar.gz", BROKEN_DEFLATE), ("data.tar", b"")),
        around(pax(mtime="nan")),
        around(pax(mtime="inf")),
        around(pax(**SPARSE)),
        ar(("debian-binary", b"2.0\n"), ("control.tar", pax(**SPARSE)), ("data.tar", b"")),
    ],
    ids=["deflate", "deflate in control", "nan", "inf", "sparse", "sparse in control"],
)
def test_what_the_libraries_stumble_over_is_an_error_of_the_package(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"thing_1\.0_amd64\.deb.*damaged"):
        opened(tmp_path, data)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_truncation_anywhere_is_noticed(tmp_path: Path, suffix: str) -> None:
    data = deb(members=[file("a", "x" * 5000)], suffix=suffix)
    for length in (0, 20, 70, 100, len(data) // 2, len(data) - 100):
        with pytest.raises(ArtifactError):
            opened(tmp_path, data[:length])


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(tar(file("a", "1"), file("b", "2"), file("c", "3")))
    data[1024 + 148] ^= 1  # the checksum of b
    with pytest.raises(ArtifactError, match="damaged data archive: no valid header at byte 1024"):
        opened(tmp_path, around(bytes(data)))


def test_a_data_archive_cut_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"damaged data archive|truncated in a"):
        opened(tmp_path, around(tar(file("a", "x" * 5000))[:2048]))


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (tar(file("control", "Package: a\nVersion: 1\n")), "the control file lacks Architecture"),
        (tar(file("control", "")), "the control file has 0 paragraphs"),
        (tar(file("control", "Package: a\n\nPackage: b\n")), "the control file has 2 paragraphs"),
        (tar(file("control", "Package: a\nPackage: b\n")), "control:2: field Package is given twice"),
        (tar(file("control", "x"), file("control", "x")), "unexpected or duplicate control file 'control'"),
        (tar(file("sub/control", "x")), "unexpected or duplicate control file 'sub/control'"),
    ],
)
def test_damaged_control_archives(tmp_path: Path, control: bytes, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        opened(tmp_path, ar(("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar", tar())))
    assert message in caught.value.message


def test_stanzas_with_comments_and_continuations() -> None:
    text = "# head\n\nA: 1\nB: x\n y\n# between\n\n\nA: 2\n"
    assert list(parse_stanzas(text, "f")) == [(3, {"A": "1", "B": "x\n y"}), (9, {"A": "2"})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" x", "f:1: a continuation line without a field before it"),
        ("A: 1\n\n x", "f:3: a continuation line without"),
        ("A: 1\nnonsense", "f:2: not a `Field: value` line: 'nonsense'"),
        ("A: 1\nB C: 2", "f:2: not a `Field: value` line"),
        ("A: 1\nA: 2", "f:2: field A is given twice"),
    ],
)
def test_malformed_stanzas(text: str, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        list(parse_stanzas(text, "f"))
    assert message in caught.value.message


@given(st.binary(max_size=200), st.integers(0, 3000))
def test_noise_over_a_package_gives_a_package_or_an_artifact_error(noise: bytes, position: int) -> None:
    data = bytearray(deb(members=PLAIN, suffix=""))
    data[position : position + len(noise)] = noise
    with tempfile.TemporaryDirectory() as folder_name, tempfile.TemporaryFile() as scratch:
        path = Path(folder_name) / "a.deb"
        path.write_bytes(data)
        try:
            found = open_deb(path, scratch)
        except ArtifactError:
            return
        assert all(".." not in e.path.split("/") and not e.path.startswith("/") for e in found.entries)


def test_tarfile_reads_what_our_helper_writes() -> None:
    """The tests above rest on it."""
    with tarfile.open(fileobj=io.BytesIO(tar(*PLAIN))) as archive:
        assert archive.getnames() == ["./usr/bin/thing", "./usr/bin/other", "./var/thing"]
