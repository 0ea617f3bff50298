"""The shared layer cache with a real registry: two machines, and everything that may be wrong with what is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from buildctl.artifacts.facts import CONTENTS_TYPE, FILES_TYPE, facts_of
from buildctl.artifacts.store import RECIPE_VERSION, Store
from buildctl.build.cache.prune import prune
from buildctl.console.progress import Silent
from buildctl.ground.errors import ExitCode
from buildctl.oci.absent import absent
from buildctl.oci.compression import ZSTD
from buildctl.oci.digest import Digest
from buildctl.oci.entry import file_entry
from buildctl.oci.image import Descriptor, MediaType
from buildctl.oci.layout import Layout
from buildctl.oci.remote import Place
from buildctl.registry.cache.entry import CachedLayer, CacheKind, CacheName, Trust, manifest
from buildctl.registry.cache.read import Source, look_up
from buildctl.registry.cache.write import Fresh, Writer
from buildctl.registry.client import Repository
from buildctl.registry.keys import PrivateKey, PublicKey
from buildctl.registry.reference import Reference
from buildctl.registry.remote import RemoteFile
from buildctl.registry.transport import Transport
from buildctl.registry.upload import Blob, Moved, Upload
from tests.conftest import Ran, buildctl, fresh_store
from tests.support.publishing import PATIENCE
from tests.support.registry import Fault, Proxy, docker_registry, proxy
from tests.support.tiny import CELL, NAME, tiny


@dataclass(frozen=True, kw_only=True)
class World:
    """A registry, a project, and a first machine that has filled the cache `cache`, with the images it made there."""

    front: Proxy
    project: Path
    keys: Path
    first: Path
    layout: Layout

    @property
    def cache(self) -> str:
        return f"{self.front.netloc}/team/cache"

    def run(self, machine: Path, *argv: str, **env: str) -> Ran:
        """On a machine with its own store and layout."""
        layout = ["--layout", str(machine / "dist")]
        return buildctl(*layout, *argv, cwd=self.project, env={"BUILDCTL_CACHE": str(machine / "store"), **env})

    def build(self, machine: Path, *argv: str, **env: str) -> Ran:
        trust = ["--cache-from", self.cache, "--cache-trust", str(self.keys / "cache.pub")]
        return self.run(machine, "build", "--no-load", *trust, *argv, **env)


@pytest.fixture(scope="module")
def world(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("cache")
    machine = stores / "cache-first"
    fresh_store(machine / "store")
    write_keys(folder)
    project = tiny(folder / "project", machine / "store")
    with docker_registry(folder / "registry") as registry, proxy(registry) as front:
        made = World(front=front, project=project, keys=folder, first=machine, layout=Layout(machine / "dist"))
        done = made.run(
            machine, "build", "--no-load", "--cache-to", made.cache, "--cache-key", str(folder / "cache.key")
        )
        assert done.returncode == 0, done.stderr
        assert f"cache {made.cache}: 3 of 3 layers written" in done.stderr
        yield made


def write_keys(folder: Path) -> None:
    for name in ("cache", "other"):
        key = generate_private_key(SECP256R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.key").write_bytes(private)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)


def image(machine: Path) -> Digest:
    return Layout(machine / "dist").resolve(CELL).digest


def blobs_of(machine: Path) -> int:
    """Bytes of everything in a store and a layout."""
    return sum(p.stat().st_size for p in machine.rglob("*") if p.is_file())


def test_a_machine_with_nothing_builds_and_publishes_without_a_layer(world: World, tmp_path: Path) -> None:
    world.front.seen.clear()
    built = world.build(tmp_path)
    assert built.returncode == 0, built.stderr
    assert f"cache {world.cache}: has 3 of 3 layers (28.1 MB); they stay there until needed" in built.stderr
    assert image(tmp_path) == world.layout.resolve(CELL).digest
    published = world.run(tmp_path, "publish", NAME, "--to", f"{world.front.netloc}/team/pytorch")
    assert published.returncode == ExitCode.FAILED, published.stderr  # nothing was tested, so the moving tags stay
    assert not (tmp_path / "store" / "artifacts").exists()
    assert blobs_of(tmp_path) < 200_000
    assert world.front.blob_bytes() + world.front.bytes_down() < 200_000
    assert {e.status for e in world.front.seen if "mount=" in e.path} == {201}
    assert "MB" not in published.stderr  # the story does not call it sent
    # what is there is whole: somebody else pulls it
    tag = f"{world.front.netloc}/team/pytorch@{image(tmp_path)}"
    assert world.run(tmp_path, "verify", tag).returncode == 0
    # and what needs the layers fetches them, and says so
    checked = world.run(tmp_path, "fsck", NAME)
    assert (checked.returncode, "fsck needs 3 layers that are not here" in checked.stderr) == (0, True)
    assert absent(world.layout, [world.layout.resolve(CELL)]) == {}


def test_another_registry_gets_the_layers_streamed(world: World, tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    assert world.build(machine).returncode == 0
    layout = Layout(machine / "dist")
    big = max(layout.manifest(layout.resolve(CELL)).layers, key=lambda layer: layer.size)
    cut = Fault(when=lambda m, p: m == "GET" and str(big.digest) in p, truncate=5_000_000)
    world.front.faults.append(cut)
    with docker_registry(tmp_path / "elsewhere") as elsewhere:
        done = world.run(machine, "publish", NAME, "--to", f"{elsewhere}/pytorch", "--no-sbom")
        assert done.returncode == ExitCode.FAILED, done.stderr  # nothing was tested, so the moving tags stay
        assert cut.met == 1
        there = requests.get(f"http://{elsewhere}/v2/pytorch/blobs/{big.digest}", timeout=10)
        assert Digest.of(there.content) == big.digest
    assert blobs_of(machine) < 200_000


def test_a_layer_that_is_lost_is_said_and_never_replaced(world: World, tmp_path: Path) -> None:
    assert world.build(tmp_path).returncode == 0
    world.front.faults.append(Fault(when=lambda m, p: m == "GET" and "/blobs/" in p, times=99, status=404, body=b""))
    try:
        checked = world.run(tmp_path, "fsck", NAME)
        assert checked.returncode == ExitCode.LAYOUT, checked.stdout
        assert f"neither in the layout nor in {world.cache} any longer" in checked.stderr
        assert "--no-cache-from" in checked.stderr
    finally:
        world.front.faults.clear()


def test_a_cache_that_does_not_answer_is_a_miss_with_one_line(world: World, tmp_path: Path) -> None:
    when = lambda _, path: "/cache/manifests/" in path  # noqa: E731
    world.front.faults.append(Fault(when=when, times=999, status=500))
    try:
        done = world.build(tmp_path, "--require-cache")
    finally:
        world.front.faults.clear()
    assert done.returncode == ExitCode.FAILED
    assert "error: not in the cache: " in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith(f"cache {world.cache}: ")]
    assert len(said) == 1, done.stderr
    assert "500" in said[0]
    assert said[0].endswith("; going on without it")
    assert not (tmp_path / "dist").exists()


def test_a_key_that_nobody_pinned_gets_the_right_image_made_here(world: World, stores: Path) -> None:
    machine = stores / "cache-wary"
    fresh_store(machine / "store")
    world_store = Store(world.first / "store")
    tiny_wheels = [p for p in (world_store.root / "artifacts").rglob("*") if p.is_file()]
    for path in tiny_wheels:
        target = Store(machine / "store").artifact_path(Digest(path.name))
        if not target.exists():
            os.link(path, target)
    done = world.run(
        machine, "build", "--no-load", "--cache-from", world.cache, "--cache-trust", str(world.keys / "other.pub")
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("not used: ") == 1
    assert "no trusted key has signed it" in done.stderr
    assert image(machine) == world.layout.resolve(CELL).digest


def test_a_pull_request_writes_nothing(world: World, tmp_path: Path) -> None:
    world.front.seen.clear()
    to = ["--cache-to", world.cache, "--cache-key", str(world.keys / "cache.key")]
    done = world.build(tmp_path, *to, GITHUB_EVENT_NAME="pull_request_target")
    assert done.returncode == 0, done.stderr
    assert "nothing is written: this job was started by pull_request_target" in done.stderr
    assert world.front.writes() == []


def test_what_a_cache_vouches_for_is_compared_with_what_its_recipe_makes(world: World, tmp_path: Path) -> None:
    """One layer is signed by the pinned key, and is not what its recipe makes."""
    small = min(world.layout.manifest(world.layout.resolve(CELL)).layers, key=lambda d: d.size)
    key = next(k.stem for k in (world.first / "store" / "layers").iterdir() if small.digest.hex in k.read_text())
    writer = a_writer(world, "poisoned")
    assert list(writer.entries([fresh(tmp_path, "evil", key=key)], Silent()).values()) != []
    argv = ["--cache-from", writer.name, "--cache-trust", str(world.keys / "cache.pub")]
    done = world.run(world.first, "cache", "verify", "--sample", "5", *argv)
    assert done.returncode == ExitCode.FAILED, done.stderr
    assert "FAILED" in done.stdout
    assert "1 of 1 entries compared: 1 differ" in done.stdout


@pytest.mark.parametrize("where", [pytest.param("PUT /blobs/", marks=pytest.mark.big), "PUT /manifests/"])
def test_a_build_killed_while_it_fills_the_cache_leaves_nothing_wrong(world: World, tmp_path: Path, where: str) -> None:
    method, _, path = where.partition(" ")
    cache, trust = f"{world.front.netloc}/team/killed-{len(where)}", ("--cache-trust", str(world.keys / "cache.pub"))
    argv = ["build", "--no-load", "--cache-to", cache, "--cache-key", str(world.keys / "cache.key")]
    command = [sys.executable, "-m", "buildctl", "--layout", str(tmp_path / "killed"), *argv]
    env = {**os.environ, "BUILDCTL_CACHE": str(world.first / "store")}
    with subprocess.Popen(command, cwd=world.project, env=env, stderr=subprocess.DEVNULL) as build:

        def kill(asked: str, at: str) -> bool:
            if asked == method and path in at and "/killed-" in at:
                build.kill()
            return False

        world.front.faults.append(Fault(when=kill))
        try:
            assert build.wait(120) == -signal.SIGKILL
        finally:
            world.front.faults.clear()
    again = world.run(tmp_path / "again", *argv, BUILDCTL_CACHE=str(world.first / "store"))
    assert again.returncode == 0, again.stderr
    assert "ALARM" not in again.stderr
    done = world.run(tmp_path, "build", "--no-load", "--cache-from", cache, *trust, "--require-cache")
    assert done.returncode == 0, done.stderr
    assert image(tmp_path) == world.layout.resolve(CELL).digest
    assert world.run(tmp_path, "fsck", NAME).returncode == 0  # every blob is there


@pytest.mark.big
def test_sixteen_builders_fill_one_cache(world: World, tmp_path: Path) -> None:
    cache = f"{world.front.netloc}/team/crowded"
    argv = ["build", "--no-load", "--cache-to", cache, "--cache-key", str(world.keys / "cache.key")]
    store = {"BUILDCTL_CACHE": str(world.first / "store")}
    with ThreadPoolExecutor(16) as pool:
        ran = list(pool.map(lambda n: world.run(tmp_path / f"m{n}", *argv, **store), range(16)))
    assert [one.stderr for one in ran if one.returncode or "ALARM" in one.stderr] == []
    assert {image(tmp_path / f"m{n}") for n in range(16)} == {world.layout.resolve(CELL).digest}
    read = ["build", "--no-load", "--cache-from", cache, "--cache-trust", str(world.keys / "cache.pub")]
    with ThreadPoolExecutor(16) as pool:
        ran = list(pool.map(lambda n: world.run(tmp_path / f"e{n}", *read, "--require-cache"), range(16)))
    assert [one.stderr for one in ran if one.returncode] == []
    assert {image(tmp_path / f"e{n}") for n in range(16)} == {world.layout.resolve(CELL).digest}


# with layers of a few bytes: the parts


def a_repository(world: World, name: str, *, write: bool = True) -> Repository:
    transport = Transport(world.front.netloc, patience=PATIENCE, credentials=lambda _: None)
    return Repository(
        reference=Reference(registry=world.front.netloc, repository=f"parts/{name}"), transport=transport, write=write
    )


def a_writer(world: World, name: str, key: str = "cache") -> Writer:
    private = PrivateKey.load(str(world.keys / f"{key}.key"))
    trust = Trust(keys=(private.public, trusted(world).keys[0]), media_type=str(MediaType.LAYER_ZSTD))
    return Writer(repository=a_repository(world, name), key=private, trust=trust, version=RECIPE_VERSION)


def trusted(world: World) -> Trust:
    return Trust(keys=(PublicKey.load(str(world.keys / "cache.pub")),), media_type=str(MediaType.LAYER_ZSTD))


def fresh(folder: Path, content: str, *, key: str = "a" * 64) -> Fresh:
    store = Store(folder / "parts")
    layer, _ = store.put(content, lambda: [file_entry("usr/x", content.encode())], compression=ZSTD)
    path = store.blob(layer.descriptor.digest)

    def documents() -> tuple[Blob, Blob]:
        facts = facts_of(path, layer)
        return Blob.of(facts.contents, CONTENTS_TYPE), Blob.of(facts.files, FILES_TYPE)

    return Fresh(key=key, label=content, layer=layer, path=path, documents=documents)


def found_in(world: World, name: str, *keys: str) -> dict[str, CachedLayer]:
    source = Source(repository=a_repository(world, name, write=False), trust=trusted(world))
    return {key: hit.cached for key, hit in look_up([source], [], RECIPE_VERSION, keys).hits.items()}


def test_sixteen_builders_write_one_entry(world: World, tmp_path: Path) -> None:
    wanted = fresh(tmp_path, "the same")
    with ThreadPoolExecutor(16) as pool:
        writers = list(pool.map(lambda _: a_writer(world, "sixteen"), range(16)))
        there = list(pool.map(lambda w: w.entries([wanted], Silent()), writers))
    assert [w.failed or w.alarms for w in writers] == [[]] * 16
    assert [one[wanted.key].layer for one in there] == [wanted.layer] * 16
    assert found_in(world, "sixteen", wanted.key)[wanted.key].layer == wanted.layer


@pytest.mark.parametrize("where", ["POST", "PUT /blobs/", "PUT /manifests/"])
def test_a_builder_that_breaks_off_leaves_no_entry_without_its_blobs(world: World, tmp_path: Path, where: str) -> None:
    method, _, path = where.partition(" ")
    name, wanted = f"broken-{len(where)}", fresh(tmp_path, where)
    world.front.faults.append(Fault(when=lambda m, p: m == method and path in p, times=99, status=500))
    try:
        writer = a_writer(world, name)
        assert writer.entries([wanted], Silent()) == {}
        assert "500" in writer.failed
    finally:
        world.front.faults.clear()
    assert found_in(world, name, wanted.key) == {}
    assert a_writer(world, name).entries([wanted], Silent()) != {}
    assert set(found_in(world, name, wanted.key)) == {wanted.key}


def test_another_layer_under_the_same_key_is_an_alarm_and_stays(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("buildctl.registry.cache.write.say", said.append)
    first, second = fresh(tmp_path, "first"), fresh(tmp_path, "second")
    a_writer(world, "alarm").entries([first], Silent())
    writer = a_writer(world, "alarm")
    assert writer.entries([second], Silent()) == {}
    assert len(writer.alarms) == 1
    assert "ALARM" in said[0]
    assert found_in(world, "alarm", first.key)[first.key].layer == first.layer


def test_an_entry_that_nobody_believes_is_replaced(world: World, tmp_path: Path) -> None:
    wanted = fresh(tmp_path, "squatted")
    squatter = a_writer(world, "squat", key="other")
    squatter.entries([fresh(tmp_path, "rubbish")], Silent())
    assert found_in(world, "squat", wanted.key) == {}
    writer = replace(a_writer(world, "squat"), trust=trusted(world))
    assert set(writer.entries([wanted], Silent())) == {wanted.key}
    assert found_in(world, "squat", wanted.key)[wanted.key].layer == wanted.layer


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"status": 403}, "403"),
        ({"status": 500}, "500"),
        ({"status": 401, "headers": {"WWW-Authenticate": 'Basic realm="x"'}}, "requires credentials"),
        ({"status": 200, "body": b'{"layers": []}', "headers": {"Content-Type": str(MediaType.MANIFEST)}}, "malformed"),
        ({"status": 200, "body": b"<html>"}, "is not JSON"),
        ({"status": 429, "headers": {"Retry-After": "600"}}, "600 s"),
        ({"endless": True}, "exceeds the limit"),
        ({"status": 404}, ""),
    ],
)
def test_whatever_a_cache_answers_is_a_miss_with_one_line(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any], why: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr("buildctl.registry.cache.read.say", said.append)
    keys = [fresh(tmp_path, name, key=name * 64).key for name in "abc"]
    world.front.faults.append(Fault(when=lambda m, _: m == "GET", times=99, **fault))
    try:
        assert found_in(world, "nonsense", *keys) == {}
    finally:
        world.front.faults.clear()
    assert len(said) == bool(why), said
    assert why in "".join(said)


def test_a_stream_goes_on_from_one_piece_of_an_upload_to_the_next(world: World, tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    source, target = a_repository(world, "source"), replace(a_repository(world, "target"), chunk=1 << 20)
    blob = Blob.of(data, str(MediaType.LAYER_ZSTD))
    Upload(source, blob, Silent()).run()
    file = RemoteFile(source, place_at(world, "source", blob.descriptor))
    world.front.seen.clear()
    assert Upload(target, replace(blob, data=b"", remote=lambda: file), Silent()).run() is Moved.SENT
    file.release()
    gets = [e for e in world.front.seen if e.method == "GET" and "/source/blobs/" in e.path]
    assert len(gets) == 1
    assert target.blob_size(blob.descriptor.digest) == len(data)  # the registry has hashed them


def place_at(world: World, name: str, layer: Descriptor) -> Place:
    where = a_repository(world, name).reference
    names = {"registry": where.registry, "repository": where.repository, "key": "k", "signer": "s"}
    return Place(**names, layer=layer, contents=layer, files=layer)


def test_a_moved_tag_leads_nowhere(world: World, tmp_path: Path) -> None:
    wanted = fresh(tmp_path, "moved")
    writer = a_writer(world, "moved")
    (there,) = writer.entries([wanted], Silent()).values()
    data = manifest(CacheName(kind=CacheKind.ENTRY, version=RECIPE_VERSION, keys=(wanted.key,)), [there], writer.key)
    other = CacheName(kind=CacheKind.ENTRY, version=RECIPE_VERSION, keys=("b" * 64,))
    writer.repository.put_manifest(data, MediaType.MANIFEST, other.tag)
    assert set(found_in(world, "moved", wanted.key, "b" * 64)) == {wanted.key}


def test_prune_keeps_what_was_used_lately_and_what_images_use(world: World, tmp_path: Path) -> None:
    writer = a_writer(world, "pruned")
    layers = {name: writer.entries([fresh(tmp_path, name, key=name * 64)], Silent())[name * 64] for name in "abcd"}
    writer.set([layers["a"], layers["b"]], unlapped=True)
    writer.set([layers["c"]], unlapped=True)
    assert writer.failed == ""
    cache = a_repository(world, "pruned")
    today = datetime.now(UTC)
    now = prune(cache, [], [], months=3, today=today, delete=False)
    assert [one.tag for one in now.unused] == [f"k{RECIPE_VERSION}-{'d' * 64}"]
    later = today.replace(year=today.year + 1)
    old = prune(cache, [], [], months=3, today=later, delete=False)
    assert (old.kept, len(old.unused)) == (0, 8)  # four entries, two sets, two marks
    done = prune(cache, [], [], months=3, today=today, delete=True)
    assert (done.removed, done.refused) == (1, "")
    assert set(found_in(world, "pruned", *("abcd"[n] * 64 for n in range(4)))) == {n * 64 for n in "abc"}


def test_a_registry_that_removes_nothing_is_said(world: World, tmp_path: Path) -> None:
    a_writer(world, "kept").entries([fresh(tmp_path, "kept")], Silent())
    world.front.faults.append(Fault(when=lambda m, _: m == "DELETE", times=9, status=405))
    try:
        found = prune(a_repository(world, "kept"), [], [], months=3, today=datetime.now(UTC), delete=True)
    finally:
        world.front.faults.clear()
    assert (found.removed, "405" in found.refused) == (0, True)
    assert "the registry removes nothing" in found.text()
