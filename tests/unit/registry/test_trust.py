from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import urllib3

from buildctl.registry.problems import RefusedError
from buildctl.registry.trust import Distrust, distrust, folders, open_session


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), Distrust.THEIRS),
        (alert("WRONG_VERSION_NUMBER"), Distrust.NO_TLS),
        (alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), Distrust.OURS),
        (alert("SSLV3_ALERT_BAD_CERTIFICATE"), Distrust.OURS),
        (alert("UNEXPECTED_EOF_WHILE_READING"), None),  # a connection that was cut
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), None),
        (ConnectionResetError(), None),
    ],
)
@pytest.mark.parametrize("how", ["itself", "argument", "cause", "context"])
def test_a_broken_connection_is_told_from_a_certificate(error: Exception, expected: Distrust | None, how: str) -> None:
    outer: Exception = OSError("wrapped")
    match how:
        case "itself":
            outer = error
        case "argument":
            outer = urllib3.exceptions.SSLError(error)
        case "cause":
            outer.__cause__ = error
        case "context":
            outer.__context__ = error
    assert distrust(outer) is expected


def test_the_folders_of_docker_and_podman() -> None:
    own = [Path("/home/me/.config/docker/certs.d"), Path("/home/me/.config/containers/certs.d")]
    everybodys = [Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d")]
    assert list(folders({"HOME": "/home/me"})) == own + everybodys
    assert folders({"HOME": "/home/me", "XDG_CONFIG_HOME": "/x"})[0] == Path("/x/docker/certs.d")


def test_a_bundle_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = str(tmp_path / "none.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", missing)
    with pytest.raises(RefusedError, match="CA bundle not found"):
        open_session("registry.example", {"REQUESTS_CA_BUNDLE": missing, "HOME": str(tmp_path)})


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ".config/docker/certs.d/registry.example:5000"
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_text("no certificate")
    environ = {"HOME": str(tmp_path)}
    with pytest.raises(RefusedError, match=r"ca\.crt is not a usable certificate"):
        open_session("registry.example:5000", environ)
    open_session("registry.example", environ)  # another registry


def test_no_request_goes_to_a_private_address_that_a_registry_names() -> None:
    session = open_session("93.184.216.34:5000", {})
    with pytest.raises(RefusedError, match=r"93\.184\.216\.34:5000 points to 169\.254\.169\.254, a private address"):
        session.get("http://169.254.169.254/latest/meta-data")
