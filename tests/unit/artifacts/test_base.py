from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.debian.base import base_entries, check_base, left_out, python_version, with_parents
from buildctl.ground.errors import ArtifactError
from buildctl.oci.entry import Kind, file_entry
from tests.support.debs import (
    Compiled,
    Tree,
    ar,
    deb,
    facts,
    file,
    folder,
    link,
    lock_of,
    made,
    package,
    tar,
    text,
    tiny_base,
    write_all,
)
from tests.support.images import Member


def test_the_merge_of_usr(tree: Tree) -> None:
    assert tree["bin"][0].target == "usr/bin"
    assert not [p for p in tree if p.startswith(("bin/", "lib/", "sbin/"))]
    assert tree["var/run"][0].target == "/run"  # base-files ships a folder, its script makes a link of it


def test_apt_in_the_image_uses_what_debians_own_example_names(tree: Tree) -> None:
    sources = text(tree, "etc/apt/sources.list.d/debian.sources")
    assert sources.count("Components: main\n") == 2
    assert "URIs: http://mirror.example.invalid/debian-security\nSuites: trixie-security\n" in sources
    assert "#" not in sources


def test_a_release_whose_installer_merges_usr(tmp_path: Path) -> None:
    """Up to Debian 12 base-files has folders where Debian 13 has links."""
    files = [file(f"usr/share/base-files/{n}", n) for n in ("dot.profile", "dot.bashrc", "profile", "motd")]
    folders = [folder(n) for n in ("bin", "lib", "sbin", "usr/bin", "usr/lib", "usr/sbin", "var/run", "etc")]
    tool = deb("tool", [file("bin/tool", "x", 0o755), file("lib64/ld.so", "x")])
    tree = made(tmp_path, {**tiny_base(), "base-files": deb("base-files", [*folders, *files]), "tool": tool})
    links = {path: tree[path][0].target for path in ("bin", "lib", "lib64", "sbin")}
    assert links == {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
    assert "usr/bin/tool" in tree
    assert "lib64" not in made(tmp_path, tiny_base())


def test_a_base_that_cannot_be_assembled_is_found_out_without_making_it(tmp_path: Path) -> None:
    whole = tiny_base()
    check(tmp_path, whole)
    with pytest.raises(ArtifactError, match=r"no usr/share/doc/apt/examples/debian\.sources in the packages"):
        check(tmp_path, {name: data for name, data in whole.items() if name != "apt"})
    with pytest.raises(ArtifactError, match=r"usr/bin/bash is in two packages"):
        check(tmp_path, {**whole, "zz": deb("zz", [file("bin/bash", "mine")])})


def check(tmp_path: Path, packages: dict[str, bytes]) -> None:
    paths = write_all(tmp_path, packages)
    check_base(lock_of(packages), lambda p: paths[p.digest], scratch=tmp_path)


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
    control = tar(file("control", "Package: zz\nVersion: 1.0\nArchitecture: amd64\n"))
    sneaky = ar(
        ("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar", tar(file("usr/lib/libthing.so.1/x")))
    )
    with pytest.raises(ArtifactError) as caught:
        made(tmp_path, {**tiny_base(), "zz": sneaky})
    assert caught.value.message == "usr/lib/libthing.so.1/x (zz) is below usr/lib/libthing.so.1, a symlink of libthing1"


def test_our_settings_never_replace_a_packages_own_configuration(tmp_path: Path) -> None:
    owner = deb("zz", [file("etc/pip.conf", "mine")], control={"conffiles": "/etc/pip.conf\n"})
    with pytest.raises(ArtifactError, match=r"tiny: etc/pip\.conf is a package's own configuration file"):
        made(tmp_path, {**tiny_base(), "zz": owner})


def test_a_package_that_is_not_what_the_lock_says(tmp_path: Path) -> None:
    debs = tiny_base()
    paths = write_all(tmp_path, debs)
    lock = lock_of(debs)
    other = replace(lock, packages=(replace(lock.packages[0], version="2.0"), *lock.packages[1:]))
    with pytest.raises(ArtifactError, match=r"is apt 1\.0 amd64, not apt 2\.0 as locked"):
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
