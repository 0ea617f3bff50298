"""`buildctl export` without programs: what is written, and that what goes wrong leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildctl.artifacts.carried import opened
from buildctl.ground.errors import (
    BuildctlError,
    EngineError,
    LayoutError,
    ToolError,
    UnknownNameError,
    UsageError,
    WriteError,
)
from buildctl.oci.layout import Layout
from buildctl.publish.export import export as module
from buildctl.publish.export.archives import SINCE
from buildctl.publish.export.export import Exported, ExportOptions, export
from buildctl.publish.export.squashfs import find_packer
from buildctl.registry.target import find_target
from tests.support.images import file, folder, image, tar
from tests.support.projects import Small, small

Wrote = Callable[..., Exported]


@pytest.fixture
def project(tmp_path: Path) -> Small:
    return small(tmp_path / "project")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILDCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wrote(project: Small, tmp_path: Path, store: Path) -> Wrote:
    def write(
        *names: str, form: str = "oci-archive", to: str = "out", bare: bool = True, **options: object
    ) -> Exported:
        wanted = ExportOptions(form=form, output=tmp_path / to, bare=bare, **options)  # type: ignore[arg-type]
        return export(lambda: project.project, names, wanted)

    assert store
    return write


def read_json(archive: tarfile.TarFile, name: str) -> Any:
    body = archive.extractfile(name)
    assert body is not None
    return json.load(body)


def left(tmp_path: Path) -> list[str]:
    """What is in the folder besides what the fixtures made."""
    return sorted(p.name for p in tmp_path.iterdir() if p.name not in ("project", "cache", "dist", "blobs"))


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_an_archive_holds_the_images_and_is_the_same_twice(
    wrote: Wrote, project: Small, tmp_path: Path, form: str
) -> None:
    names = ("cuda-2.6-amd64", "cpu-2.6-arm64")
    for to in ("one", "two"):
        wrote(*names, form=form, to=to)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with tarfile.open(tmp_path / "one") as archive:
        members = [info.name for info in archive]
        old = read_json(archive, "manifest.json")
    assert len(members) == len(set(members))  # the shared layer is there once
    assert [entry["RepoTags"] for entry in old] == [[f"pytorch:{name}"] for name in names]
    reached = project.layout.reachable(project.images().values())
    manifests = {d.digest for d in project.images().values()} if form == "docker-archive" else set()
    assert {f"blobs/sha256/{d.hex}" for d in reached - manifests} <= set(members)
    assert left(tmp_path) == ["one", "two"]


def test_an_archive_is_read_as_the_layout_that_it_was(wrote: Wrote, project: Small, tmp_path: Path) -> None:
    wrote("cuda-2.6-amd64", "cpu-2.6-arm64")
    text = opened(f"{tmp_path / 'out'}:cpu-2.6-arm64")
    target = find_target(text)
    assert target is not None
    assert [i.descriptor.digest for i in target.images] == [project.images()["cpu-2.6-arm64"].digest]
    assert opened(f"oci-archive:{tmp_path / 'out'}") == text.removesuffix(":cpu-2.6-arm64")


def test_since_leaves_out_the_layers_that_are_there(wrote: Wrote, project: Small, tmp_path: Path) -> None:
    wrote("cuda-2.6-amd64", to="first")
    before = project.images()["cuda-2.6-amd64"]
    project.build("cuda-2.6-amd64")
    found = wrote("cuda-2.6-amd64", to="second", since=opened(str(tmp_path / "first")))
    now = project.images()["cuda-2.6-amd64"]
    shared, new = project.layout.manifest(now).layers
    with tarfile.open(tmp_path / "second") as archive:
        members = set(archive.getnames())
        index = read_json(archive, "index.json")
    assert f"blobs/sha256/{shared.digest.hex}" not in members
    assert f"blobs/sha256/{new.digest.hex}" in members
    assert found.left_out == shared.size
    assert index["annotations"] == {SINCE: "first"}
    assert before.digest != now.digest
    # the other side has the first, so it reads the second whole
    whole = Layout(Path(opened(str(tmp_path / "second"))))
    assert whole.blob_path(shared.digest).is_file()


def test_a_folder_is_the_tree_of_the_image(wrote: Wrote, tmp_path: Path) -> None:
    layout, _ = image(tmp_path, tar(folder("etc"), file("etc/x", b"1"), file("gone")), tar(file(".wh.gone", b"")))
    found = wrote(f"{layout.root}:a-amd64", form="dir")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")) == ["etc", "etc/x"]
    assert found.bytes is None


@pytest.mark.parametrize(
    ("names", "options", "kind", "says", "hint"),
    [
        (("cpv-2.6",), {}, UnknownNameError, "'cpv-2.6'", ""),
        (("cuda-2.6-amd64", "cpu-2.6-arm64"), {"form": "dir"}, UsageError, "holds one image", "--arch"),
        (("cuda-2.6-amd64",), {"form": "dir", "since": "x"}, UsageError, "for oci-archive, not dir", ""),
        (("cuda-2.6-amd64",), {"to": "no/such/folder/x"}, WriteError, "cannot write", ""),
    ],
)
def test_what_cannot_be_exported_is_one_error_and_leaves_nothing(
    wrote: Wrote, tmp_path: Path, names: tuple[str, ...], options: dict[str, object], kind: type[BuildctlError],
    says: str, hint: str,
) -> None:  # fmt: skip
    with pytest.raises(kind, match=says) as caught:
        wrote(*names, **options)
    assert hint in (caught.value.hint or "")
    assert left(tmp_path) == []


def test_what_is_not_built_names_the_command(wrote: Wrote, project: Small, tmp_path: Path) -> None:
    empty = Layout(tmp_path / "project" / "empty")
    empty.create()
    index = project.layout.index_path
    index.write_bytes(empty.index_path.read_bytes())
    with pytest.raises(LayoutError, match=r"cuda-2\.6 is not built") as caught:
        wrote("cuda-2.6")
    assert caught.value.hint == "buildctl build cuda-2.6"
    assert left(tmp_path) == []


def test_an_image_without_a_report_is_not_carried(wrote: Wrote, tmp_path: Path) -> None:
    layout, _ = image(tmp_path, tar(file("a")))
    with pytest.raises(LayoutError, match="has no report about sha256:") as caught:
        wrote(f"{layout.root}:a-amd64", bare=False)
    assert "buildctl test" in (caught.value.hint or "")
    assert left(tmp_path) == []


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive", "dir"])
@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_what_exists_is_never_replaced(wrote: Wrote, tmp_path: Path, form: str, there: str) -> None:
    target = tmp_path / "out"
    match there:
        case "file":
            target.write_text("mine")
        case "folder":
            target.mkdir()
        case _:
            target.symlink_to("nowhere")
    with pytest.raises(WriteError, match="exists") as caught:
        wrote("cuda-2.6-amd64", form=form)
    assert "--output" in (caught.value.hint or "")
    assert left(tmp_path) == ["out"]
    assert there != "file" or target.read_text() == "mine"


def test_a_full_disk_leaves_nothing(wrote: Wrote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Iterator[bytes]:
        yield b"x" * 4096
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "oci_archive", full)
    with pytest.raises(EngineError, match="the disk is full"):
        wrote("cuda-2.6-amd64")
    assert left(tmp_path) == []


def test_a_layer_that_is_damaged_leaves_nothing(wrote: Wrote, project: Small, tmp_path: Path) -> None:
    layer = project.layout.manifest(project.images()["cuda-2.6-amd64"]).layers[1]
    path = project.layout.blob_path(layer.digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(LayoutError, match="does not match its digest"):
        wrote("cuda-2.6-amd64")
    assert left(tmp_path) == []


def test_without_a_packer_the_hint_says_what_to_install(
    wrote: Wrote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildctl.publish.export.squashfs.which", lambda _: None)
    with pytest.raises(ToolError, match="which is not installed") as caught:
        wrote("cuda-2.6-amd64", form="squashfs")
    assert "squashfs-tools-ng" in (caught.value.hint or "")
    assert left(tmp_path) == []
    with pytest.raises(ToolError):
        find_packer()
