"""The tunnel with a program in place of ssh; with a real server: tests/integration/docker/test_docker_context.py."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildctl.docker.daemon import connect
from buildctl.docker.ssh import Tunnel, without_user
from buildctl.ground.errors import RuntimeUnavailableError


@contextmanager
def tunnel(
    folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, url: str = "ssh://me@box:2222"
) -> Iterator[Tunnel]:
    ssh = folder / "ssh"
    ssh.write_text(f'#!/bin/sh\necho $$ "$@" >>{folder}/called\n{script}\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    found = Tunnel(url)
    try:
        yield found
    finally:
        found.close()


def talk(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_each_connection_is_a_dial_on_the_other_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tunnel(tmp_path, monkeypatch, "exec cat") as found:
        data = os.urandom(1 << 20)
        assert talk(found.path, data[:100]) == data[:100]
        assert talk(found.path, b"") == b""
        assert found.path.parent.stat().st_mode & 0o777 == 0o700
    calls = (tmp_path / "called").read_text().splitlines()
    assert len(calls) == 2
    assert all(call.endswith("-l me -p 2222 -- box docker system dial-stdio") for call in calls)
    assert all("BatchMode=yes" in call and "ConnectTimeout=8" in call for call in calls)
    assert not found.path.parent.exists()


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("me@10.0.0.1: Permission denied (publickey).", "ssh-add"),
        ("Host key verification failed.", "connect once by hand"),
        ("bash: line 1: docker: command not found", "install Docker there"),
        ("ssh: Could not resolve hostname box: Name or service not known", "HostName"),
        ("permission denied while trying to connect to the Docker daemon socket", "usermod -aG docker"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "systemctl start docker"),
        ("ssh: connect to host box port 22: Connection refused", "is it up"),
    ],
)
def test_what_ssh_says_becomes_the_reason_and_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, hint: str
) -> None:
    (tmp_path / "said").write_text(f"{said}\n")
    says = f"cat {tmp_path}/said >&2; exit 255"
    with tunnel(tmp_path, monkeypatch, says), pytest.raises(RuntimeUnavailableError) as caught:
        connect("ssh://me@box")
    assert said.removeprefix("me@") in caught.value.message
    assert "me@" not in caught.value.message + str(caught.value.hint)
    assert hint in str(caught.value.hint)


def test_a_host_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildctl.docker.daemon.CONNECT", 0.5)
    with tunnel(tmp_path, monkeypatch, "exec sleep 600"), pytest.raises(RuntimeUnavailableError, match="ssh://box"):
        connect("ssh://box")
    assert running(tmp_path) == []


def test_what_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildctl.docker.ssh.ENDING", 0.2)
    with tunnel(tmp_path, monkeypatch, "trap '' TERM; while :; do sleep 0.1; done") as found:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(found.path))
        deadline = time.monotonic() + 10
        while not (tmp_path / "called").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert running(tmp_path) != []
    client.close()
    assert running(tmp_path) == []


def running(folder: Path) -> list[int]:
    pids = [int(line.split()[0]) for line in (folder / "called").read_text().splitlines()]
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_no_port_comes_back_from_a_server_that_allows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tunnel(tmp_path, monkeypatch, "echo refused >&2; exit 255") as found, found.brought_back(1234) as port:
        assert port is None
    assert "-O cancel" not in (tmp_path / "called").read_text()


def test_a_port_that_came_back_is_given_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tunnel(tmp_path, monkeypatch, "echo 40001") as found, found.brought_back(1234) as port:
        assert port == 40001
    forward, cancel = (tmp_path / "called").read_text().splitlines()
    assert "-O forward -R 127.0.0.1:0:127.0.0.1:1234" in forward
    assert "-O cancel -R 127.0.0.1:40001:127.0.0.1:1234" in cancel


def test_without_the_program_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildctl.docker.ssh.which", lambda program: None)
    with pytest.raises(RuntimeUnavailableError, match="ssh://box needs the program ssh") as caught:
        connect("ssh://me@box")
    assert "openssh-client" in str(caught.value.hint)


@pytest.mark.parametrize("url", ["ssh://", "ssh://-oProxyCommand=x", "ssh://box:no", "ssh://-x@box", "ssh://box/path"])
def test_a_malformed_address_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildctl.docker.ssh.which", lambda program: None)  # whatever else is missing
    with pytest.raises(RuntimeUnavailableError, match="is not an ssh address"):
        Tunnel(url)


@pytest.mark.parametrize(
    ("url", "shown"), [("ssh://me@box:22", "ssh://box:22"), ("tcp://box:1", "tcp://box:1"), ("gpu-box", "gpu-box")]
)
def test_no_user_is_shown(url: str, shown: str) -> None:
    assert without_user(url) == shown
