from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.artifacts.store import Store
from buildctl.ground.errors import LockError, ToolError
from buildctl.lock import apt as lock_apt
from buildctl.lock.apt import instead_of_apt, resolve_base
from buildctl.lock.debian import (
    changes,
    format_base_lock,
    inputs_of,
    is_stale,
    read_base_lock,
    shipped_base,
    write_base_lock,
)
from buildctl.lock.inside.assembly import dated
from buildctl.matrix.cells import DebianBase, Flavour
from buildctl.matrix.read import load_matrix
from buildctl.oci.digest import Digest
from tests.conftest import ROOT

BASE = DebianBase(name="debian13", suite="trixie", packages=("apt", "tini"), devel=("gcc",))
MIRRORS = {
    "debian": ("http://mirror.example.invalid/debian",),
    "debian-security": ("http://mirror.example.invalid/debian-security",),
}
SOURCES = {urls[0]: archive for archive, urls in MIRRORS.items()}


def package(name: str = "apt", version: str = "3.0.4", arch: str = "amd64") -> DebPackage:
    return DebPackage(
        name=name,
        version=version,
        architecture=arch,
        archive="debian-security",
        filename=f"pool/updates/main/a/{name}/{name}_{version.partition(':')[2] or version}_{arch}.deb",
        size=1453228,
        digest=Digest.of(name.encode()),
    )


def lock(*packages: DebPackage) -> BaseLock:
    return BaseLock(
        base="debian13",
        flavour="runtime",
        arch="amd64",
        suite="trixie",
        inputs=inputs_of(BASE, Flavour.RUNTIME, "amd64"),
        packages=packages or (package(), package("libgcc-s1", "1:14.2.0-19+b1"), package("tzdata", "2026f", "all")),
    )


def test_a_lock_says_when_its_newest_package_was_made(tmp_path: Path) -> None:
    store, path = Store(tmp_path / "store"), tmp_path / "x"
    made = {"apt": 1_000_000_000, "bash": 1_794_897_324}
    packages = []
    for name, when in made.items():
        data = b"!<arch>\n" + f"{'debian-binary':<16}{when:<12}{0:<6}{0:<6}{'100644':<8}{4:<10}`\n".encode() + b"2.0\n"
        packages.append(replace(package(name), digest=Digest.of(data)))
        store.artifact_path(packages[-1].digest).write_bytes(data)
    found = dated(lock(*packages), store)
    assert found.newest == made["bash"]
    write_base_lock(path, found)
    assert "\n# newest: 2026-11-17T06:35:24Z\n" in path.read_text()
    assert read_base_lock(path) == found
    # not where one is missing, and not a second time
    assert dated(lock(*packages, package("zlib1g")), store).newest == 0
    assert dated(found, Store(tmp_path / "none")) is found
    path.write_text(path.read_text().replace("T06:35:24Z", ""))
    with pytest.raises(LockError, match="malformed newest"):
        read_base_lock(path)


def test_a_lock_reads_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runtime.amd64.packages"
    old = os.umask(0o077)
    try:
        write_base_lock(path, lock())
    finally:
        os.umask(old)
    assert read_base_lock(path) == lock()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_a_person_reads_in_a_diff() -> None:
    assert format_base_lock(lock(package())) == (
        "# Written by `buildctl lock`. Debian packages of a base; Filename is below the root of Archive.\n"
        "# base: debian13\n"
        "# flavour: runtime\n"
        "# arch: amd64\n"
        "# suite: trixie\n"
        f"# inputs: {inputs_of(BASE, Flavour.RUNTIME, 'amd64')}\n"
        "\n"
        "Package: apt\n"
        "Version: 3.0.4\n"
        "Architecture: amd64\n"
        "Archive: debian-security\n"
        "Filename: pool/updates/main/a/apt/apt_3.0.4_amd64.deb\n"
        "Size: 1453228\n"
        f"SHA256: {Digest.of(b'apt').hex}\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Archive: debian-security", "Archive: ubuntu", ":8: apt: archive must be one of debian, debian-security"),
        ("Filename: pool/", "Filename: /pool/", ":8: apt: malformed Filename '/pool/"),
        ("Filename: pool/updates", "Filename: pool/../updates", ":8: apt: malformed Filename"),
        ("Filename: pool/", "Filename: http://example.invalid/pool/", ":8: apt: malformed Filename"),
        ("Size: 1453228", "Size: 0", ":8: apt: malformed Size or SHA256"),
        ("Size: 1453228", "Size: 1e9", ":8: apt: malformed Size or SHA256"),
        ("SHA256: ", "SHA256: A", ":8: apt: malformed Size or SHA256"),
        ("SHA256: ", "MD5sum: ", ":8: fields must be Package, Version, Architecture, Archive, Filename, Size, SHA256"),
        ("Version: 3.0.4\n", "", ":8: fields must be Package"),
        ("Version: 3.0.4", "Version: 3 0", ":8: malformed package, version or architecture: apt 3 0 amd64"),
        ("Package: apt", "Package: ../apt", ":8: malformed package"),
        ("Version: 3.0.4\n", "Version: 3.0.4\nVersion: 4\n", ":10: field Version is given twice"),
        ("Architecture: amd64", "Architecture: arm64", "packages for another architecture than amd64: apt"),
        ("# suite: trixie\n", "", ":1: the header lacks suite"),
        ("# suite: trixie", "# suite: trixie\n# suite: sid", ":6: `suite` is given twice"),
        ("# flavour: runtime", "# flavour: slim", ":1: malformed flavour or inputs"),
        ("# inputs: sha256:", "# inputs: md5:", ":1: malformed flavour or inputs"),
        ("Package: apt\n", "nonsense\nPackage: apt\n", ":8: not a `Field: value` line: 'nonsense'"),
    ],
)
def test_malformed_locks_are_refused_with_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "a.packages"
    text = format_base_lock(lock(package()))
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(LockError) as caught:
        read_base_lock(path)
    assert caught.value.message.startswith(str(path))
    assert message in caught.value.message


def test_order_and_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "a.packages"
    for packages in ((package("bb"), package("aa")), (package("aa"), package("aa"))):
        path.write_text(format_base_lock(lock(*packages)))
        with pytest.raises(LockError, match="sorted by name, each once"):
            read_base_lock(path)
    path.write_text(format_base_lock(lock(package())).partition("\n\n")[0] + "\n")
    with pytest.raises(LockError, match="packages must be listed"):
        read_base_lock(path)


def test_a_lock_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="no such lock") as caught:
        read_base_lock(tmp_path / "none")
    assert caught.value.hint == "run `buildctl lock`"


def test_staleness() -> None:
    assert is_stale(BASE, lock()) is None
    assert is_stale(replace(BASE, packages=("tini", "apt", "apt")), lock()) is None  # order says nothing
    assert is_stale(replace(BASE, devel=()), lock()) is None  # runtime does not depend on devel
    assert is_stale(replace(BASE, packages=("apt",)), lock()) == (
        "matrix.yaml changed after it was written (the packages of the base)"
    )
    assert is_stale(replace(BASE, suite="forky"), lock()) == (
        "it is for debian13 (trixie), the matrix has debian13 (forky)"
    )
    devel = replace(lock(), flavour="devel", inputs=inputs_of(BASE, Flavour.DEVEL, "amd64"))
    assert is_stale(BASE, devel) is None
    assert is_stale(replace(BASE, devel=("gcc", "g++")), devel) is not None


def test_changes_read_like_a_sentence() -> None:
    before = lock(package("a", "1"), package("b", "1"), package("c", "1"))
    after = lock(package("a", "1"), package("b", "1:2"), package("d", "3"))
    assert changes(before, after) == ["b 1 -> 1:2", "c 1 removed", "d 3 added"]


def test_a_line_of_apt_becomes_a_package() -> None:
    line = (
        "'http://mirror.example.invalid/debian/pool/main/libc/libcap2/libcap2_2.75-10%2bdeb13u1%2bb3_amd64.deb' "
        f"libcap2_1%3a2.75-10+deb13u1+b3_amd64.deb 28988 SHA256:{'a' * 64}"
    )
    assert lock_apt.parse_uri(line, SOURCES) == DebPackage(
        name="libcap2",
        version="1:2.75-10+deb13u1+b3",
        architecture="amd64",
        archive="debian",
        filename="pool/main/libc/libcap2/libcap2_2.75-10+deb13u1+b3_amd64.deb",
        size=28988,
        digest=Digest("a" * 64),
    )


@pytest.mark.parametrize(
    "line",
    [
        "'http://elsewhere.example.invalid/debian/pool/a_1_all.deb' a_1_all.deb 1 SHA256:" + "a" * 64,
        "'http://mirror.example.invalid/debian/pool/a_1_all.deb' a_1_all.deb 1 MD5Sum:" + "a" * 32,
        "'http://mirror.example.invalid/debian/pool/a_1_all.deb' a_1_all.deb 1 ",
    ],
)
def test_a_line_of_apt_that_pins_nothing_is_an_error(line: str) -> None:
    with pytest.raises(LockError, match="cannot parse a line of apt's output"):
        lock_apt.parse_uri(line, SOURCES)


def test_only_reaching_servers_is_taken_from_the_machines_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    dump = (
        "Acquire::http::Proxy http://proxy.example.invalid:3128\n"
        "Acquire::https::CAInfo /etc/ssl/own.pem\n"
        "Acquire::Check-Valid-Until false\n"
        "Acquire::AllowInsecureRepositories true\n"
        "APT::Get::AllowUnauthenticated true\n"
        "APT::Update::Post-Invoke:: touch /tmp/owned\n"
        "Acquire::httpsomething x\n"
        "Acquire::http \n"
    )
    monkeypatch.setattr(lock_apt, "apt", lambda argv, root: dump)
    assert list(lock_apt._inherited()) == [
        ("Acquire::http::Proxy", "http://proxy.example.invalid:3128"),
        ("Acquire::https::CAInfo", "/etc/ssl/own.pem"),
        ("Acquire::Check-Valid-Until", "false"),
    ]


def test_without_debians_keys_nothing_is_resolved(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="no keys to verify Debian's signature") as caught:
        resolve_base(BASE, "amd64", mirrors=MIRRORS, keyring=tmp_path / "none.gpg")
    assert "apt-get install debian-archive-keyring" in str(caught.value.hint)


KEYS = {  # as Debian announces them: archive, security and release key of each
    "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8": "12, archive",
    "05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0": "12, security",
    "4D64FEC119C2029067D6E791F8D2585B8783D481": "12, release",
    "04B54C3CDCA79751B16BC6B5225629DF75B188BD": "13, archive",
    "5E04A1E3223A19A20706E20F9904613D4CCE68C6": "13, security",
    "41587F7DB8C774BCCF131416762F67A0B2C39DE4": "13, release",
}


def fingerprints(data: bytes) -> list[str]:
    """Of the primary keys in a keyring (RFC 9580, "key IDs and fingerprints", version 4)."""
    found = []
    while data:
        old, head = not data[0] & 0x40, data[0]
        if old:
            octets = 1 << (head & 3)
            kind, size, start = (head >> 2) & 15, int.from_bytes(data[1 : 1 + octets]), 1 + octets
        else:
            kind, first = head & 63, data[1]
            two, five = first >= 192, first == 255
            size = int.from_bytes(data[2:6]) if five else ((first - 192) << 8) + data[2] + 192 if two else first
            start = 6 if five else 3 if two else 2
        body, data = data[start : start + size], data[start + size :]
        if kind == 6:
            found.append(hashlib.sha1(b"\x99" + len(body).to_bytes(2) + body).hexdigest().upper())
    return found


def test_the_shipped_keys_are_debians_and_no_others() -> None:
    assert fingerprints(lock_apt.SHIPPED.read_bytes()) == list(KEYS)


def test_a_machine_without_debians_keys_trusts_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_apt, "KEYRING", tmp_path / "none.gpg")
    monkeypatch.setattr(lock_apt, "apt", lambda argv, root: "")
    lock_apt.private_root(tmp_path, "trixie", "amd64", MIRRORS, None)
    lines = (tmp_path / "etc/apt/sources.list").read_text().splitlines()
    (keys,) = {line.split("=")[1].split("]")[0] for line in lines}
    assert Path(keys).read_bytes() == lock_apt.SHIPPED.read_bytes()


def test_without_apt_the_error_says_where_to_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keyring = tmp_path / "keys.gpg"
    keyring.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="program not found: apt-config") as caught:
        resolve_base(BASE, "amd64", mirrors=MIRRORS, keyring=keyring)
    assert "locking a Debian base needs apt" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["-o", "apt/sid", "apt=1", "Apt", "?installed", "apt-"])
def test_names_that_apt_would_take_for_something_else(name: str, tmp_path: Path) -> None:
    """`apt-` for one is "remove apt", whatever stands before it."""
    with pytest.raises(LockError, match="not Debian package names"):
        lock_apt._packages(tmp_path, SOURCES, BASE, [name])


def test_the_locks_of_the_default_base_come_with_buildctl_if_they_are_of_it() -> None:
    base = next(b for b in load_matrix(ROOT / "matrix.yaml").bases if isinstance(b, DebianBase))
    found = shipped_base(base, "arm64")
    assert [(lock.flavour, lock.arch) for lock in found] == [("runtime", "arm64"), ("devel", "arm64")]
    assert found[0] == read_base_lock(ROOT / "images/bases" / base.name / "runtime.arm64.packages")
    assert shipped_base(replace(base, packages=(*base.packages, "git")), "arm64") == ()
    assert shipped_base(replace(base, name="other"), "arm64") == ()


def test_they_are_taken_only_where_apt_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = next(b for b in load_matrix(ROOT / "matrix.yaml").bases if isinstance(b, DebianBase))
    keyring = tmp_path / "keyring.gpg"
    assert set(instead_of_apt(base, "amd64", keyring=keyring)) == set(Flavour)
    keyring.touch()
    (tmp_path / "apt-get").write_text("")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert instead_of_apt(base, "amd64", keyring=keyring) == {}
