from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.bases import apt_sources, base_entries, left_out, merged, python_version, with_parents
from buildctl.bytecode import Compilation
from buildctl.errors import ArtifactError
from buildctl.lock_debian import BaseLock
from buildctl.oci.entry import Entry, Kind, file_entry
from tests.debs import SOURCES, deb, file, folder, link, lock_of, package, tiny_base, write_all
from tests.images import Member


class Compiled:
    """A compiler that gives `path:length` as bytecode, and none for what is called broken."""

    identity, tag = "test", "cpython-313"

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[Compilation]:
        yield self

    def add(self, path: str, source: bytes) -> None:
        self.seen.append((path, source))

    def results(self) -> Iterator[bytes | None]:
        for path, source in self.seen:
            yield None if "broken" in path else f"{path}:{len(source)}".encode()


def made(
    tmp_path: Path, debs: Mapping[str, bytes], *, below: BaseLock | None = None, compiler: Compiled | None = None
) -> dict[str, tuple[Entry, bytes]]:
    """The entries of a lock over exactly these packages, with their content."""
    paths = write_all(tmp_path, debs)
    known = {p.name for p in below.packages} if below else set()
    lock = lock_of({n: d for n, d in debs.items() if n not in known}, flavour="devel" if below else "runtime")
    out: dict[str, tuple[Entry, bytes]] = {}
    for entry in base_entries(lock, lambda p: paths[p.digest], below=below, compiler=compiler, scratch=tmp_path):
        assert entry.path not in out
        parent = entry.path.rpartition("/")[0]
        assert below or not parent or out[parent][0].kind is Kind.DIRECTORY, f"{entry.path} comes before its folder"
        out[entry.path] = (entry, b"".join(entry.body.chunks()) if entry.body else b"")
    return out


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, tuple[Entry, bytes]]:
    return made(tmp_path, tiny_base())


def text(tree: Mapping[str, tuple[Entry, bytes]], path: str) -> str:
    return tree[path][1].decode()


def facts(tree: Mapping[str, tuple[Entry, bytes]], path: str) -> tuple[str, int, int, int]:
    entry = tree[path][0]
    return str(entry.kind), entry.mode, entry.uid, entry.gid


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


ISSUE = md5(b"Debian\n")
Tree = Mapping[str, tuple[Entry, bytes]]


def test_dpkgs_status(tree: Tree) -> None:
    stanzas = text(tree, "var/lib/dpkg/status").split("\n\n")
    assert [s.partition("\n")[0].removeprefix("Package: ") for s in stanzas] == sorted(tiny_base())
    assert stanzas[1] == (
        "Package: base-files\n"
        "Status: install ok installed\n"
        "Version: 1.0\n"
        "Architecture: amd64\n"
        "Description: a thing\n more\n"
        "Conffiles:\n"
        f" /etc/issue {ISSUE}"
    )


def test_dpkgs_lists_hold_what_is_installed_and_nothing_else(tree: Tree) -> None:
    assert text(tree, "var/lib/dpkg/info/bash.list").splitlines() == [
        "/.",
        "/usr",
        "/usr/bin",
        "/usr/bin/bash",
        "/etc",
        "/etc/skel",
        "/etc/skel/.bashrc",
        "/etc/skel/.profile",
        "/etc/skel/.bash_logout",
        "/usr/share",
        "/usr/share/debianutils",
        "/usr/share/debianutils/shells.d",
        "/usr/share/debianutils/shells.d/bash",
        "/usr/share/man",
        "/usr/share/doc",
        "/usr/share/doc/bash",
        "/usr/share/doc/bash/copyright",
    ]
    sums = text(tree, "var/lib/dpkg/info/bash.md5sums")
    assert f"{md5(b'GPL')}  usr/share/doc/bash/copyright\n" in sums
    assert "man1" not in sums
    assert "NEWS" not in sums
    for name in ("apt", "bash", "base-files", "libthing1:amd64", "tzdata"):
        listed = text(tree, f"var/lib/dpkg/info/{name}.list").splitlines()[1:]
        assert [path for path in listed if merged(path[1:]) not in tree] == []
        assert text(tree, f"var/lib/dpkg/info/{name}.md5sums").count("\n") <= len(listed)


def test_dpkgs_other_files(tree: Tree) -> None:
    info = "var/lib/dpkg/info"
    assert text(tree, f"{info}/format") == "1\n"
    assert text(tree, "var/lib/dpkg/arch-native") == "amd64\n"
    assert facts(tree, f"{info}/base-files.postinst")[1] == 0o755
    assert facts(tree, f"{info}/base-files.conffiles")[1] == 0o644
    assert text(tree, f"{info}/libthing1:amd64.shlibs") == "libthing 1\n"  # Multi-Arch: same
    assert f"{info}/libthing1.list" not in tree
    assert text(tree, "var/lib/dpkg/triggers/File") == "/usr/lib32 base-files/noawait\n"
    assert text(tree, "var/lib/dpkg/triggers/ldconfig") == "libthing1:amd64\n"


def test_accounts(tree: Tree) -> None:
    assert text(tree, "etc/passwd") == (
        "root:x:0:0:root:/root:/bin/bash\nmail:x:8:8::/var/mail:/x\ntorch:x:1000:1000::/home/torch:/bin/bash\n"
    )
    assert text(tree, "etc/group") == "root:x:0:\nmail:x:8:\nshadow:x:42:\ntorch:x:1000:\n"
    assert text(tree, "etc/shadow") == "root:*::0:99999:7:::\nmail:*::0:99999:7:::\ntorch:*::0:99999:7:::\n"
    assert facts(tree, "etc/shadow") == ("file", 0o640, 0, 42)
    assert facts(tree, "etc/gshadow") == ("file", 0o640, 0, 42)


def test_folders_that_any_user_may_write_to(tree: Tree) -> None:
    assert facts(tree, "tmp") == ("directory", 0o1777, 0, 0)
    assert facts(tree, "home/torch") == ("directory", 0o1777, 1000, 1000)
    assert facts(tree, "workspace") == ("directory", 0o1777, 1000, 1000)
    assert facts(tree, "home/torch/.bashrc") == ("file", 0o644, 1000, 1000)
    writable = [p for p, (e, _) in tree.items() if e.mode & 0o002 and e.kind is not Kind.SYMLINK]
    assert sorted(writable) == ["home/torch", "run/lock", "tmp", "workspace"]


def test_the_merge_of_usr(tree: Tree) -> None:
    assert tree["bin"][0].target == "usr/bin"
    assert not [p for p in tree if p.startswith(("bin/", "lib/", "sbin/"))]
    assert tree["var/run"][0].target == "/run"  # base-files ships a folder, its script makes a link of it


def test_shells(tree: Tree) -> None:
    assert text(tree, "etc/shells") == "# shells\n/bin/sh\n/usr/bin/sh\n/bin/bash\n/usr/bin/bash\n"
    assert text(tree, "var/lib/shells.state") == "/bin/sh\n/usr/bin/sh\n/bin/bash\n/usr/bin/bash\n"


def test_pam(tree: Tree) -> None:
    assert text(tree, "etc/pam.d/common-auth") == (
        "# head\nauth\t[success=1 default=ignore]\tpam_unix.so nullok\n# middle\n# end\n"
    )
    assert text(tree, "etc/pam.d/common-session-noninteractive") == (
        "# head\nsession\t[default=1]\t\t\tpam_permit.so\n# middle\nsession\trequired\tpam_unix.so \n# end\n"
    )
    assert text(tree, "var/lib/pam/account") == "Module: unix\n[success=end default=ignore]\tpam_unix.so\n"


def test_alternatives(tree: Tree) -> None:
    assert tree["usr/bin/awk"][0].target == "/etc/alternatives/awk"
    assert tree["etc/alternatives/nawk"][0].target == "/usr/bin/mawk"
    assert "etc/alternatives/awk.1.gz" not in tree  # the manual page is left out
    assert text(tree, "var/lib/dpkg/alternatives/awk") == (
        "auto\n/usr/bin/awk\n"
        "awk.1.gz\n/usr/share/man/man1/awk.1.gz\n"
        "nawk\n/usr/bin/nawk\n"
        "nawk.1.gz\n/usr/share/man/man1/nawk.1.gz\n"
        "\n/usr/bin/mawk\n5\n"
        "/usr/share/man/man1/mawk.1.gz\n/usr/bin/mawk\n/usr/share/man/man1/mawk.1.gz\n\n"
    )
    assert "var/lib/dpkg/alternatives/which" not in tree  # its program is not there


def test_apt_in_the_image_uses_what_debians_own_example_names(tree: Tree) -> None:
    sources = text(tree, "etc/apt/sources.list.d/debian.sources")
    assert sources.count("Components: main\n") == 2
    assert "URIs: http://mirror.example.invalid/debian-security\nSuites: trixie-security\n" in sources
    assert "#" not in sources
    with pytest.raises(
        ArtifactError, match=r"names the suites trixie trixie-updates trixie-security, the lock is of sid"
    ):
        apt_sources_of(SOURCES, "sid")
    with pytest.raises(ArtifactError, match=r"no usr/share/doc/apt/examples/debian\.sources in the packages"):
        apt_sources([], "trixie")


def apt_sources_of(content: str, suite: str) -> None:
    from buildctl.deb import Control, Deb

    path = "usr/share/doc/apt/examples/debian.sources"
    control = Control(fields={"Package": "apt"}, files={})
    apt_sources([Deb(control=control, entries=(file_entry(path, content.encode()),), names=())], suite)


def test_bytecode_of_the_standard_library(tmp_path: Path) -> None:
    compiler = Compiled()
    tree = made(tmp_path, tiny_base(), compiler=compiler)
    assert compiler.seen == [("/usr/lib/python3.13/broken.py", b"x = \n"), ("/usr/lib/python3.13/json.py", b"x = 1\n")]
    cache = "usr/lib/python3.13/__pycache__"
    assert text(tree, f"{cache}/json.cpython-313.pyc") == "/usr/lib/python3.13/json.py:6"
    assert f"{cache}/broken.cpython-313.pyc" not in tree
    assert facts(tree, cache) == ("directory", 0o755, 0, 0)


def test_a_devel_layer_is_what_it_adds(tmp_path: Path) -> None:
    runtime = tiny_base()
    gcc = deb("gcc", [file("usr/bin/gcc", "x", 0o755), file("usr/lib/python3.13/config.py", "y = 1\n"), folder("tmp")])
    compiler = Compiled()
    tree = made(tmp_path, {**runtime, "gcc": gcc}, below=lock_of(runtime), compiler=compiler)
    assert [path for path, (e, _) in tree.items() if e.kind is not Kind.DIRECTORY] == [
        "etc/alternatives/cc",
        "usr/bin/cc",
        "usr/bin/gcc",
        "usr/lib/python3.13/__pycache__/config.cpython-313.pyc",
        "usr/lib/python3.13/config.py",
        "var/lib/dpkg/alternatives/cc",
        "var/lib/dpkg/info/gcc.list",
        "var/lib/dpkg/info/gcc.md5sums",
        "var/lib/dpkg/status",
    ]
    assert "tmp" not in tree  # a shared folder keeps the mode that it has below
    assert text(tree, "var/lib/dpkg/status").count("Package: ") == len(runtime) + 1
    assert compiler.seen == [("/usr/lib/python3.13/config.py", b"y = 1\n")]


def test_hard_links_come_after_what_they_link_to(tmp_path: Path) -> None:
    twice = deb("twice", [file("usr/bin/b", "x"), Member(name="./usr/bin/a", kind=b"1", target="./usr/bin/b")])
    order = [p for p in made(tmp_path, {**tiny_base(), "twice": twice}) if p.startswith("usr/bin/")]
    assert order.index("usr/bin/a") > order.index("usr/bin/b")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([file("usr/bin/bash", "mine")], "usr/bin/bash is in two packages: bash and zz"),
        ([file("bin/bash", "mine")], "usr/bin/bash is in two packages: bash and zz"),
        ([file("etc", "mine")], "etc is in two packages: base-files and zz"),
        ([file("usr/lib/libthing.so.1/x", "mine")], "usr/lib/libthing.so.1 is in two packages: libthing1 and zz"),
        ([file("etc/pip.conf", "mine")], ""),
    ],
)
def test_packages_that_reach_into_each_other(tmp_path: Path, members: list[Member], message: str) -> None:
    debs = {**tiny_base(), "zz": deb("zz", members)}
    if not message:
        assert made(tmp_path, debs)
        return
    with pytest.raises(ArtifactError) as caught:
        made(tmp_path, debs)
    assert caught.value.message == message


def test_a_path_below_another_packages_link(tmp_path: Path) -> None:
    """Without its folders in the archive, so that only the place gives it away."""
    from tests.debs import ar, tar

    control = tar(file("control", "Package: zz\nVersion: 1.0\nArchitecture: amd64\n"))
    sneaky = ar(
        ("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar", tar(file("usr/lib/libthing.so.1/x")))
    )
    with pytest.raises(ArtifactError) as caught:
        made(tmp_path, {**tiny_base(), "zz": sneaky})
    assert (
        caught.value.message == "usr/lib/libthing.so.1/x (zz) lies below usr/lib/libthing.so.1, a symlink of libthing1"
    )


def test_our_settings_never_replace_a_packages_own_configuration(tmp_path: Path) -> None:
    owner = deb("zz", [file("etc/pip.conf", "mine")], control={"conffiles": "/etc/pip.conf\n"})
    with pytest.raises(ArtifactError, match=r"tiny: etc/pip\.conf is a package's own configuration file"):
        made(tmp_path, {**tiny_base(), "zz": owner})


def test_a_package_that_is_not_what_the_lock_says(tmp_path: Path) -> None:
    debs = tiny_base()
    paths = write_all(tmp_path, debs)
    lock = lock_of(debs)
    other = replace(lock, packages=(replace(lock.packages[0], version="2.0"), *lock.packages[1:]))
    with pytest.raises(ArtifactError, match=r"is apt 1\.0 amd64, the lock says apt 2\.0"):
        list(base_entries(other, lambda p: paths[p.digest]))
    swapped = replace(lock, packages=(replace(lock.packages[0], digest=package(b"", "a").digest), *lock.packages[1:]))
    with pytest.raises(ArtifactError, match="sha256 is"):
        list(base_entries(swapped, lambda p: tmp_path / f"{p.name}.deb"))


@pytest.mark.parametrize("name", ["base-passwd", "libpam-runtime", "apt", "python3.13"])
def test_a_base_without_something_essential_says_what(tmp_path: Path, name: str) -> None:
    debs = {n: d for n, d in tiny_base().items() if n != name}
    with pytest.raises(ArtifactError, match=r"packages of this base|exactly one Python"):
        made(tmp_path, debs)


def test_what_is_left_out() -> None:
    for path in ("usr/share/doc/a/NEWS", "usr/share/man/man1/a.1.gz", "usr/share/locale/de/a.mo", "usr/share/info/dir"):
        assert left_out(path)
    for path in (
        "usr/share/doc",
        "usr/share/doc/a/copyright",
        "usr/share/locale/locale.alias",
        "usr/share/zoneinfo/UTC",
    ):
        assert not left_out(path)


def test_one_python() -> None:
    assert python_version(["python3", "python3.13", "python3.13-minimal"]) == "3.13"
    with pytest.raises(ArtifactError, match=r"exactly one Python, its packages have 3\.12, 3\.13"):
        python_version(["python3.12", "python3.13"])


def test_parents_are_added_once_and_only_where_unknown() -> None:
    tree = {"a/b/c": file_entry("a/b/c", b"")}
    assert sorted(with_parents(tree)) == ["a", "a/b", "a/b/c"]
    assert sorted(with_parents(tree, known={"a"})) == ["a/b", "a/b/c"]


def test_nothing_of_the_packages_is_left_in_the_scratch_folder(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    paths = write_all(tmp_path, tiny_base())
    entries = base_entries(lock_of(tiny_base()), lambda p: paths[p.digest], scratch=scratch)
    next(entries)
    entries.close()  # type: ignore[attr-defined]
    assert list(scratch.iterdir()) == []


def test_links_of_packages_are_kept_as_they_are(tmp_path: Path) -> None:
    tree = made(
        tmp_path, {**tiny_base(), "zz": deb("zz", [link("usr/lib/zz", "../bin/bash"), link("etc/zz", "/bin/bash")])}
    )
    assert tree["usr/lib/zz"][0].target == "../bin/bash"
    assert tree["etc/zz"][0].target == "/bin/bash"
