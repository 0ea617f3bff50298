from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.console.progress import Silent
from buildctl.ground.errors import FetchError, LockError
from buildctl.lock import fetch
from buildctl.lock.fetch import fetch_wheels
from buildctl.lock.uv import NoSolutionError
from buildctl.lock.wheels import LockedWheel, WheelLock, inputs_of
from buildctl.matrix.read import load_matrix
from buildctl.oci.digest import Digest

CELL = load_matrix(Path(__file__).parents[3] / "matrix.yaml").select(["cpu-2.6"])[0]
DATA = bytes(range(256)) * 10
WHEEL = LockedWheel(
    name="torch", version="2.6.0", filename="torch-2.6.0-py3-none-any.whl", size=len(DATA), digest=Digest.of(DATA)
)
LOCK = WheelLock(name="cpu-2.6", platform="linux/arm64", python="3.13", inputs=inputs_of(CELL), wheels=(WHEEL,))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a unit test opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_with_everything_in_the_store_the_index_is_not_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.artifact_path(WHEEL.digest).write_bytes(DATA)
    monkeypatch.setattr(fetch, "locate", lambda *args, **kwargs: pytest.fail("uv was started"))
    fetch_wheels([(CELL, LOCK)] * 3, store=store, progress=Silent())
    assert not (store.root / "partial").exists()


def test_only_what_is_missing_is_asked_for_once(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.whl").write_bytes(DATA)
    other = replace(WHEEL, name="numpy", digest=Digest.of(b"n"))
    store.artifact_path(other.digest).write_bytes(b"n")
    asked: list[list[str]] = []

    def locate(pins: list[str], **kwargs: object) -> dict[Digest, str]:
        asked.append(pins)
        return {WHEEL.digest: (tmp_path / "torch.whl").as_uri()}

    monkeypatch.setattr(fetch, "locate", locate)
    fetch_wheels([(CELL, replace(LOCK, wheels=(other, WHEEL)))] * 2, store=store, progress=Silent())
    assert asked == [["torch==2.6.0"]]
    assert store.artifact(WHEEL.digest)


@pytest.mark.parametrize(("error", "vanished"), [(NoSolutionError("no torch"), True), (LockError("no network"), False)])
def test_what_uv_says_becomes_a_fetch_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: LockError, vanished: bool
) -> None:
    def locate(*args: object, **kwargs: object) -> dict[Digest, str]:
        raise error

    monkeypatch.setattr(fetch, "locate", locate)
    with pytest.raises(FetchError, match=r"cpu-2\.6-arm64: the package index") as caught:
        fetch_wheels([(CELL, LOCK)], store=store, progress=Silent())
    assert caught.value.vanished == vanished
