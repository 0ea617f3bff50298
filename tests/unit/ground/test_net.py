from __future__ import annotations

import errno
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import requests

from buildctl.ground.errors import LockError
from buildctl.ground.net import brief, new_session, number, pip_settings, redact, retry_after, unreached


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("7", 7, 7), (timedelta(seconds=60), 50, 61), (timedelta(seconds=-60), 0, 0)],
    ids=str,
)
def test_retry_after(value: str | timedelta, low: float, high: float) -> None:
    text = value if isinstance(value, str) else format_datetime(datetime.now(UTC) + value, usegmt=True)
    found = retry_after(text)
    assert found is not None
    assert low <= found <= high


@pytest.mark.parametrize(
    "value", [None, "", "soon", "-1", "1.5", "Mon, 99 Jan", "9" * 5000, "\xb2", "Fri, 31 Dec 99999 23:59:59 GMT"]
)
def test_retry_after_that_says_nothing(value: str | None) -> None:
    assert retry_after(value) is None


def test_a_number_of_a_header() -> None:
    assert [number(text) for text in ("0", " 17 ", "9" * 18)] == [0, 17, 10**18 - 1]
    assert {number(text) for text in (None, "", "-5", "1.0", "\xb2", "9" * 19, "9" * 5000)} == {None}


def test_the_certificates_that_uv_and_pip_are_told_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    assert new_session().verify == "/ca.pem"
    monkeypatch.delenv("SSL_CERT_FILE")
    assert new_session().verify is True
    monkeypatch.setenv("PIP_CERT", "/pip.pem")
    assert new_session().verify == "/pip.pem"


def test_pip_settings_are_those_that_pip_would_take(tmp_path: Path) -> None:
    user, own = tmp_path / "pip" / "pip.conf", tmp_path / "own.conf"
    user.parent.mkdir()
    user.write_text("[global]\nindex-url = https://user.example/simple\ncert = /user.pem\n")
    own.write_text("[install]\nindex_url = https://own.example/%(x)s\n")
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "none")}
    environ["VIRTUAL_ENV"] = str(tmp_path / "none")
    assert pip_settings(environ) == {"index-url": "https://user.example/simple", "cert": "/user.pem"}
    environ["PIP_CONFIG_FILE"] = str(own)
    assert pip_settings(environ) == {"index-url": "https://own.example/%(x)s", "cert": "/user.pem"}
    environ["PIP_INDEX_URL"] = "https://environment.example"
    assert pip_settings(environ)["index-url"] == "https://environment.example"
    assert pip_settings({"PIP_CONFIG_FILE": "/dev/null"}) == {}


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("no section\n")
    with pytest.raises(LockError, match=r"pip's configuration .*/pip\.conf cannot be read"):
        pip_settings({"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "HOME": str(tmp_path)})


def test_no_password_of_a_url_is_shown() -> None:
    text = "https://me:secret@a.example/x and http://token@b.example failed"
    assert redact(text) == "https://a.example/x and http://b.example failed"
    assert "secret" not in brief(requests.ConnectionError(f"{text}\nmore"))


def test_a_cause_is_one_line() -> None:
    assert brief(requests.ConnectionError("one\ntwo")) == "one"
    assert brief(requests.ConnectionError()) == "ConnectionError"
    assert brief(requests.exceptions.ReadTimeout("x")) == "timed out waiting for data"
    assert len(brief(requests.ConnectionError("x" * 999))) == 300


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.gaierror(-2, "Name or service not known"), True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), True),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), True),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), False),
        (TimeoutError("timed out"), True),
        (requests.exceptions.ReadTimeout("x"), True),
        (requests.exceptions.ConnectTimeout("x"), True),
        (ValueError("x"), False),
    ],
)
def test_whether_anybody_is_there(error: Exception, expected: bool) -> None:
    outer = requests.ConnectionError("wrapped")
    outer.__cause__ = error
    assert unreached(outer) is expected
