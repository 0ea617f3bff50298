"""Layers that are elsewhere, layers that are made again, and what a signed layer is made from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.build.cache.inputs import scratch_store, take_hashed
from buildctl.build.cache.session import KnownLayers
from buildctl.ground.errors import ArtifactError, EngineError
from buildctl.oci.compression import ZSTD
from buildctl.oci.digest import Digest
from buildctl.oci.entry import file_entry
from buildctl.oci.image import Layer


def put(layers: Store | KnownLayers, key: str, content: bytes) -> tuple[Layer, bool]:
    return layers.put(key, lambda: [file_entry("a", content)], compression=ZSTD)


def test_a_layer_in_the_cache_is_known_without_its_blob(tmp_path: Path) -> None:
    elsewhere, _ = put(Store(tmp_path / "other"), "k", b"x")
    layers = KnownLayers(local=Store(tmp_path / "store"), remote={"k": elsewhere})
    assert layers.get("k") == elsewhere
    assert not layers.blob(elsewhere.descriptor.digest).exists()
    assert layers.get("other") is None


def test_what_is_here_goes_before_the_cache(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    here, _ = put(store, "k", b"x")
    elsewhere, _ = put(Store(tmp_path / "other"), "k", b"y")
    assert KnownLayers(local=store, remote={"k": elsewhere}).get("k") == here


def test_a_layer_that_is_signed_is_made_again_although_it_is_here(tmp_path: Path) -> None:
    store, scratch = Store(tmp_path / "store"), Store(tmp_path / "scratch")
    here, _ = put(store, "k", b"x")
    layers = KnownLayers(local=store, again=frozenset("k"), scratch=scratch)
    assert layers.get("k") is None
    assert put(layers, "k", b"x") == (here, True)
    assert layers.blob(here.descriptor.digest) == store.blob(here.descriptor.digest)


def test_a_layer_here_that_its_recipe_does_not_make_stops_the_build(tmp_path: Path) -> None:
    store, scratch = Store(tmp_path / "store"), Store(tmp_path / "scratch")
    put(store, "k", b"poisoned")
    with pytest.raises(EngineError, match="is not what its recipe makes"):
        put(KnownLayers(local=store, again=frozenset("k"), scratch=scratch), "k", b"x")


def artifact(store: Store, data: bytes) -> Digest:
    digest = Digest.of(data)
    store.artifact_path(digest).write_bytes(data)
    return digest


def test_inputs_are_hashed_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    good, bad = artifact(store, b"good"), artifact(store, b"bad")
    store.artifact_path(bad).write_bytes(b"changed")
    with scratch_store(store) as scratch:
        take_hashed([good, good], store, scratch)
        assert scratch.artifact(good) is not None
        with pytest.raises(ArtifactError, match=r"has changed|is not in the store"):
            take_hashed([bad], store, scratch)
        with pytest.raises(ArtifactError, match="is not in the store"):
            take_hashed([Digest.of(b"none")], store, scratch)
    assert store.artifact(good) is not None
    assert store.artifact(bad) is None  # fetched again next time


def test_a_scratch_store_disappears_and_takes_those_of_the_dead_along(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "scratch" / "buildctl-inputs.dead" / "blobs").mkdir(parents=True)
    with scratch_store(store) as first, scratch_store(store) as second:
        assert set((tmp_path / "scratch").iterdir()) == {first.root, second.root}
    assert list((tmp_path / "scratch").iterdir()) == []


def test_sixteen_that_begin_at_once_do_not_take_each_others_scratch_store(tmp_path: Path) -> None:
    def use(number: int) -> bool:
        with scratch_store(Store(tmp_path)) as scratch:
            return scratch.artifact_path(Digest.of(str(number).encode())).parent.is_dir()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(use, range(200)))
    assert list((tmp_path / "scratch").iterdir()) == []
