from __future__ import annotations

import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildctl.artifacts.wheels.zip import read_zip
from buildctl.artifacts.wheels.zip_member import ZipMember
from buildctl.ground.errors import ArtifactError
from tests.support.wheels import zipped

LABEL = "demo-1.0-py3-none-any.whl"
GOOD = {"a/": b"", "a/one.txt": b"one " * 500, "b.bin": bytes(range(256)) * 20, "empty": b""}


def opened(folder: Path, data: bytes) -> tuple[ZipMember, ...]:
    path = folder / "archive"
    path.write_bytes(data)
    return read_zip(path, label=LABEL)


def contents(folder: Path, data: bytes) -> dict[str, bytes]:
    return {m.name: b"".join(m.chunks()) for m in opened(folder, data)}


def copied(folder: Path, data: bytes) -> dict[str, bytes]:
    """The same through the deflate streams, as the gzip writer reads them."""
    found = {}
    for member in opened(folder, data):
        if member.is_deflated:
            pieces: list[bytes] = []
            raw = b"".join(member.deflated(pieces.append))
            assert zlib.decompress(raw, -15) == b"".join(pieces)
            found[member.name] = b"".join(pieces)
        else:
            found[member.name] = b"".join(member.chunks())
    return found


READERS = [contents, copied]
Reader = Callable[[Path, bytes], dict[str, bytes]]


def test_an_empty_zip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="an empty zip"):
        opened(tmp_path, b"PK\x05\x06" + bytes(18))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("stored", [False, True])
def test_files_come_back_without_directories(tmp_path: Path, read: Reader, stored: bool) -> None:
    expected = {n: d for n, d in GOOD.items() if not n.endswith("/")}
    assert read(tmp_path, zipped(GOOD, stored=stored)) == expected


def test_large_members_come_in_bounded_pieces(tmp_path: Path) -> None:
    data = bytes(30_000_000)
    big = zipped({"zeros": data[: 15 << 20]})
    (member,) = opened(tmp_path, big)
    assert max(len(chunk) for chunk in member.chunks()) <= 1 << 20


@pytest.mark.parametrize("read", READERS)
def test_sizes_that_follow_the_data_are_read(tmp_path: Path, read: Reader) -> None:
    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    out = Unseekable()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("streamed", b"streamed " * 100)
    assert read(tmp_path, out.getvalue()) == {"streamed": b"streamed " * 100}


@pytest.mark.parametrize("read", READERS)
def test_zip64_fields_are_read(tmp_path: Path, read: Reader) -> None:
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("wide", "w", force_zip64=True) as file,
    ):
        file.write(b"wide " * 100)
    assert read(tmp_path, out.getvalue()) == {"wide": b"wide " * 100}


@pytest.mark.parametrize("read", READERS)
def test_sizes_and_offsets_are_those_of_the_directory_s_zip64_fields(
    tmp_path: Path, read: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # above it, zipfile writes such a field
    out, noise = io.BytesIO(), random.Random(1).randbytes(200)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (expected := {"small": b"s", "wide": b"wide " * 100, "both": noise}).items():
            with archive.open(name, "w", force_zip64=len(data) > 100) as file:
                file.write(data)
    found = out.getvalue()
    narrow = {n: struct.unpack_from("<2L14xL", found, central(found, n) + 20) for n in expected}
    assert {n: [v == 2**32 - 1 for v in narrow[n]] for n in narrow} == {
        "small": [False, False, False],
        "wide": [True, True, False],
        "both": [True, True, True],
    }
    assert read(tmp_path, found) == expected


def with_superfluous_zip64_field(size: int) -> bytes:
    """As protobuf's wheels: the sizes once more in the local header's field, though they fit into 32 bits."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("wide", "w", force_zip64=True) as file,
    ):
        file.write(b"wide " * 100)
    data = out.getvalue()
    compressed = struct.unpack_from("<L", data, central(data, "wide") + 20)[0]
    data = patched(data, local(data, "wide") + 18, struct.pack("<2L", compressed, 500))
    return patched(data, local(data, "wide") + 30 + 4 + 4, struct.pack("<2Q", size, compressed))


def test_sizes_that_are_said_twice_and_agree_are_read(tmp_path: Path) -> None:
    assert contents(tmp_path, with_superfluous_zip64_field(500)) == {"wide": b"wide " * 100}
    with pytest.raises(ArtifactError, match="has a zip64 field that does not match its sizes"):
        contents(tmp_path, with_superfluous_zip64_field(501))


def test_zip64_end_records_are_read(tmp_path: Path) -> None:
    assert contents(tmp_path, with_zip64_end(zipped(GOOD)))["a/one.txt"] == GOOD["a/one.txt"]


def with_zip64_end(data: bytes, *, count: int | None = None) -> bytes:
    end = len(data) - 22
    _, _, _, _, n, size, start, _ = struct.unpack("<4s4H2LH", data[end:])
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count or n, count or n, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    return (
        data[:end]
        + wide
        + locator
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    )


# --- archives that lie ---


def central(data: bytes, name: str) -> int:
    """Where the directory entry of `name` starts."""
    return data.index(b"PK\x01\x02" + data[0:0], data.rindex(name.encode()) - 46)


def local(data: bytes, name: str) -> int:
    return data.index(name.encode()) - 30


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def renamed(old: str, new: str) -> bytes:
    """An archive with a member under a name that zipfile would not write."""
    return zipped({"fine": b"fine", old: b"content " * 50}).replace(old.encode(), new.encode())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "has an absolute path"),
        ("C:/windows/x", "has an absolute path"),
        ("../outside", "has a path with '..'"),
        ("a/../../outside", "has a path with '..'"),
        ("a/..", "has a path with '..'"),
        ("a\\..\\outside", "has a backslash in its name"),
        ("a\0.py", "has a control character in its name"),
        ("a\n.py", "has a control character in its name"),
        ("./a", "has a path that is not clean"),
        ("a//b", "has a path that is not clean"),
        ("n" * 256, "has too long a name"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        contents(tmp_path, renamed("x" * len(name), name))
    assert caught.value.message == f"{LABEL}: {name!r} {why}"


Attack = Callable[[], bytes]


def attack_symlink() -> bytes:
    return zipped({"link": b"/etc/passwd"}, modes={"link": 0o120777})


def attack_device() -> bytes:
    return zipped({"link": b""}, modes={"link": 0o020666})


def attack_twice() -> bytes:
    return zipped({"link": b"one", "lin2": b"two"}).replace(b"lin2", b"link")


def attack_file_and_folder() -> bytes:
    return zipped({"link": b"file", "lin2/x": b"below"}).replace(b"lin2", b"link")


def attack_file_and_empty_folder() -> bytes:
    return zipped({"link": b"file", "lin2/": b""}).replace(b"lin2", b"link")


def attack_encrypted() -> bytes:
    data = zipped({"link": b"secret" * 50})
    data = patched(data, central(data, "link") + 8, b"\x01")
    return patched(data, local(data, "link") + 6, b"\x01")


def attack_method() -> bytes:
    data = zipped({"link": b"x" * 50})
    return patched(patched(data, central(data, "link") + 10, b"\x0c"), local(data, "link") + 8, b"\x0c")


def attack_crc() -> bytes:
    data = zipped({"link": b"x" * 50})
    return patched(patched(data, central(data, "link") + 16, b"evil"), local(data, "link") + 14, b"evil")


def attack_smaller_than_declared() -> bytes:
    return _resized(49 + 1000)


def attack_larger_than_declared() -> bytes:
    return _resized(49)


def _resized(size: int) -> bytes:
    data = zipped({"link": b"x" * 50})
    value = struct.pack("<L", size)
    return patched(patched(data, central(data, "link") + 24, value), local(data, "link") + 22, value)


def attack_other_local_name() -> bytes:
    data = zipped({"link": b"x" * 50})
    return patched(data, local(data, "link") + 30, b"evil")


def attack_other_local_size() -> bytes:
    data = zipped({"link": b"x" * 50})
    return patched(data, local(data, "link") + 22, struct.pack("<L", 51))


def attack_other_local_method() -> bytes:
    data = zipped({"link": b"x" * 50})
    return patched(data, local(data, "link") + 8, b"\x00")


def attack_no_local_header() -> bytes:
    data = zipped({"link": b"x" * 50})
    return patched(data, local(data, "link"), b"XXXX")


def attack_overlap() -> bytes:
    """The directory says that the first member goes on over the second."""
    data = zipped({"link": b"x" * 50, "next": b"y" * 50}, stored=True)
    return _longer(data, 40)


def _longer(data: bytes, by: int) -> bytes:
    for at in (central(data, "link") + 20, central(data, "link") + 24):
        data = patched(data, at, struct.pack("<L", 50 + by))
    for at in (local(data, "link") + 18, local(data, "link") + 22):
        data = patched(data, at, struct.pack("<L", 50 + by))
    return data


def attack_same_place() -> bytes:
    """Two names for one stream: the way the densest bombs are made."""
    data = zipped({"link": b"x" * 50, "next": b"y" * 50})
    return patched(data, central(data, "next") + 42, struct.pack("<L", 0))


def attack_hidden_bytes() -> bytes:
    """A member that the directory leaves out."""
    data = zipped({"link": b"x" * 50, "next": b"y" * 50})
    at = central(data, "next")
    kept = data[:at] + data[-22:]
    size = at - central(data, "link")
    return patched(kept, len(kept) - 22 + 8, struct.pack("<2HL", 1, 1, size))


def attack_unicode_name() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.extra = struct.pack("<2H", 0x7075, 5 + 4) + b"\x01" + struct.pack("<L", zlib.crc32(b"link")) + b"evil"
        archive.writestr(info, b"x")
    return out.getvalue()


def attack_zip64_field() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.extra = struct.pack("<2HQ", 0x0001, 8, 1)
        archive.writestr(info, b"x")
    return out.getvalue()


def attack_after_the_stream() -> bytes:
    """Bytes behind the end of a deflate stream, inside its member."""
    data = zipped({"link": b"x" * 50})
    compressed = struct.unpack_from("<L", data, local(data, "link") + 18)[0]
    end = 34 + compressed
    data = data[:end] + b"hidden" + data[end:]
    grown = struct.pack("<L", compressed + 6)
    data = patched(patched(data, central(data, "link") + 20, grown), local(data, "link") + 18, grown)
    return patched(data, len(data) - 6, struct.pack("<L", end + 6))


def attack_damaged() -> bytes:
    data = zipped({"link": bytes(range(256)) * 4})
    return patched(data, 34, b"\xff" * 8)


def attack_bomb() -> bytes:
    return zipped({"link": bytes(17 << 20)})


def attack_full_folder() -> bytes:
    data = zipped({"fold": b"not empty"}, modes={"fold": 0o40755})
    return data.replace(b"fold", b"lin/")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("attack", "why"),
    [
        (attack_symlink, "'link' is a symbolic link"),
        (attack_device, "'link' is not a regular file"),
        (attack_twice, "'link' appears twice"),
        (attack_file_and_folder, "'link' is a file where 'link/x' needs a directory"),
        (attack_file_and_empty_folder, "'link' is a file where 'link/' needs a directory"),
        (attack_encrypted, "'link' is encrypted"),
        (attack_method, "'link' uses an unsupported compression method (12)"),
        (attack_crc, "'link' has a wrong checksum (CRC-32)"),
        (attack_smaller_than_declared, "'link' holds 50 bytes, not the 1049 it declares"),
        (attack_larger_than_declared, "'link' is larger than the 49 bytes it declares"),
        (attack_other_local_name, "'link' has a local header that disagrees with the central directory"),
        (attack_other_local_method, "'link' has a local header that disagrees with the central directory"),
        (
            attack_other_local_size,
            "'link' has a local header whose sizes or checksum disagree with the central directory",
        ),
        (attack_no_local_header, "'link' has no local header at the offset in the central directory"),
        (attack_overlap, "'link' overlaps with what follows it"),
        (attack_same_place, "'link' overlaps with what follows it"),
        (attack_hidden_bytes, "'link' is followed by N stray bytes"),
        (attack_unicode_name, "'link' has a second name in its extra fields"),
        (attack_zip64_field, "'link' has a zip64 field that does not match its sizes"),
        (attack_after_the_stream, "'link' has bytes after the end of its deflate stream"),
        (attack_damaged, "'link' has a damaged deflate stream"),
        (attack_bomb, "'link' declares 17825792 bytes in N compressed: a decompression bomb"),
        (attack_full_folder, "'lin/' is 9 bytes large, over the limit of 0"),
    ],
)
def test_members_that_lie_are_refused_by_name(tmp_path: Path, read: Reader, attack: Attack, why: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        read(tmp_path, attack())
    # how many bytes zlib makes of something is its own business
    assert re.sub(r"\b\d+ (?=stray bytes|compressed)", "N ", caught.value.message) == f"{LABEL}: {why}"


def test_many_small_bombs_are_one(tmp_path: Path) -> None:
    data = zipped({f"zeros{i}": bytes(4 << 20) for i in range(5)})
    with pytest.raises(ArtifactError, match=r"declares 20971520 bytes in an archive of .*: a decompression bomb"):
        opened(tmp_path, data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a zip file"),
        (b"PK" * 100, "has no zip end record"),
        (zipped(GOOD)[:-1], "has no zip end record"),
        (zipped(GOOD) + b"\0", "has no zip end record"),
        (b"#!/bin/sh\n" + zipped(GOOD), "the central directory is not where its end record says"),
        (zipped(GOOD)[:-2] + b"\x01\x00c", "has no zip end record"),
        (with_zip64_end(zipped(GOOD), count=2), "holds 4 entries, its end record says 2"),
    ],
)
def test_archives_with_something_around_them_are_refused(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(ArtifactError, match=f"^{LABEL}: .*{why}"):
        contents(tmp_path, data)


def test_a_prefix_that_all_offsets_know_of_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO(b"#!/bin/sh\n")
    out.seek(10)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("x", b"x")
    with pytest.raises(ArtifactError, match="10 bytes before the first member 'x'"):
        contents(tmp_path, out.getvalue())


SAMPLE = zipped(GOOD)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255))
def test_one_changed_byte_never_changes_what_is_read(tmp_path: Path, at: int, value: int) -> None:
    changed = patched(SAMPLE, at, bytes([value]))
    expected = {n: d for n, d in GOOD.items() if not n.endswith("/")}
    try:
        found = contents(tmp_path, changed)
    except ArtifactError as error:
        assert error.message.startswith(LABEL)  # noqa: PT017 - anything else but this error is a failure
    else:
        assert set(found.values()) == set(expected.values())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_garbage_is_an_artifact_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArtifactError):
        contents(tmp_path, data)
