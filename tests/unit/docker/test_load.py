from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from buildctl.docker.archive import archive, full_name
from buildctl.docker.load import differences
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from tests.support.images import file, image, tar


@pytest.fixture
def made(tmp_path: Path) -> tuple[Layout, Descriptor]:
    return image(tmp_path, tar(file("a", b"1" * 3000)), tar(file("b")))


def read(layout: Layout, descriptor: Descriptor, tag: str) -> dict[str, bytes]:
    stream = io.BytesIO(b"".join(archive([(layout, descriptor, tag)])))
    with tarfile.open(fileobj=stream) as opened:
        files = {m.name: opened.extractfile(m) for m in opened}
        return {name: body.read() for name, body in files.items() if body}


def test_the_archive_is_a_layout_with_just_this_image(made: tuple[Layout, Descriptor]) -> None:
    layout, descriptor = made
    layout.write_bytes("text/plain", b"not of this image")
    found = read(layout, descriptor, "pytorch:cuda-2.6")
    blobs = {n.rpartition("/")[2]: data for n, data in found.items() if n.startswith("blobs/")}
    assert {Digest.of(data).hex for data in blobs.values()} == set(blobs)
    assert {d.hex for d in layout.reachable([descriptor])} == set(blobs)
    entry = json.loads(found["index.json"])["manifests"][0]
    assert entry["digest"] == str(descriptor.digest)
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/pytorch:cuda-2.6"
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_old_daemons_find_their_manifest(made: tuple[Layout, Descriptor]) -> None:
    layout, descriptor = made
    found = read(layout, descriptor, "pytorch:cuda-2.6")
    [old] = json.loads(found["manifest.json"])
    manifest = layout.manifest(descriptor)
    assert old["RepoTags"] == ["pytorch:cuda-2.6"]
    assert found[old["Config"]] == layout.read_bytes(manifest.config)
    assert old["Layers"] == [f"blobs/sha256/{layer.digest.hex}" for layer in manifest.layers]


def test_a_layer_that_an_image_has_twice_is_sent_once(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")), tar(file("a")))
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive([(layout, descriptor, "x")])))) as opened:
        names = opened.getnames()
    assert len(names) == len(set(names)) == 8


def test_a_layer_that_the_daemon_has_is_left_out(made: tuple[Layout, Descriptor]) -> None:
    layout, descriptor = made
    first, second = (layer.digest for layer in layout.manifest(descriptor).layers)
    stream = io.BytesIO(b"".join(archive([(layout, descriptor, "x")], without=frozenset({first}))))
    with tarfile.open(fileobj=stream) as opened:
        names = opened.getnames()
    assert f"blobs/sha256/{second.hex}" in names
    assert f"blobs/sha256/{first.hex}" not in names


@pytest.mark.parametrize("damage", ["flip", "cut", "longer"])
def test_a_damaged_blob_is_named_while_it_is_sent(made: tuple[Layout, Descriptor], damage: str) -> None:
    layout, descriptor = made
    digest = layout.manifest(descriptor).layers[1].digest
    path = layout.blob_path(digest)
    data = path.read_bytes()
    path.unlink()  # it may be a hard link
    path.write_bytes({"flip": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-1], "longer": data + b"x"}[damage])
    with pytest.raises(LayoutError, match=digest.hex):
        b"".join(archive([(layout, descriptor, "x")]))


@pytest.mark.parametrize(
    ("tag", "full"),
    [
        ("cuda-2.6", "docker.io/library/cuda-2.6:latest"),
        ("pytorch:cuda-2.6", "docker.io/library/pytorch:cuda-2.6"),
        ("team/pytorch", "docker.io/team/pytorch:latest"),
        ("registry.invalid/pytorch:1", "registry.invalid/pytorch:1"),
        ("localhost:5000/pytorch", "localhost:5000/pytorch:latest"),
        ("localhost/pytorch", "localhost/pytorch:latest"),
    ],
)
def test_names_are_written_out_as_docker_does(tag: str, full: str) -> None:
    assert full_name(tag) == full


def inspected(layout: Layout, descriptor: Descriptor) -> dict[str, Any]:
    config = layout.config(descriptor)
    layers = [str(d) for d in config.diff_ids]
    return {"Id": str(descriptor.digest), "Os": "linux", "Architecture": "amd64", "RootFS": {"Layers": layers}}


def compare(layout: Layout, descriptor: Descriptor, found: dict[str, Any]) -> list[str]:
    manifest = layout.manifest(descriptor)
    return differences(found, descriptor, manifest.config.digest, layout.config(manifest.config))


def test_what_arrived_whole_differs_in_nothing(made: tuple[Layout, Descriptor]) -> None:
    layout, descriptor = made
    assert compare(layout, descriptor, inspected(layout, descriptor)) == []


def test_the_old_image_store_names_images_by_their_configuration(made: tuple[Layout, Descriptor]) -> None:
    layout, descriptor = made
    found = inspected(layout, descriptor) | {"Id": str(layout.manifest(descriptor).config.digest)}
    assert compare(layout, descriptor, found) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Id": "sha256:" + "0" * 64}, "image id: sha256:000"),
        ({"Architecture": "arm64"}, "platform: linux/arm64, expected linux/amd64"),
        ({"RootFS": {"Layers": ["sha256:" + "1" * 64]}}, "layers: 1, expected 2"),
        ({"RootFS": {"Layers": ["sha256:" + "1" * 64] * 2}}, "layer 2: diff id sha256:111"),
        ({"RootFS": None}, "layers: 0, expected 2"),
    ],
)
def test_each_difference_is_named(made: tuple[Layout, Descriptor], change: dict[str, Any], words: str) -> None:
    layout, descriptor = made
    problems = compare(layout, descriptor, inspected(layout, descriptor) | change)
    assert any(words in problem for problem in problems), problems
