from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import docker
import pytest

from buildctl.docker.daemon import loopback_port
from buildctl.docker.load import load
from buildctl.ground.errors import BuildctlError, LayoutError
from buildctl.oci.compression import Compression, compression_of
from buildctl.oci.digest import Digest
from buildctl.oci.entry import file_entry
from buildctl.oci.image import Descriptor, canonical_json
from buildctl.oci.layer import write_layer
from buildctl.oci.layout import Layout
from tests.conftest import buildctl
from tests.support.engine import Engine
from tests.support.images import Blobs, file, image, put, tar
from tests.support.programs import programs

TAG = "buildctl-test-load:x"
ARCH = {"cuda": "amd64", "cpu": "arm64"}
pytestmark = pytest.mark.docker


@pytest.fixture(params=["pull", "load"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, docker_client: docker.DockerClient) -> str:
    """Both ways in: pulled from our registry on loopback, and streamed into `docker load`."""
    if request.param == "load":
        monkeypatch.setattr("buildctl.docker.load.loopback_port", lambda client, port: nullcontext())
    else:
        skip_where_loopback_is_elsewhere(docker_client)
    return str(request.param)


def skip_where_loopback_is_elsewhere(client: docker.DockerClient) -> None:
    with loopback_port(client, 1) as port:
        if port is None:
            pytest.skip("NOT RUN: this Docker Engine is on another machine")


@pytest.fixture(autouse=True)
def _clean(docker_client: docker.DockerClient) -> Iterator[None]:
    remove_tags(docker_client)
    yield
    remove_tags(docker_client)


def remove_tags(client: docker.DockerClient) -> None:
    for tag in [tag for found in client.images.list() for tag in found.tags]:
        if tag.startswith("buildctl-test-load:"):
            client.images.remove(tag, force=True)


def test_an_image_arrives_runs_and_is_not_moved_again(
    docker_client: docker.DockerClient, how: str, tmp_path: Path
) -> None:
    layout, descriptor = image(tmp_path, tar(*programs("cat")), tar(file("hello", how.encode())))
    loaded = load(layout, descriptor, TAG, client=docker_client)
    assert loaded.how == how
    assert docker_client.containers.run(TAG, ["cat", "/hello"], remove=True) == how.encode()
    again = load(layout, descriptor, TAG, client=docker_client)
    assert (again.how, again.moved, again.image_id) == ("present", 0, loaded.image_id)
    assert docker_client.containers.list(all=True, filters={"ancestor": TAG}) == []
    names = [tag for found in docker_client.images.list() for tag in found.tags]
    assert [name for name in names if name.startswith("127.0.0.1")] == []


@pytest.mark.parametrize(
    "compression",
    [
        compression_of(*words)
        for words in (("zstd",), ("zstd", "1"), ("zstd", "9"), ("zstd", "none"), ("zstd:chunked",))
    ],
    ids=["zstd", "level 1", "level 9", "uncompressed", "chunked"],
)
def test_docker_unpacks_a_layer_however_it_is_compressed(
    docker_client: docker.DockerClient, tmp_path: Path, how: str, compression: Compression
) -> None:
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    content, out = how.encode() * 5_000_000, io.BytesIO()  # several frames, or chunks
    made = write_layer([file_entry("hello", content)], out, compression=compression)
    blobs.path(made.descriptor.digest).write_bytes(out.getvalue())
    descriptor = put(layout, blobs, [blobs.add(tar(*programs("sha256sum"))), made])
    assert load(layout, descriptor, TAG, client=docker_client).how == how
    said = docker_client.containers.run(TAG, ["sha256sum", "/hello"], remove=True)
    assert said.split()[0].decode() == Digest.of(content).hex


def test_only_layers_that_the_daemon_lacks_are_moved(docker_client: docker.DockerClient, tmp_path: Path) -> None:
    skip_where_loopback_is_elsewhere(docker_client)
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    shared = blobs.add(tar(file("shared", tmp_path.name.encode() * 100_000)))
    first = put(layout, blobs, [shared, blobs.add(tar(file("one", tmp_path.name.encode())))], name="one")
    own = blobs.add(tar(file("two", tmp_path.name.encode())))
    second = put(layout, blobs, [shared, own], name="two")
    load(layout, first, "buildctl-test-load:one", client=docker_client)
    loaded = load(layout, second, "buildctl-test-load:two", client=docker_client)
    manifest = layout.manifest(second)
    assert loaded.moved is not None
    assert loaded.moved <= own.descriptor.size + 2 * (second.size + manifest.config.size)


@pytest.mark.network
@pytest.mark.parametrize(
    ("names", "shared"),
    [(("cuda-2.6", "cuda-2.6-devel"), "all but the base"), (("cpu-2.6", "cpu-2.10"), "the base")],
    ids=["flavour", "version"],
)
@pytest.mark.big
def test_a_second_image_moves_only_the_layers_that_the_first_has_not(
    names: tuple[str, str],
    shared: str,
    docker_engine: Engine,
    docker_client: docker.DockerClient,
    everything: Path,
    built_store: dict[str, str],
) -> None:
    """Gigabytes of cuda-2.10 beside cuda-2.6 are a row of the benchmark."""
    skip_where_loopback_is_elsewhere(docker_client)
    layout = Layout(everything.parent / "two-images")
    done = buildctl("--layout", layout.root, "build", *names, "--no-load", "--locked", env=built_store)
    assert done.returncode == 0, done.stderr
    images = [layout.resolve(name, ARCH[name.partition("-")[0]]) for name in names]
    if docker_engine.own:
        forget(docker_client, images)
    there = {Digest.parse(d) for found in docker_client.images.list() for d in found.attrs["RootFS"].get("Layers", ())}
    for name, descriptor in zip(names, images, strict=True):
        sizes = layer_sizes(layout, descriptor)
        missing = sum(size for diff_id, size in sizes.items() if diff_id not in there)
        loaded = load(layout, descriptor, f"buildctl-test-load:{name}", client=docker_client)
        assert loaded.moved is not None
        assert loaded.moved <= missing + 2 * (descriptor.size + layout.manifest(descriptor).config.size)
        base = next(iter(sizes.values()))  # which the engine may still have of an image that is gone
        assert loaded.moved >= missing - base
        there |= set(sizes)
    first, second = (set(layer_sizes(layout, descriptor)) for descriptor in images)
    if shared == "all but the base":
        assert len(second - first) == 1
    else:
        assert len(second & first) == 1


def layer_sizes(layout: Layout, descriptor: Descriptor) -> dict[Digest, int]:
    """Compressed sizes by diff id, which is what Docker tells of the layers that it has."""
    layers = layout.manifest(descriptor).layers
    return {d: layer.size for d, layer in zip(layout.config(descriptor).diff_ids, layers, strict=True)}


def forget(client: docker.DockerClient, images: Sequence[Descriptor]) -> None:
    """An earlier test may have loaded them."""
    for descriptor in images:
        with suppress(docker.errors.ImageNotFound):
            client.images.remove(str(descriptor.digest), force=True)


def wrong_diff_id(layout: Layout, descriptor: Descriptor) -> Descriptor:
    manifest = json.loads(layout.read_bytes(descriptor))
    config = json.loads(layout.read_bytes(layout.manifest(descriptor).config))
    config["rootfs"]["diff_ids"][-1] = str(Digest.of(b"something else"))
    changed = layout.write_bytes(manifest["config"]["mediaType"], canonical_json(config))
    manifest["config"] = changed.to_json()
    return layout.write_bytes(descriptor.media_type, canonical_json(manifest))


def flipped(layout: Layout, descriptor: Descriptor) -> Descriptor:
    path = layout.blob_path(layout.manifest(descriptor).layers[-1].digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    return descriptor


def missing(layout: Layout, descriptor: Descriptor) -> Descriptor:
    layout.blob_path(layout.manifest(descriptor).layers[-1].digest).unlink()
    return descriptor


@pytest.mark.parametrize("damage", [wrong_diff_id, flipped, missing])
def test_a_corrupt_image_is_never_called_loaded(
    docker_client: docker.DockerClient, how: str, tmp_path: Path, damage: object
) -> None:
    salt = f"{how} {damage} {tmp_path}".encode()  # content that no earlier test has put into the daemon
    layout, descriptor = image(tmp_path, tar(*programs("cat")), tar(file("salt", salt * 1000)))
    assert callable(damage)
    with pytest.raises(LayoutError) as caught:
        load(layout, damage(layout, descriptor), TAG, client=docker_client)
    assert str(layout.root) in caught.value.message
    assert [t for found in docker_client.images.list() for t in found.tags if t == TAG] == []


def test_another_image_under_the_name_is_noticed(
    docker_client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `docker load`, which exits 0 and leaves what had the name before."""
    old, old_descriptor = image(tmp_path / "old", tar(file("a", b"old")))
    load(old, old_descriptor, TAG, client=docker_client)
    new, new_descriptor = image(tmp_path / "new", tar(file("a", b"new")), tar(file("b")))
    monkeypatch.setattr("buildctl.docker.load._bring", lambda *_: ("load", 0))
    with pytest.raises(BuildctlError, match=r"image id: .*\n.*layers: 1, expected 2"):
        load(new, new_descriptor, TAG, client=docker_client)


def test_an_image_of_the_other_architecture_arrives(
    docker_client: docker.DockerClient, how: str, tmp_path: Path
) -> None:
    foreign = "arm64" if docker_client.info()["Architecture"] == "x86_64" else "amd64"
    layout, descriptor = image(tmp_path, tar(file("a", how.encode())), arch=foreign)
    load(layout, descriptor, TAG, client=docker_client)
    assert docker_client.images.get(TAG).attrs["Architecture"] == foreign
