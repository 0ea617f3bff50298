"""Files of this machine through the whole of a download. Servers: tests/integration/lock/test_fetch_faults.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.artifacts import partial
from buildctl.artifacts.download import Download, Downloads, download
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


def test_where_all_that_vanished_is_wanted_the_others_arrive_first(store: Store, tmp_path: Path) -> None:
    others = [item(put(tmp_path, bytes([n]), str(n)), data=bytes([n]), label=str(n)) for n in range(20)]
    items = [item("file:///nowhere/torch"), *others]
    downloads = Downloads(items, store=store, progress=Silent(), patience=QUICK, connections=1, all_gone=True)
    with downloads, pytest.raises(FetchError, match="cannot fetch torch") as caught:
        downloads.wait()
    assert caught.value.vanished
    assert all(store.artifact(one.digest) is not None for one in others)


def test_downloads_are_begun_in_the_order_that_they_are_given_in(store: Store, tmp_path: Path) -> None:
    begun: list[str] = []

    class Noted:
        """Of one file: when bytes of it come, its label is noted."""

        def __init__(self, label: str = "") -> None:
            self.label = label

        def add(self, label: str, total: int, *, exact: bool = True) -> Noted:
            return Noted(label)

        def of(self, verb: str) -> Noted:
            return self

        def advance(self, n: int) -> None:
            begun.append(self.label)

        def finish(self) -> None:
            """Nothing to note."""

    data = {name: name.encode() * size for name, size in (("small", 1), ("big", 1500), ("middle", 30))}
    items = [item(put(tmp_path, text, name), data=text, label=name) for name, text in data.items()]
    downloads = Downloads(items, store=store, progress=Noted(), patience=QUICK, connections=1)
    with downloads:
        downloads.wait()
        assert downloads.still_coming() == frozenset()
    assert list(dict.fromkeys(begun)) == ["small", "big", "middle"]


def test_the_end_of_the_block_stops_what_is_left(store: Store, tmp_path: Path) -> None:
    big = bytes(range(256)) * 4_000
    with Downloads([item(put(tmp_path, big), data=big)], store=store, progress=Silent(), connections=1) as downloads:
        pass
    for thread in downloads.threads:
        thread.join(30)  # a busy machine may need more than the half second that the end of the block waits
    assert not any(thread.is_alive() for thread in downloads.threads)
    downloads.__exit__()
    download([item(put(tmp_path, big), data=big)], store=store, progress=Silent())  # nobody holds the file any more
    assert store.artifact(Digest.of(big)) is not None


def test_there_must_be_room_for_what_is_downloaded_besides(store: Store, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not enough space for the downloads"):
        Downloads([item(put(tmp_path))], store=store, progress=Silent(), also=1 << 60)


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
