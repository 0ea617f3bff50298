from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import multiprocessing
import os
import stat
import threading
from pathlib import Path

import pytest

from buildctl.ground.errors import EngineError, LayoutError
from buildctl.oci import files
from buildctl.oci.check import check_layout
from buildctl.oci.digest import Digest
from buildctl.oci.image import REF_NAME, Descriptor, History, MediaType, Platform
from buildctl.oci.layout import JSON_LIMIT, Layout
from tests.support.images import Blobs, config_of, file, image, put, tar

DATA = tar(file("a"))


def modes(root: Path) -> dict[str, int]:
    paths = [root, *root.rglob("*")]
    return {str(p.relative_to(root)): stat.S_IMODE(p.stat().st_mode) for p in paths}


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)


def no_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", refuse)


def forget(layout: Layout, *names: str) -> None:
    """Take names out of index.json."""
    path = layout.root / "index.json"
    index = json.loads(path.read_bytes())
    index["manifests"] = [m for m in index["manifests"] if m["annotations"][REF_NAME] not in names]
    path.write_text(json.dumps(index))


def test_an_empty_layout(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "deep/dist")
    layout.create()
    assert json.loads((layout.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert layout.read_index().manifests == ()
    assert check_layout(layout.root) == []


def test_create_keeps_what_is_there(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, DATA)
    before = snapshot(layout.root)
    layout.create()
    assert snapshot(layout.root) == before


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("linkable", [True, False])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linkable: bool) -> None:
    if not linkable:
        no_links(monkeypatch)
    layout, _ = image(tmp_path, DATA)
    found = modes(layout.root)
    assert {found.pop(name) for name in (".", "blobs", "blobs/sha256")} == {0o755}
    assert set(found.values()) == {0o644}


def test_put_image_writes_what_the_specification_wants(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, DATA)
    manifest = json.loads(layout.open_blob(descriptor.digest).read())
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    (entry,) = json.loads(layout.index_path.read_bytes())["manifests"]
    assert entry == {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": str(descriptor.digest),
        "size": descriptor.size,
        "platform": {"os": "linux", "architecture": "amd64"},
        "annotations": {"org.opencontainers.image.ref.name": "a-amd64"},
    }
    assert layout.config(descriptor).diff_ids == (Digest.of(DATA),)
    assert layout.config(descriptor).platform == descriptor.platform


def test_the_same_input_gives_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    results = []
    for number, names in enumerate((["a", "b", "c"], ["c", "a", "b"])):
        layout, blobs = Layout(tmp_path / f"{number}"), Blobs(tmp_path / "blobs")
        for name in names:
            put(layout, blobs, [blobs.add(tar(file(name)))], name=name)
        layout.put_index(name="z", manifests=[layout.resolve("a")])
        results.append(snapshot(layout.root))
    assert results[0] == results[1]


def test_diff_ids_of_other_layers_are_refused(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    layers = [blobs.add(DATA)]
    wrong = dataclasses.replace(config_of(layers), diff_ids=(Digest.of(b"x"),))
    with pytest.raises(LayoutError, match="diff ids are not those of its layers"):
        Layout(tmp_path / "dist").put_image(name="a", config=wrong, layers=layers, blob=blobs.path)


def test_history_that_does_not_count_the_layers_is_refused(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    layers = [blobs.add(DATA)]
    wrong = dataclasses.replace(config_of(layers), history=(History(created_by="x", empty_layer=True),))
    with pytest.raises(LayoutError, match="0 history steps make layers, but there are 1 layers"):
        Layout(tmp_path / "dist").put_image(name="a", config=wrong, layers=layers, blob=blobs.path)


# blobs


def test_a_blob_is_linked_not_copied(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, DATA)
    digest = layout.manifest(descriptor).layers[0].digest
    assert layout.blob_path(digest).samefile(tmp_path / "blobs" / digest.hex)


def test_a_blob_is_copied_where_it_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_links(monkeypatch)
    layout, descriptor = image(tmp_path, DATA)
    digest = layout.manifest(descriptor).layers[0].digest
    assert not layout.blob_path(digest).samefile(tmp_path / "blobs" / digest.hex)
    assert check_layout(layout.root) == []


def test_a_copy_that_does_not_match_its_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_links(monkeypatch)
    no_sharing(monkeypatch)
    layout, source = Layout(tmp_path / "dist"), tmp_path / "source"
    layout.create()
    source.write_bytes(b"other")
    digest = Digest.of(b"right")
    with pytest.raises(LayoutError, match=f"but must be blob {digest}"):
        layout.add_blob(source, digest, 5)
    assert list(layout.blobs.iterdir()) == []


@pytest.mark.parametrize("there", [b"", b"1234567"])
def test_a_source_of_another_size_is_refused(tmp_path: Path, there: bytes) -> None:
    layout, source = Layout(tmp_path / "dist"), tmp_path / "source"
    layout.create()
    source.write_bytes(there)
    with pytest.raises(LayoutError, match=f"has {len(there)} bytes, but blob .* must have 5"):
        layout.add_blob(source, Digest.of(b"right"), 5)
    assert list(layout.blobs.iterdir()) == []


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "dist")
    layout.create()
    with pytest.raises(LayoutError, match=r"cannot read blob .*nowhere: No such file or directory"):
        layout.add_blob(tmp_path / "nowhere", Digest.of(b"right"), 5)


def test_a_blob_of_the_wrong_size_is_replaced(tmp_path: Path) -> None:
    layout, source = Layout(tmp_path / "dist"), tmp_path / "source"
    layout.create()
    source.write_bytes(b"right")
    digest = Digest.of(b"right")
    layout.blob_path(digest).write_bytes(b"rig")
    layout.add_blob(source, digest, 5)
    assert layout.blob_path(digest).read_bytes() == b"right"


def test_a_small_blob_with_the_wrong_bytes_is_replaced(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "dist")
    layout.create()
    layout.blob_path(Digest.of(b"right")).write_bytes(b"wrong")
    layout.write_bytes("x", b"right")
    assert layout.blob_path(Digest.of(b"right")).read_bytes() == b"right"


def test_nothing_is_written_when_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path, DATA)

    def refuse(*_: object) -> None:
        raise AssertionError("fsync although nothing changed")

    monkeypatch.setattr(os, "fsync", refuse)
    image(tmp_path, DATA)


def test_blobs_are_on_disk_before_the_index_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        synced.append(f"-> {target.name}")
        return real_replace(self, target)

    layout, descriptor = image(tmp_path, DATA)
    (layer,) = layout.manifest(descriptor).layers
    forget(layout, "a-amd64")
    layout.blob_path(layer.digest).unlink()
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    image(tmp_path, DATA)
    temporary = next(name for name in synced if name.startswith(".tmp-"))
    assert synced == [layer.digest.hex, f"-> {layer.digest.hex}", "sha256", temporary, "-> index.json", "dist"]


def test_a_small_blob_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path / "dist")
    layout.create()
    synced: list[bool] = []
    target = layout.blob_path(Digest.of(b"data"))
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(target.exists()))
    layout.write_bytes("x", b"data")
    assert synced == [False, True]  # the file, then its directory


def test_bytes_too_big_for_a_registry_are_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "dist")
    layout.create()
    with pytest.raises(LayoutError, match="exceeds what registries accept"):
        layout.write_bytes("x", bytes(JSON_LIMIT + 1))


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, EngineError), (errno.EDQUOT, EngineError), (5, LayoutError)]
)
def test_a_failing_disk_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    layout = Layout(tmp_path / "dist")
    layout.create()

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match=str(layout.blobs)):
        layout.write_bytes("x", b"data")
    assert list(layout.blobs.iterdir()) == []


# names


def test_a_tag_replaces_the_same_name_only(tmp_path: Path) -> None:
    layout, first = image(tmp_path, DATA)
    layout.tag(first, "other")
    blobs = Blobs(tmp_path / "blobs")
    second = put(layout, blobs, [blobs.add(tar(file("b")))])
    assert layout.resolve("a-amd64").digest == second.digest
    assert layout.resolve("other").digest == first.digest
    assert layout.names() == ("a-amd64", "other")


def test_what_other_tools_wrote_into_the_index_stays(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, DATA)
    value = json.loads(layout.index_path.read_bytes())
    foreign = {**descriptor.to_json(), "artifactType": "text/spdx", "data": "e30="}
    value["manifests"].append(foreign)
    value["subject"] = {"x": 1}
    layout.index_path.write_text(json.dumps(value))
    layout.tag(descriptor, "new")
    after = json.loads(layout.index_path.read_bytes())
    assert foreign in after["manifests"]
    assert after["subject"] == {"x": 1}
    assert len(after["manifests"]) == 3


def test_resolve(tmp_path: Path) -> None:
    layout, amd64 = image(tmp_path, DATA)
    _, arm64 = image(tmp_path, DATA, arch="arm64")
    index = layout.put_index(name="a", manifests=[arm64, amd64])
    assert layout.resolve("a").digest == index.digest
    assert layout.resolve("a", "arm64") == arm64
    assert layout.resolve("a", "amd64") == amd64
    assert layout.resolve("a-arm64", "arm64").digest == arm64.digest
    assert layout.resolve(str(arm64.digest)).digest == arm64.digest
    assert layout.resolve("a").annotations == {REF_NAME: "a"}
    assert [str(m.platform) for m in layout.index(index).manifests] == ["linux/amd64", "linux/arm64"]


def test_resolve_says_what_is_there(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, DATA)
    with pytest.raises(LayoutError, match="has no b") as caught:
        layout.resolve("b")
    assert caught.value.hint == "it has: a-amd64"
    with pytest.raises(LayoutError, match="a-amd64 has no linux/arm64") as caught:
        layout.resolve("a-amd64", "arm64")
    assert caught.value.hint == "it has: linux/amd64"
    with pytest.raises(LayoutError, match="has no sha256:"):
        layout.resolve(str(Digest.of(b"x")))
    layout.put_index(name="a", manifests=[descriptor])
    with pytest.raises(LayoutError, match="a has no linux/arm64"):
        layout.resolve("a", "arm64")


def test_resolve_reads_the_configuration_where_a_foreign_tool_wrote_no_platform(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, DATA)
    layout.tag(dataclasses.replace(descriptor, platform=None), "plain")
    assert layout.resolve("plain", "amd64").platform == Platform(architecture="amd64")
    with pytest.raises(LayoutError):
        layout.resolve("plain", "arm64")


def test_an_index_needs_manifests_that_are_there_and_differ(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, DATA)
    for wrong in ([descriptor, descriptor], [dataclasses.replace(descriptor, platform=None)]):
        with pytest.raises(LayoutError, match="manifests of different platforms"):
            layout.put_index(name="a", manifests=wrong)
    layout.blob_path(descriptor.digest).unlink()
    with pytest.raises(LayoutError, match=f"manifest {descriptor.digest} is not in"):
        layout.put_index(name="a", manifests=[descriptor])
    assert layout.names() == ("a-amd64",)


def test_reading_verifies(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, DATA)
    path = layout.blob_path(descriptor.digest)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"2", b"3", 1))
    with pytest.raises(LayoutError, match="does not match its digest"):
        layout.manifest(descriptor)
    path.write_bytes(data + b" ")
    with pytest.raises(LayoutError, match="as in its descriptor"):
        layout.manifest(descriptor)
    path.unlink()
    with pytest.raises(LayoutError, match="No such file"):
        layout.manifest(descriptor)
    huge = Descriptor(media_type=MediaType.MANIFEST, digest=descriptor.digest, size=JSON_LIMIT + 1)
    with pytest.raises(LayoutError, match="over the limit of"):
        layout.manifest(huge)


def test_a_directory_that_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"is not an OCI layout: it has no index\.json"):
        Layout(tmp_path).read_index()


def test_a_layout_cannot_be_made_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "dist").write_text("")
    with pytest.raises(LayoutError, match="cannot write"):
        Layout(tmp_path / "dist").create()


# pruning and leftovers


def test_prune_removes_what_nothing_leads_to(tmp_path: Path) -> None:
    layout, first = image(tmp_path, DATA)
    blobs = Blobs(tmp_path / "blobs")
    old = layout.reachable([first])
    second = put(layout, blobs, [blobs.add(tar(file("b")))])
    _, arm64 = image(tmp_path, DATA, arch="arm64")
    index = layout.put_index(name="a", manifests=[second, arm64])
    forget(layout, "a-amd64", "a-arm64")
    kept = layout.reachable([index])
    assert len(kept) == 7
    assert set(layout.prune()) == old - kept
    assert {p.name for p in layout.blobs.iterdir()} == {d.hex for d in kept}
    assert check_layout(layout.root) == []
    assert layout.prune() == ()


def test_prune_removes_nothing_when_it_cannot_tell(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, DATA)
    layout.blob_path(descriptor.digest).write_bytes(b"{")
    before = snapshot(layout.root)
    with pytest.raises(LayoutError):
        layout.prune()
    assert snapshot(layout.root) == before


def test_prune_waits_for_writers(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, DATA)
    done = threading.Event()
    with layout._locked(".writers.lock", fcntl.LOCK_SH):
        layout.write_bytes("x", b"not named yet")

        def work() -> None:
            layout.prune()
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        assert not done.wait(0.2)
        assert layout.blob_path(Digest.of(b"not named yet")).exists()
    assert done.wait(5)
    thread.join()
    assert not layout.blob_path(Digest.of(b"not named yet")).exists()


def test_the_next_writer_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    layout, _ = image(tmp_path, DATA)
    stale = [layout.blobs / f"{files.TEMPORARY}1-x", layout.root / f"{files.TEMPORARY}1-y"]
    for path in stale:
        path.write_bytes(b"half")
    with layout._locked(".writers.lock", fcntl.LOCK_SH):  # somebody is at work, perhaps on these
        image(tmp_path, DATA)
        assert all(path.exists() for path in stale)
    image(tmp_path, DATA)
    assert not any(path.exists() for path in stale)


# many at once


def _write_one(arguments: tuple[Path, int]) -> str:
    root, number = arguments
    layout, blobs = Layout(root / "dist"), Blobs(root / f"blobs-{number}")
    shared, own = blobs.add(DATA), blobs.add(tar(file(f"own-{number}", os.urandom(5000))))
    descriptor = put(layout, blobs, [shared, own], name=f"cell-{number}-amd64")
    layout.put_index(name=f"cell-{number}", manifests=[descriptor])
    return str(descriptor.digest)


def test_sixteen_writers_at_once_keep_all_their_entries(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(16) as pool:  # imported already
        digests = pool.map(_write_one, [(tmp_path, n) for n in range(16)], chunksize=1)
    layout = Layout(tmp_path / "dist")
    assert len(layout.names()) == 32
    assert [str(layout.resolve(f"cell-{n}", "amd64").digest) for n in range(16)] == digests
    assert check_layout(layout.root) == []
    assert [p.name for p in layout.blobs.glob(f"{files.TEMPORARY}*")] == []
