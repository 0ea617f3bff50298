from __future__ import annotations

import hashlib

from buildctl.artifacts.debian.base import merged
from tests.support.debs import Tree, facts, text, tiny_base


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


ISSUE = md5(b"Debian\n")


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
