"""Layouts that lack layers, and say where they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.ground.errors import LayoutError
from buildctl.oci.absent import absent
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, Layer
from buildctl.oci.layout import Layout
from buildctl.oci.remote import Place, note_places, place_of
from tests.support.images import Blobs, config_of, file, tar


def place(layer: Layer) -> Place:
    document = Descriptor(media_type="application/x", digest=Digest.of(b"x"), size=1)
    return Place(
        registry="registry.example",
        repository="team/cache",
        key="a" * 64,
        signer="hint",
        layer=layer.descriptor,
        contents=document,
        files=document,
    )


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Blobs, list[Layer]]:
    blobs = Blobs(tmp_path / "blobs")
    return blobs, [blobs.add(tar(file(name, name.encode() * 9))) for name in "ab"]


def put(layout: Layout, blobs: Blobs, layers: list[Layer]) -> Descriptor:
    return layout.put_image(name="x", config=config_of(layers), layers=layers, blob=blobs.path)


def test_a_place_is_read_as_it_was_noted(tmp_path: Path, layers: tuple[Blobs, list[Layer]]) -> None:
    (first, second) = layers[1]
    note_places(tmp_path / "dist", [place(first)])
    note_places(tmp_path / "dist", [place(first)])
    assert place_of(tmp_path / "dist", first.descriptor.digest) == place(first)
    assert place_of(tmp_path / "dist", second.descriptor.digest) is None
    assert [p.name for p in (tmp_path / "dist" / "remote").iterdir()] == [f"{first.descriptor.digest.hex}.json"]


def test_an_image_may_lack_a_layer_whose_place_is_known(tmp_path: Path, layers: tuple[Blobs, list[Layer]]) -> None:
    blobs, both = layers
    whole = put(Layout(tmp_path / "whole"), blobs, both)
    layout = Layout(tmp_path / "dist")
    note_places(layout.root, [place(both[0])])
    blobs.path(both[0].descriptor.digest).unlink()
    assert put(layout, blobs, both).digest == whole.digest
    assert set(absent(layout, [layout.resolve("x")])) == {both[0].descriptor.digest}
    assert layout.blob_path(both[1].descriptor.digest).is_file()


def test_a_layer_without_a_place_must_be_there(tmp_path: Path, layers: tuple[Blobs, list[Layer]]) -> None:
    blobs, both = layers
    note_places(tmp_path / "dist", [place(both[1])])
    blobs.path(both[0].descriptor.digest).unlink()
    with pytest.raises(LayoutError, match="cannot read blob"):
        put(Layout(tmp_path / "dist"), blobs, both)


def test_a_layer_that_is_there_is_not_absent(tmp_path: Path, layers: tuple[Blobs, list[Layer]]) -> None:
    blobs, both = layers
    layout = Layout(tmp_path / "dist")
    note_places(layout.root, map(place, both))
    put(layout, blobs, both)
    assert absent(layout, [layout.resolve("x")]) == {}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"layer": 3}'])
def test_a_damaged_place_is_none(tmp_path: Path, layers: tuple[Blobs, list[Layer]], data: bytes) -> None:
    digest = layers[1][0].descriptor.digest
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / f"{digest.hex}.json").write_bytes(data)
    assert place_of(tmp_path, digest) is None


def test_a_folder_in_its_place_goes(tmp_path: Path, layers: tuple[Blobs, list[Layer]]) -> None:
    first = layers[1][0]
    (tmp_path / "remote" / f"{first.descriptor.digest.hex}.json" / "inside").mkdir(parents=True)
    note_places(tmp_path, [place(first)])
    assert place_of(tmp_path, first.descriptor.digest) == place(first)


def test_a_place_of_another_layer_is_none(tmp_path: Path, layers: tuple[Blobs, list[Layer]]) -> None:
    first, second = layers[1]
    note_places(tmp_path, [place(first)])
    folder = tmp_path / "remote"
    (folder / f"{first.descriptor.digest.hex}.json").rename(folder / f"{second.descriptor.digest.hex}.json")
    assert place_of(tmp_path, second.descriptor.digest) is None
    assert place_of(tmp_path, replace(first.descriptor).digest) is None
