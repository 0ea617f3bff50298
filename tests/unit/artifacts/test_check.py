"""What rots at rest, in every kind of file of the store: noticed by the next reader, by `fsck --store`, and mended."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildctl.artifacts.check import check_store
from buildctl.artifacts.contents import layer_contents
from buildctl.artifacts.sealed import sealed, unsealed
from buildctl.artifacts.store import Store
from buildctl.oci.compression import ZSTD
from buildctl.oci.digest import Digest
from buildctl.oci.entry import file_entry
from buildctl.oci.image import Layer
from buildctl.oci.layout import Layout
from buildctl.oci.trees.unpack import unpack_layers
from tests.support.images import file, image, tar

KEY, OTHER = "a" * 64, "b" * 64
WHEEL = b"a wheel" * 1000

Damage = Callable[[Path], None]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def fill(path: Path) -> None:
    path.write_bytes(b"\xff\0{" * 10)


def turn_into_a_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


DAMAGES = [flip, cut, fill, turn_into_a_folder]


def make(store: Store, key: str = KEY, content: bytes = b"content " * 1000) -> tuple[Layer, bool]:
    return store.put(key, lambda: [file_entry("a", content)], compression=ZSTD)


def filled(root: Path) -> Store:
    """An artifact, two layers, an unpacked one, and the contents of one."""
    store = Store(root)
    store.artifact_path(Digest.of(WHEEL)).write_bytes(WHEEL)
    assert store.artifact(Digest.of(WHEEL)) is not None
    make(store)
    make(store, OTHER, b"other")
    layout, descriptor = image(root / "elsewhere", tar(file("a"), file("b/c")))
    unpack_layers(layout, descriptor, root / "unpacked")
    layer_contents(layout, layout.manifest(descriptor).layers[0], store=store)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "store")


def test_a_whole_store_has_no_problem(store: Store) -> None:
    assert check_store(store) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_is_not_there_any_more(
    store: Store, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.artifact_path(Digest.of(WHEEL))
    damage(path)
    assert store.artifact(Digest.of(WHEEL)) is None
    assert store.artifact(Digest.of(WHEEL)) is None
    assert not path.exists()
    assert capsys.readouterr().err.count("was damaged") == 1  # said once


def test_layers_of_an_earlier_buildctl_are_told_in_one_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (store.root / "layers").iterdir():
        value = json.loads(path.read_bytes())
        path.write_text(json.dumps({key: value[key] for key in value.keys() - {"seal", "about"}}))
    assert store.get(KEY) is None
    assert store.get(OTHER) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{store.root}/layers: 2 of an earlier buildctl are out of date;")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_layer_is_made_again(store: Store, damage: Damage, capsys: pytest.CaptureFixture[str]) -> None:
    layer, _ = make(store)
    damage(store.blob(layer.descriptor.digest))
    assert store.get(KEY) is None
    assert make(store) == (layer, True)
    assert Digest.of_file(store.blob(layer.descriptor.digest)) == layer.descriptor.digest
    assert capsys.readouterr().err.count("was damaged") == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_map_is_made_again(store: Store, damage: Damage) -> None:
    layer, _ = make(store)
    damage(store.root / "layers" / f"{KEY}.json")
    assert make(store) == (layer, True)


@pytest.mark.parametrize("key", ["descriptor", "diffId", "mediaType", "unsealed"])
def test_a_map_that_names_something_else_is_not_believed(store: Store, key: str) -> None:
    layer, _ = make(store)
    path = store.root / "layers" / f"{KEY}.json"
    value = json.loads(path.read_bytes())
    other = json.loads((store.root / "layers" / f"{OTHER}.json").read_bytes())
    if key == "mediaType":
        value["descriptor"]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
    elif key == "unsealed":  # as an earlier buildctl wrote it
        value = {name: other[name] for name in ("descriptor", "diffId", "uncompressedSize")}
    else:
        value[key] = other[key]
    path.write_text(json.dumps(value))
    assert make(store) == (layer, True)


def test_a_map_under_another_key_is_not_believed(store: Store) -> None:
    layer, _ = make(store)
    (store.root / "layers" / f"{KEY}.json").write_bytes((store.root / "layers" / f"{OTHER}.json").read_bytes())
    assert make(store) == (layer, True)


def test_a_seal_is_about_one_thing() -> None:
    data = sealed("this", {"a": 1})
    assert unsealed("this", data) == {"a": 1}
    assert unsealed("that", data) is None
    assert [unsealed("this", bad) for bad in (b"", b"[1]", b"null", b"[" * 100_000, b'{"seal": 1}')] == [None] * 5


def forged(path: Path) -> None:
    """Another byte, but size, time and inode as before: a disk that rots, or somebody who knows how."""
    state = path.stat()
    with path.open("r+b") as handle:
        handle.seek(state.st_size // 2)
        byte = handle.read(1)[0]
        handle.seek(state.st_size // 2)
        handle.write(bytes([byte ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_what_receipts_cannot_see_fsck_finds_and_then_the_next_build_mends(store: Store) -> None:
    layer, _ = make(store)
    forged(store.blob(layer.descriptor.digest))
    assert store.get(KEY) == layer  # believed: hashing 13 GB at each build is what a receipt avoids
    assert len(check_store(store)) == 2  # the blob, and the key that leads to it
    assert store.get(KEY) is None
    assert make(store) == (layer, True)
    assert check_store(store) == []


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["contents/*", "receipts/*", "unpacked/*.receipt"])
def test_what_can_be_read_again_is_written_again_over_any_damage(store: Store, damage: Damage, kind: str) -> None:
    path = next(store.root.glob(kind))
    good = path.read_bytes()
    damage(path)
    filled(store.root)
    assert path.is_file()
    assert path.read_bytes() == good or kind == "unpacked/*.receipt"  # of other inodes
    assert check_store(store) == []


@pytest.mark.parametrize("damage", [flip, cut, fill])
@pytest.mark.parametrize("kind", ["artifacts/*/*", "blobs/sha256/*", "layers/*", "contents/*", "unpacked/*/b/c"])
def test_fsck_finds_and_repairs_every_kind(store: Store, damage: Damage, kind: str) -> None:
    damage(next(store.root.glob(kind)))
    assert check_store(store)
    assert all(problem.endswith(", removed") for problem in check_store(store, repair=True))
    assert check_store(store) == []
    filled(store.root)
    assert check_store(store) == []


def test_fsck_knows_a_map_that_describes_its_layer_wrongly(store: Store) -> None:
    path = store.root / "layers" / f"{KEY}.json"
    value = unsealed(KEY, path.read_bytes())
    assert value is not None
    path.write_bytes(sealed(KEY, {**value, "diffId": str(Digest.of(b""))}))  # by somebody who can seal
    assert [problem for problem in check_store(store) if "diff id" in problem]


def test_a_changed_tree_is_unpacked_again(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path / "elsewhere", tar(file("a"), file("b/c")))
    changed: list[Path] = []
    (tree,) = unpack_layers(layout, descriptor, tmp_path / "unpacked", on_changed=changed.append)
    for damage in (flip, Path.unlink, lambda path: path.chmod(0o777), lambda path: path.with_name("new").touch()):
        damage(tree / "b/c")
        assert unpack_layers(layout, descriptor, tmp_path / "unpacked", on_changed=changed.append) == (tree,)
        assert (tree / "b/c").read_bytes() == b"content\n"
        assert sorted(path.name for path in (tree / "b").iterdir()) == ["c"]
    assert changed == [tree] * 4
    assert {path.name for path in tree.parent.iterdir()} == {tree.name, f"{tree.name}.receipt"}


def test_a_layout_is_told_what_was_put_back(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")))
    (layer,) = layout.manifest(descriptor).layers
    config = layout.manifest(descriptor).config
    for digest in (layer.digest, config.digest, descriptor.digest):
        for damage in DAMAGES:
            path = layout.blob_path(digest)
            data = path.read_bytes()
            path.unlink()  # the source keeps its own
            path.write_bytes(data)
            damage(path)
            again, _ = image(tmp_path, tar(file("a")))
            assert Digest.of_file(again.blob_path(digest)) == digest
            assert [line for line in again.mended if str(path) in line]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_a_damaged_layout_is_begun_again(tmp_path: Path, damage: Damage, name: str) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")))
    good = (layout.root / name).read_bytes()
    damage(layout.root / name)
    again, _ = image(tmp_path, tar(file("a")))
    assert Layout(layout.root).resolve("a-amd64") == again.resolve("a-amd64")
    assert name == "index.json" or (layout.root / name).read_bytes() == good or damage is flip
    assert again.mended or damage is flip
    assert descriptor.digest in {m.digest for m in again.read_index().manifests}


def test_a_folder_that_is_no_layout_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("somebody's")
    layout = Layout(tmp_path)
    layout.create()
    assert (tmp_path / "index.json").read_text() == "somebody's"
