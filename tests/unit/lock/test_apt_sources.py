from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import LockError, SettingsError
from buildctl.lock.apt_sources import apt_mirrors, read_sources

DEBIAN = 'ID=debian\nVERSION_CODENAME="bookworm"\n'
HOST = "http://mirror.example.invalid"


def root(tmp_path: Path, files: dict[str, str], release: str = DEBIAN) -> Path:
    for name, text in {"etc/os-release": release, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_deb822_sources(tmp_path: Path) -> None:
    text = f"""\
Types: deb
# a comment
URIs: {HOST}/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: {HOST}/debian-security
Suites: bookworm-security
Components: main
"""
    files = {"etc/apt/sources.list.d/debian.sources": text, "etc/apt/sources.list.d/old.sources.disabled": "nonsense"}
    assert apt_mirrors(root=root(tmp_path, files)) == {
        "debian": (f"{HOST}/debian",),
        "debian-security": (f"{HOST}/debian-security",),
    }


def test_one_line_sources(tmp_path: Path) -> None:
    text = f"""\
# deb http://commented.example.invalid/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {HOST}/debian bookworm main contrib # why
deb-src http://source.example.invalid/debian bookworm main
deb http://security.example.invalid/debian-security bookworm-security main
deb cdrom:[Debian]/ bookworm main
"""
    assert apt_mirrors(root=root(tmp_path, {"etc/apt/sources.list": text})) == {
        "debian": (f"{HOST}/debian",),
        "debian-security": ("http://security.example.invalid/debian-security", f"{HOST}/debian-security"),
    }


def test_disabled_stanzas_and_files_that_apt_would_refuse(tmp_path: Path) -> None:
    stanza = "Types: deb\nURIs: http://off.example.invalid/debian\nSuites: bookworm\nComponents: main\n"
    files = {
        "etc/apt/sources.list.d/off.sources": f"Enabled: no\n{stanza}",
        "etc/apt/sources.list.d/bad.sources": f"nonsense\n{stanza}",
        "etc/apt/sources.list.d/on.list": f"deb {HOST}/debian bookworm main\n",
    }
    assert [s.uri for s in read_sources(root(tmp_path, files))] == [f"{HOST}/debian"]


def test_third_parties_with_debians_suite_names(tmp_path: Path) -> None:
    text = f"""\
deb [signed-by=/usr/share/keyrings/vendor.gpg] http://vendor.example.invalid/debian bookworm main
deb http://tools.example.invalid/linux/debian bookworm stable
deb http://node.example.invalid/node_20.x nodistro main
deb {HOST}/debian bookworm main
"""
    assert apt_mirrors(root=root(tmp_path, {"etc/apt/sources.list": text}))["debian"] == (f"{HOST}/debian",)


def test_ubuntu_knows_debian_through_mmdebstrap(tmp_path: Path) -> None:
    files = {
        "etc/apt/sources.list": "deb http://ubuntu.example.invalid/ubuntu noble main\n",
        "usr/bin/mmdebstrap": f"""\
            # http://salsa.example.invalid/debian/schroot/-/merge_requests/2
            my $mirror    = '{HOST}/debian';
            my $secmirror = 'http://security.example.invalid/debian-security';
""",
    }
    ubuntu = "ID=ubuntu\nVERSION_CODENAME=noble\n"
    assert apt_mirrors(root=root(tmp_path, files, ubuntu)) == {
        "debian": (f"{HOST}/debian",),
        "debian-security": ("http://security.example.invalid/debian-security", f"{HOST}/debian-security"),
    }


def test_the_mirror_setting_wins(tmp_path: Path) -> None:
    files = {"etc/apt/sources.list": f"deb {HOST}/debian bookworm main\n"}
    assert apt_mirrors("https://own.example.invalid/pub/debian/", root=root(tmp_path, files)) == {
        "debian": ("https://own.example.invalid/pub/debian",),
        "debian-security": ("https://own.example.invalid/pub/debian-security",),
    }
    with pytest.raises(LockError, match="cannot derive the mirror's security archive"):
        apt_mirrors("https://own.example.invalid/pub", root=tmp_path)


def test_the_variable_wins_over_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hosted runner is Ubuntu, and matrix.yaml names no host."""
    monkeypatch.setenv("BUILDCTL_DEBIAN_MIRROR", "https://mirror.example.invalid/debian/")
    for setting in (None, "http://other.example.invalid/debian"):
        found = apt_mirrors(setting, root=tmp_path)
        assert found["debian"] == ("https://mirror.example.invalid/debian",)
        assert found["debian-security"] == ("https://mirror.example.invalid/debian-security",)


@pytest.mark.parametrize("value", ["mirror.example.invalid", "ftp://x/debian", "http://", "http://x/a b"])
def test_a_variable_that_is_no_url_is_refused(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDCTL_DEBIAN_MIRROR", value)
    with pytest.raises(SettingsError, match=r"BUILDCTL_DEBIAN_MIRROR=.* is not a URL"):
        apt_mirrors(root=tmp_path)


def test_where_nothing_knows_debian(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="no Debian mirror is configured on this machine") as caught:
        apt_mirrors(root=root(tmp_path, {}, "ID=fedora\n"))
    assert "mirror: {debian: URL}" in str(caught.value.hint)
