from __future__ import annotations

import os
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from buildctl.artifacts import partial
from buildctl.artifacts.partial import Partial
from buildctl.artifacts.store import Store
from buildctl.console.progress import Silent
from buildctl.ground.errors import FetchError, LockError
from buildctl.ground.net import new_session, retry_after
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


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


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


# A partial file.


@pytest.fixture
def growing(store: Store, monkeypatch: pytest.MonkeyPatch) -> Partial:
    monkeypatch.setattr(partial, "PART", 1000)
    partial.prepare(store, len(DATA))
    return Partial(store, WHEEL.digest, len(DATA))


def test_parts_in_any_order_are_hashed_in_order(growing: Partial, store: Store) -> None:
    assert growing.open()
    for part in (2, 0, 1):
        start, end = growing.span(part)
        growing.write(DATA[start:end], start)
        growing.finish(part)
    assert growing.settle() == WHEEL.digest
    path = store.artifact(WHEEL.digest)
    assert path is not None
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(partial.folder(store).iterdir()) == []


def test_wrong_bytes_never_get_into_the_store(growing: Partial, store: Store) -> None:
    assert growing.open()
    growing.write(bytes(len(DATA)), 0)
    for part in range(growing.count):
        growing.finish(part)
    assert growing.settle() == Digest.of(bytes(len(DATA)))
    assert store.artifact(WHEEL.digest) is None
    growing.close()


def test_a_second_writer_is_kept_out_until_the_first_is_done(growing: Partial, store: Store) -> None:
    second = Partial(store, WHEEL.digest, len(DATA))
    assert growing.open()
    assert not second.open()
    growing.close()
    assert second.open()
    second.close()


def test_what_was_received_is_taken_up(growing: Partial, store: Store) -> None:
    assert growing.open()
    growing.write(DATA[1000:2000], 1000)
    growing.finish(1)
    growing.close()
    again = Partial(store, WHEEL.digest, len(DATA))
    assert again.open()
    assert again.missing == [0, 2]
    assert again.received == 1000
    again.close()


def test_partials_of_a_month_ago_are_removed(growing: Partial, store: Store) -> None:
    assert growing.open()
    growing.close()
    for path in partial.folder(store).iterdir():
        os.utime(path, (1, 1))
    partial.prepare(store, 0)
    assert list(partial.folder(store).iterdir()) == []


# One transfer.


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("7", 7, 7), (timedelta(seconds=60), 50, 61), (timedelta(seconds=-60), 0, 0)],
    ids=str,
)
def testretry_after(value: str | timedelta, low: float, high: float) -> None:
    text = value if isinstance(value, str) else format_datetime(datetime.now(UTC) + value, usegmt=True)
    found = retry_after(text)
    assert found is not None
    assert low <= found <= high


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5", "Mon, 99 Jan"])
def testretry_after_that_says_nothing(value: str | None) -> None:
    assert retry_after(value) is None


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
