"""What the store takes by kind, and that removing counts what was removed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.artifacts.usage import CHEAP, Item, Sort, chosen, items, measured, remove
from buildctl.oci.compression import ZSTD
from buildctl.oci.entry import file_entry
from tests.support.images import nested

KEY, LOST = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A download, a layer that a layout shares, a layer of nobody, and an unpacked tree with a closed folder."""
    store = Store(tmp_path / "store")
    layer, _ = store.put(KEY, lambda: [file_entry("a", os.urandom(20_000))], compression=ZSTD)
    os.link(store.blob(layer.descriptor.digest), tmp_path / "in-dist")
    store.put(LOST, lambda: [file_entry("b", os.urandom(40_000))], compression=ZSTD)
    (store.root / "layers" / f"{LOST}.json").unlink()
    (store.root / "artifacts/ab").mkdir(parents=True)
    (store.root / "artifacts/ab/abcd").write_bytes(os.urandom(80_000))
    closed = store.root / "unpacked/x/closed"
    closed.mkdir(parents=True)
    (closed / "file").write_bytes(os.urandom(100_000))
    closed.chmod(0o500)
    return store


def found(store: Store) -> dict[Sort, list[Item]]:
    every = list(items(store))
    return {sort: [item for item in every if item.sort is sort] for sort in Sort}


def later() -> float:
    return time.time() + 7200


def test_each_thing_has_a_kind(store: Store) -> None:
    assert {sort: len(some) for sort, some in found(store).items()} == {
        Sort.DOWNLOADS: 1,
        Sort.LAYERS: 1,
        Sort.ORPHANS: 1,
        Sort.UNPACKED: 1,
        Sort.BYTECODE: 0,
        Sort.OTHER: 0,
    }


def test_what_a_layout_shares_frees_nothing(store: Store, tmp_path: Path) -> None:
    (layer,) = found(store)[Sort.LAYERS]
    assert layer.shared >= 20_000
    assert layer.size < 20_000, "only the key"
    (tmp_path / "in-dist").unlink()
    (layer,) = found(store)[Sort.LAYERS]
    assert (layer.shared, layer.size >= 20_000) == (0, True)


def test_links_within_a_tree_count_once(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/one").write_bytes(os.urandom(50_000))
    alone = measured(tmp_path / "tree")
    os.link(tmp_path / "tree/one", tmp_path / "tree/two")
    assert measured(tmp_path / "tree") == alone
    assert alone[1] == 0


def test_a_young_layer_of_nobody_stays_because_a_build_may_be_about_to_name_it(store: Store) -> None:
    every = tuple(items(store))
    assert [item.sort for item in chosen(every, CHEAP, now=time.time())] == [Sort.UNPACKED]
    assert {item.sort for item in chosen(every, CHEAP, now=later())} == {Sort.ORPHANS, Sort.UNPACKED}


def test_what_was_used_lately_is_not_old(store: Store) -> None:
    every = tuple(items(store))
    assert chosen(every, tuple(Sort), now=time.time() + 86_000, unused=86_400) == ()
    assert len(chosen(every, tuple(Sort), now=time.time() + 86_500, unused=86_400)) == 4


def test_what_was_removed_is_counted_and_the_rest_works(store: Store) -> None:
    before = tuple(items(store))
    gone = chosen(before, CHEAP, now=later())
    freed = remove(store, gone)
    assert freed == sum(item.size for item in gone) >= 140_000
    assert not (store.root / "unpacked/x").exists()
    assert store.get(KEY) is not None
    assert remove(store, gone) == 0, "another process was first"
    assert {item.sort for item in items(store)} == {Sort.DOWNLOADS, Sort.LAYERS}
    remove(store, tuple(items(store)))
    assert store.get(KEY) is None
    assert list(items(store)) == []


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    assert list(items(Store(tmp_path / "none"))) == []


def test_a_tree_too_deep_for_a_path_is_measured_as_far_as_it_is_seen_and_removed(store: Store) -> None:
    nested(store.root / "unpacked/deep", 50, name="d" * 100)
    gone = chosen(tuple(items(store)), CHEAP, now=later())
    assert remove(store, gone) > 0
    assert not (store.root / "unpacked/deep").exists()
