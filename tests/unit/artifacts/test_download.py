"""Files of this machine through the whole of a download. Servers: tests/integration/lock/test_fetch_faults.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.artifacts import partial
from buildctl.artifacts.download import Download, download
from buildctl.artifacts.store import Store
from buildctl.console.progress import Silent
from buildctl.ground.errors import ArtifactError, EngineError, FetchError
from buildctl.ground.net import Patience
from buildctl.oci.digest import Digest

DATA = bytes(range(250)) * 20
QUICK = Patience(attempts=2, backoff=0.001)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(partial, "PART", 1000)
    return Store(tmp_path / "store")


def item(*urls: str, data: bytes = DATA, label: str = "torch") -> Download:
    return Download(label=label, urls=urls, size=len(data), digest=Digest.of(data))


def put(folder: Path, data: bytes = DATA, name: str = "file") -> str:
    (folder / name).write_bytes(data)
    return (folder / name).as_uri()


def test_files_of_many_parts_arrive_whole(store: Store, tmp_path: Path) -> None:
    others = {n: bytes([n]) * (n * 700) for n in range(5)}  # the first is empty
    items = [item(put(tmp_path, data, str(n)), data=data, label=str(n)) for n, data in others.items()]
    download([item(put(tmp_path)), *items, *items], store=store, progress=Silent(), patience=QUICK)
    for data in (DATA, *others.values()):
        path = store.artifact(Digest.of(data))
        assert path is not None
        assert path.read_bytes() == data
    assert list(partial.folder(store).iterdir()) == []


def test_what_is_there_is_not_asked_for(store: Store) -> None:
    store.artifact_path(Digest.of(DATA)).write_bytes(DATA)
    download([item()], store=store, progress=Silent())  # no source at all
    assert not partial.folder(store).exists()


def test_a_source_that_lacks_it_is_followed_by_the_next(store: Store, tmp_path: Path) -> None:
    download([item("file:///nowhere/torch", put(tmp_path))], store=store, progress=Silent(), patience=QUICK)
    assert store.artifact(Digest.of(DATA)) is not None


def test_what_no_source_has_any_more_has_vanished(store: Store) -> None:
    with pytest.raises(FetchError, match="cannot fetch torch: file:///nowhere: no such file; file:///x:") as caught:
        download([item("file:///nowhere", "file:///x")], store=store, progress=Silent(), patience=QUICK)
    assert caught.value.vanished
    assert caught.value.hint == "no source has it any longer: lock again"


def test_other_bytes_are_tried_once_more_elsewhere_and_then_refused(store: Store, tmp_path: Path) -> None:
    wrong = put(tmp_path, bytes(len(DATA)), "wrong")
    download([item(wrong, put(tmp_path))], store=store, progress=Silent(), patience=QUICK)
    assert store.artifact(Digest.of(DATA)) is not None


def test_other_bytes_everywhere_never_get_into_the_store(store: Store, tmp_path: Path) -> None:
    wrong = put(tmp_path, bytes(len(DATA)), "wrong")
    with pytest.raises(ArtifactError, match=r"a different file than the lock pins: SHA-256 [0-9a-f]{64}, the lock has"):
        download([item(wrong)], store=store, progress=Silent(), patience=QUICK)
    assert store.artifact(Digest.of(DATA)) is None
    assert list(partial.folder(store).iterdir()) == []


def test_another_size_is_another_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="size 4999, the lock has 5000"):
        download([item(put(tmp_path, DATA[:-1]))], store=store, progress=Silent(), patience=QUICK)


def test_a_disk_without_room_is_noticed_first(store: Store) -> None:
    huge = Download(label="huge", urls=("file:///nowhere",), size=1 << 60, digest=Digest("a" * 64))
    with pytest.raises(EngineError, match="not enough space for the downloads"):
        download([huge], store=store, progress=Silent())
