from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import LockError
from buildctl.ground.net import pip_settings, redact
from buildctl.lock.index import several_indexes, uv_environment, with_credentials

A, B = "https://a.example.invalid/simple", "https://b.example.invalid/simple"


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine without configuration; the site's own files cannot be hidden, so tests override what they may say."""
    (tmp_path / "venv").mkdir()
    return {
        "HOME": str(tmp_path),
        "XDG_CONFIG_DIRS": str(tmp_path / "site"),
        "VIRTUAL_ENV": str(tmp_path / "venv"),
        "PATH": "/bin",
    }


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_later_files_of_pip_win_and_the_environment_over_all(environ: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "site" / "pip" / "pip.conf", f"[global]\nindex-url = {A}/site\n")
    write(tmp_path / ".pip" / "pip.conf", f"[global]\nindex-url = {A}/legacy\n")
    assert pip_settings(environ)["index-url"] == f"{A}/legacy"
    write(tmp_path / ".config" / "pip" / "pip.conf", f"[global]\nindex_url = {A}/user\n")
    assert pip_settings(environ)["index-url"] == f"{A}/user"
    write(tmp_path / "venv" / "pip.conf", f"[install]\nindex-url = {A}/venv\n[global]\nindex-url = {A}/less\n")
    assert pip_settings(environ)["index-url"] == f"{A}/venv"
    write(tmp_path / "own.conf", f"[global]\nindex-url = {A}/own\n")
    environ["PIP_CONFIG_FILE"] = str(tmp_path / "own.conf")
    assert pip_settings(environ)["index-url"] == f"{A}/own"
    environ["PIP_INDEX_URL"] = f"{A}/env"
    assert pip_settings(environ)["index-url"] == f"{A}/env"


def test_pip_configuration_can_be_switched_off(environ: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / ".config" / "pip" / "pip.conf", f"[global]\nindex-url = {A}\n")
    assert pip_settings(environ | {"PIP_CONFIG_FILE": "/dev/null"}) == {}


def test_percent_signs_in_a_password_are_kept(environ: dict[str, str], tmp_path: Path) -> None:
    url = "https://me:p%40ss@a.example.invalid/simple"
    write(tmp_path / ".config" / "pip" / "pip.conf", f"[global]\nindex-url = {url}\n")
    assert pip_settings(environ)["index-url"] == url


def test_a_broken_configuration_file_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / ".config" / "pip" / "pip.conf", "index-url = x\n")
    with pytest.raises(LockError, match=r"\.config/pip/pip\.conf"):
        pip_settings(environ)
    (tmp_path / ".config" / "pip" / "pip.conf").unlink()
    write(tmp_path / ".config" / "uv" / "uv.toml", "[[[")
    with pytest.raises(LockError, match=r"uv/uv\.toml"):
        uv_environment(environ | {"PIP_INDEX_URL": A})


def test_pips_index_becomes_uvs(environ: dict[str, str]) -> None:
    assert uv_environment(environ | {"PIP_INDEX_URL": A})["UV_DEFAULT_INDEX"] == A


@pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"])
def test_uvs_own_index_stays(environ: dict[str, str], variable: str) -> None:
    out = uv_environment(environ | {"PIP_INDEX_URL": A, variable: B})
    assert out[variable] == B
    assert A not in out.get("UV_DEFAULT_INDEX", "")


@pytest.mark.parametrize(
    "text", [f'index-url = "{B}"', f'[[index]]\nurl = "{B}"\ndefault = true', f'[pip]\nindex-url = "{B}"']
)
def test_an_index_in_uvs_file_stays(environ: dict[str, str], tmp_path: Path, text: str) -> None:
    write(tmp_path / ".config" / "uv" / "uv.toml", text)
    assert "UV_DEFAULT_INDEX" not in uv_environment(environ | {"PIP_INDEX_URL": A})


def test_other_settings_of_uv_do_not_hide_pips_index(environ: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / ".config" / "uv" / "uv.toml", 'link-mode = "copy"\n')
    assert uv_environment(environ | {"PIP_INDEX_URL": A})["UV_DEFAULT_INDEX"] == A


def test_what_would_choose_another_build_is_left_out(environ: dict[str, str]) -> None:
    extra = {
        "UV_TORCH_BACKEND": "cpu",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/links",
        "PIP_EXTRA_INDEX_URL": B,
        "PIP_FIND_LINKS": "/links",
    }
    out = uv_environment(environ | extra)
    assert not {"UV_TORCH_BACKEND", "UV_INDEX_STRATEGY", "UV_FIND_LINKS"} & set(out)
    assert not any("links" in value or B in value for key, value in out.items() if key.startswith("UV_"))


def test_a_machine_without_an_index_keeps_its_links(environ: dict[str, str]) -> None:
    out = uv_environment(environ | {"UV_NO_INDEX": "1", "UV_FIND_LINKS": "/links"})
    assert out["UV_FIND_LINKS"] == "/links"


def test_pips_certificate_is_used_unless_there_is_one(environ: dict[str, str]) -> None:
    assert uv_environment(environ | {"PIP_CERT": "/ca"})["SSL_CERT_FILE"] == "/ca"
    assert uv_environment(environ | {"PIP_CERT": "/ca", "SSL_CERT_FILE": "/own"})["SSL_CERT_FILE"] == "/own"


def test_several_indexes(environ: dict[str, str], tmp_path: Path) -> None:
    assert not several_indexes(environ | {"UV_DEFAULT_INDEX": A})
    assert several_indexes(environ | {"UV_INDEX": A})
    assert several_indexes(environ | {"UV_EXTRA_INDEX_URL": A})
    write(tmp_path / ".config" / "uv" / "uv.toml", f'[[index]]\nurl = "{B}"')
    assert several_indexes(environ)
    assert not several_indexes(environ | {"UV_NO_CONFIG": "1"})


FILE = "https://a.example.invalid/files/x.whl"
WITH = "https://me:pw@a.example.invalid/simple"


@pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "PIP_INDEX_URL"])
def test_credentials_of_an_index_go_to_files_on_its_host(environ: dict[str, str], variable: str) -> None:
    full = environ | {variable: WITH}
    assert with_credentials(FILE, None, full) == "https://me:pw@a.example.invalid/files/x.whl"


def test_credentials_never_go_elsewhere(environ: dict[str, str]) -> None:
    full = environ | {"UV_DEFAULT_INDEX": WITH}
    for url in (
        "https://b.example.invalid/x.whl",
        "http://a.example.invalid/x.whl",
        "https://a.example.invalid:8443/x.whl",
        "https://a.example.invalid.evil.invalid/x.whl",
        "https://you:own@a.example.invalid/x.whl",
    ):
        assert with_credentials(url, None, full) == url


def test_credentials_of_the_accelerators_and_of_named_indexes(environ: dict[str, str], tmp_path: Path) -> None:
    assert "me:pw@" in with_credentials(FILE, WITH, environ)
    write(tmp_path / ".config" / "uv" / "uv.toml", f'[[index]]\nname = "my-own"\nurl = "{A}"')
    full = environ | {"UV_INDEX_MY_OWN_USERNAME": "me", "UV_INDEX_MY_OWN_PASSWORD": "p@ss"}
    assert "://me:p%40ss@" in with_credentials(FILE, None, full)
    assert "://me:p%40ss@" in with_credentials(FILE, None, full | {"UV_NO_CONFIG": "1", "UV_INDEX": f"my-own={A}"})
    assert with_credentials(FILE, None, environ) == FILE


def test_redacted() -> None:
    assert redact("see https://me:pw@host/x and http://tok@h/y") == "see https://host/x and http://h/y"
