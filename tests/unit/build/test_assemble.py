"""What is made, and what is not made again. Layers from several processes: tests/integration/build/test_assemble.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.build.assemble import ImageRecipe, Recipe, make_layers, write_image
from buildctl.console.progress import Silent
from buildctl.oci.check import check_image
from buildctl.oci.compression import ZSTD
from buildctl.oci.entry import Entry, file_entry
from buildctl.oci.image import History, ImageConfig, Layer, Platform
from buildctl.oci.layout import Layout


class Never:
    """A source that no one may ask."""

    def entries(self, store: Store) -> Iterator[Entry]:
        raise AssertionError("the layer is in the store")


def recipe(name: str) -> Recipe:
    return Recipe(key=name * 64, label=name, weight=1, source=Never(), compression=ZSTD)


def in_store(store: Store, name: str) -> Layer:
    entries = [file_entry(name, name.encode())]
    layer, fresh = store.put(name * 64, lambda: entries, compression=ZSTD, on_bytes=lambda _: None)
    assert fresh
    return layer


def test_a_layer_that_is_in_the_store_is_found_without_a_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [in_store(store, name) for name in "ab"]
    monkeypatch.setattr("buildctl.build.assemble._in_processes", None)
    asked: list[int] = []
    made = make_layers(
        [recipe("a"), recipe("b"), recipe("a")],
        store=store,
        layers=store,
        progress=Silent(),
        meanwhile=lambda: asked.append(1),
    )
    assert [(key[0], found.layer, found.fresh) for key, found in made.items()] == [
        ("a", layers[0], False),
        ("b", layers[1], False),
    ]
    assert asked == []


def test_an_image_is_its_layers_from_the_bottom_up(store: Store, tmp_path: Path) -> None:
    layers = [in_store(store, name) for name in "ab"]
    recipes = (recipe("b"), recipe("a"))
    made = make_layers(recipes, store=store, layers=store, progress=Silent())
    layout = Layout(tmp_path / "dist")
    image = ImageRecipe(
        name="cell",
        layers=recipes,
        config=ImageConfig(platform=Platform(architecture="amd64")),
        history=(History(created_by="b"), History(created_by="a")),
        annotations={"k": "v"},
    )
    built = write_image(image, made, layout=layout, layers=store, epoch=0)
    assert built.descriptor.digest == layout.resolve("cell").digest
    assert layout.config(built.descriptor).diff_ids == (layers[1].diff_id, layers[0].diff_id)
    assert layout.config(built.descriptor).created == "1970-01-01T00:00:00Z"
    assert layout.manifest(built.descriptor).annotations == {"k": "v"}
    own = write_image(replace(image, created=1_794_897_324), made, layout=layout, layers=store, epoch=None)
    config = layout.config(own.descriptor)
    assert {config.created, *(step.created for step in config.history)} == {"2026-11-17T06:35:24Z"}
    assert (built.made, built.reused, built.size) == (0, 2, sum(layer.descriptor.size for layer in layers))
    assert check_image(layout, built.descriptor) == []
