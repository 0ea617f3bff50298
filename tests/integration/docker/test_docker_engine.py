"""The tests' own Docker Engine: that it starts, is shared, and goes without a trace, however its users end."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Unavailable, daemon, rootfs

pytestmark = pytest.mark.docker
NAME = f"t{os.getpid()}"
HOLD = "import sys, time; from tests.support.engine import daemon\n"
HOLD += "with daemon.leased(sys.argv[1], network=False, grace=1): print('up', flush=True); time.sleep(600)"


@pytest.fixture
def name() -> Iterator[str]:
    try:
        rootfs.refuse_where_impossible()
        rootfs.prepare()
    except Unavailable as reason:
        pytest.skip(f"NOT RUN: {reason}")
    yield NAME
    daemon.stop(NAME)
    shutil.rmtree(daemon.state_folder(NAME), ignore_errors=True)


def holder(name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def gone(name: str, within: float = 30) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not processes(name) and not (rootfs.cache() / f"data-{name}").exists():
            return True
        time.sleep(0.2)
    return False


def processes(name: str) -> list[str]:
    """Command lines of everything that belongs to the engine, by its name in their arguments or control group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_text().replace("\0", " ")
            if f"buildctl-tests-{name}" in line or f"--name {name} " in line:
                found.append(line)
        except OSError:
            continue
    return found


def test_two_users_share_one_engine_and_it_outlives_the_first(name: str) -> None:
    links = sorted(path.name for path in Path("/sys/class/net").iterdir())
    first = holder(name)
    with daemon.leased(name, network=False, grace=1) as engine:
        supervisor = (daemon.state_folder(name) / "pid").read_text()
        first.kill()
        first.wait()
        time.sleep(3)
        assert engine.client().ping()
        assert (daemon.state_folder(name) / "pid").read_text() == supervisor
        assert int(engine.client().version()["Version"].split(".")[0]) >= 28
        assert sorted(path.name for path in Path("/sys/class/net").iterdir()) == links
    assert gone(name)


def test_a_killed_user_leaves_nothing(name: str) -> None:
    process = holder(name)
    assert processes(name)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(name), processes(name)
    assert not (daemon.state_folder(name) / "docker.sock").exists()


def test_a_killed_supervisor_takes_everything_with_it_and_the_next_one_starts_afresh(name: str) -> None:
    process = holder(name)
    os.kill(int((daemon.state_folder(name) / "pid").read_text()), signal.SIGKILL)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while processes(name) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes(name) == []
    with daemon.leased(name, network=False, grace=1) as engine:
        assert engine.client().ping()


def test_a_second_engine_does_not_get_the_network_whose_end_would_remove_the_firsts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = f"{name}second"  # the one of the test before may still be ending
    monkeypatch.setattr(daemon, "NETWORK", tmp_path / "network.lock")
    with daemon.NETWORK.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="has this machine's network"):
            daemon.start(second)
    assert processes(second) == []


def test_the_client_that_comes_with_it_has_buildx(name: str) -> None:
    with daemon.leased(name, network=False, grace=1) as engine:
        done = subprocess.run(
            ["docker", "buildx", "ls"], env=dict(engine.env), capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert f"linux/{'amd64' if platform.machine() == 'x86_64' else 'arm64'}" in done.stdout


def test_why_there_is_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="needs root"):
        rootfs.refuse_where_impossible()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "fedora"})
    with pytest.raises(Unavailable, match="not fedora"):
        rootfs.refuse_where_impossible()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(Unavailable, match="needs Linux"):
        rootfs.refuse_where_impossible()
