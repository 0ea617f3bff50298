from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from buildctl.docker.context import SOCKET, Endpoint, endpoint
from buildctl.ground.errors import RuntimeUnavailableError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder of `docker`, and none of this machine's own."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def add(config: Path, name: str, host: str, *, certificates: tuple[str, ...] = (), skip: bool = False) -> Path:
    """As `docker context create` writes it."""
    identity = sha256(name.encode()).hexdigest()
    file = config / "contexts" / "meta" / identity / "meta.json"
    file.parent.mkdir(parents=True)
    endpoints: dict[str, Any] = {"docker": {"Host": host, "SkipTLSVerify": skip}}
    file.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}))
    for certificate in certificates:
        path = config / "contexts" / "tls" / identity / "docker" / f"{certificate}.pem"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return file


def test_without_anything_it_is_the_usual_socket(config: Path) -> None:
    assert endpoint(None) == endpoint("default") == Endpoint(host=SOCKET)


def test_a_context_is_found_by_name_without_a_config_file(config: Path) -> None:
    add(config, "gpu-box", "ssh://me@gpu-box")
    assert not (config / "config.json").exists()
    assert endpoint("gpu-box") == Endpoint(host="ssh://me@gpu-box")


def test_what_wins_over_what(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("current", "variable", "named"):
        add(config, name, f"ssh://{name}")
    (config / "config.json").write_text('{"currentContext": "current"}')
    assert endpoint(None).host == "ssh://current"
    monkeypatch.setenv("DOCKER_CONTEXT", "variable")
    assert endpoint(None).host == "ssh://variable"
    monkeypatch.setenv("DOCKER_HOST", "tcp://host.invalid:2375")
    assert endpoint(None).host == endpoint("default").host == "tcp://host.invalid:2375"
    assert endpoint("named").host == "ssh://named"
    assert endpoint("ssh://url.invalid").host == "ssh://url.invalid"


def test_certificates_of_a_context(config: Path) -> None:
    add(config, "both", "tcp://a.invalid:2376", certificates=("ca", "cert", "key"))
    add(config, "ca", "tcp://b.invalid:2376", certificates=("ca",), skip=True)
    found = endpoint("both")
    assert (found.tls, found.verify) == (True, True)
    assert {p.name for p in (found.ca, found.certificate, found.key) if p} == {"ca.pem", "cert.pem", "key.pem"}
    found = endpoint("ca")
    assert (found.tls, found.verify, found.certificate, found.key) == (True, False, None, None)
    assert found.ca is not None


def test_certificates_of_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config / "ca.pem").write_text("x")
    monkeypatch.setenv("DOCKER_HOST", "tcp://a.invalid:2376")
    assert endpoint(None).tls is False
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    assert endpoint(None) == Endpoint(host="tcp://a.invalid:2376", tls=True, ca=config / "ca.pem")
    monkeypatch.setenv("DOCKER_HOST", "ssh://a.invalid")
    assert endpoint(None).tls is False


def test_an_unknown_name_shows_the_known_ones(config: Path) -> None:
    add(config, "gpu-box", "ssh://gpu-box")
    with pytest.raises(RuntimeUnavailableError, match=r"named gpu-bx \(did you mean 'gpu-box'\?\)") as caught:
        endpoint("gpu-bx")
    assert caught.value.hint == "known contexts: gpu-box"


def test_where_there_is_none_the_way_out_is_named(config: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="no docker context named gpu-box") as caught:
        endpoint("gpu-box")
    assert "docker context create" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Endpoints": {"docker": []}}', '{"Endpoints": "x"}', "\xff"])
def test_a_damaged_context_is_no_traceback(config: Path, text: str) -> None:
    add(config, "gpu-box", "ssh://gpu-box").write_text(text, encoding="latin-1")
    with pytest.raises(RuntimeUnavailableError, match="cannot read docker context gpu-box"):
        endpoint("gpu-box")


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_configuration_has_no_current_context(config: Path, text: str) -> None:
    (config / "config.json").write_text(text)
    assert endpoint(None).host == SOCKET
