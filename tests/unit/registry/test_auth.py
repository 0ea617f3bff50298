from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from buildctl.ground.net import retry_after
from buildctl.registry.auth import Challenge, Credentials, docker_credentials, parse_challenge

BEARER = 'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull,push"'


def test_a_bearer_challenge_is_read_with_commas_inside_quotes() -> None:
    parameters = {"realm": "https://auth.example/token", "service": "registry.example"}
    assert parse_challenge(BEARER) == Challenge(
        scheme="bearer", parameters={**parameters, "scope": "repository:a:pull,push"}
    )


@pytest.mark.parametrize("header", [f'Basic realm="x", {BEARER}', f'{BEARER}, Basic realm="x"'])
def test_bearer_is_answered_before_basic(header: str) -> None:
    found = parse_challenge(header)
    assert found is not None
    assert (found.scheme, found.parameters["service"]) == ("bearer", "registry.example")


@pytest.mark.parametrize("header", ["", "Negotiate", 'Digest realm="x", nonce="y"'])
def test_other_challenges_are_not_understood(header: str) -> None:
    assert parse_challenge(header) is None


def test_a_password_is_in_no_repr() -> None:
    assert "secret" not in repr(Credentials(username="me", password="secret", identity_token="secret"))


def test_docker_login_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    auth = base64.b64encode(b"me:sec:ret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"registry.example": {"auth": auth}}}))
    assert docker_credentials("registry.example") == Credentials(username="me", password="sec:ret")
    assert docker_credentials("other.example") is None


@pytest.mark.parametrize(
    "config",
    [
        {"credHelpers": {"registry.example": "no-such-helper"}},
        {"credsStore": "no-such-helper"},
        {"auths": {"registry.example": {"auth": "!!"}}},
        {"auths": {"registry.example": {"auth": 7}}},
        {"auths": {"registry.example": []}},
        {"auths": 7},
        [],
    ],
)
def test_a_missing_helper_or_a_damaged_entry_is_told_or_ignored_and_stops_nothing(
    config: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert docker_credentials("registry.example") is None
    said = capsys.readouterr().err
    if "no-such-helper" in str(config):
        assert said.startswith("cannot read the credentials for registry.example, going on without them: ")
        assert "no-such-helper" in said


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("7", 7.0), ("soon", None), ("-1", None)])
def test_retry_after_in_seconds(value: str | None, expected: float | None) -> None:
    assert retry_after(value) == expected


def test_retry_after_as_a_date_of_the_past_is_now() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
