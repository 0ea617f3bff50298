"""What is known of a layer without its bytes, and wheels compared with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from buildctl.artifacts.contents import layer_contents
from buildctl.artifacts.facts import KnownFile, facts_of, files_of, parse_contents, parse_files
from buildctl.artifacts.wheels.layer import WheelFile, refuse_overlaps
from buildctl.artifacts.wheels.wheel import Site
from buildctl.ground.errors import ArtifactError, LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Layer
from buildctl.oci.layout import Layout
from tests.support.images import Blobs, config_of, file, tar
from tests.support.servers import wheel

SITE = Site()
PACKAGES = f"{SITE.purelib}/"
METADATA = b"Metadata-Version: 2.1\nName: a\nVersion: 1.0\n"


@pytest.fixture
def layer(tmp_path: Path) -> tuple[Blobs, Layer]:
    blobs = Blobs(tmp_path / "blobs")
    names = {"a/__init__.py": b"x = 1\n", "a/__pycache__/__init__.cpython-313.pyc": b"c", "a/tool": b"t"}
    dist = {"a-1.0.dist-info/METADATA": METADATA, "a-1.0.dist-info/RECORD": b"r", "a-1.0.dist-info/INSTALLER": b"i"}
    entries = [file(PACKAGES + name, data) for name, data in {**names, **dist}.items()]
    return blobs, blobs.add(tar(*entries))


def path_of(layer: tuple[Blobs, Layer]) -> Path:
    return layer[0].path(layer[1].descriptor.digest)


def test_the_contents_are_those_that_the_layer_gives(tmp_path: Path, layer: tuple[Blobs, Layer]) -> None:
    layout = Layout(tmp_path / "dist")
    layout.put_image(name="x", config=config_of([layer[1]]), layers=[layer[1]], blob=layer[0].path)
    facts = facts_of(path_of(layer), layer[1])
    assert parse_contents(facts.contents) == layer_contents(layout, layer[1].descriptor)
    assert [p.name for p in parse_contents(facts.contents).python] == ["a"]


def test_the_files_are_those_that_wheels_bring(layer: tuple[Blobs, Layer]) -> None:
    facts = facts_of(path_of(layer), layer[1])
    files = parse_files(facts.files, "a layer")
    assert {f.path.removeprefix(PACKAGES): f.content for f in files} == {
        "a/__init__.py": Digest.of(b"x = 1\n").hex[:32],
        "a/tool": Digest.of(b"t").hex[:32],
        "a-1.0.dist-info/METADATA": Digest.of(METADATA).hex[:32],
    }
    assert set(files) == set(files_of(path_of(layer), layer[1], "a layer"))
    assert facts == facts_of(path_of(layer), layer[1])


def test_facts_of_something_else_are_not_given(layer: tuple[Blobs, Layer]) -> None:
    with pytest.raises(LayoutError, match="not layer"):
        facts_of(path_of(layer), replace(layer[1], diff_id=Digest.of(b"other")))


@pytest.mark.parametrize("data", [b"", b"x", zstandard.compress(b"{}"), zstandard.compress(b'{"format": 99}')])
def test_other_documents_are_refused(data: bytes) -> None:
    with pytest.raises(LayoutError):
        parse_files(data, "a layer")
    with pytest.raises(LayoutError):
        parse_contents(data)


def test_a_document_that_unpacks_to_too_much_is_refused() -> None:
    with pytest.raises(LayoutError, match="over the limit"):
        parse_files(zstandard.compress(bytes(200 << 20)), "a layer")


def known(path: str, data: bytes, *, executable: bool = False) -> KnownFile:
    content = Digest.of(data).hex[:32]
    return KnownFile(path=PACKAGES + path, label="a layer", size=len(data), executable=executable, content=content)


def made_wheel(folder: Path) -> WheelFile:
    name = "b-1.0-py3-none-any.whl"
    (folder / name).write_bytes(wheel(name, more={"shared/__init__.py": "x = 1\n"}))
    return WheelFile(path=folder / name, filename=name)


def test_a_wheel_and_a_layer_may_bring_the_same_file(tmp_path: Path) -> None:
    refuse_overlaps([made_wheel(tmp_path)], site=SITE, known=[[known("shared/__init__.py", b"x = 1\n")]])


@pytest.mark.parametrize(
    "other", [known("shared/__init__.py", b"x = 2\n"), known("shared/__init__.py", b"x = 1\n", executable=True)]
)
def test_a_wheel_and_a_layer_with_different_files_are_refused(tmp_path: Path, other: KnownFile) -> None:
    with pytest.raises(ArtifactError, match=r"a layer and b-1.0.* would install different files at /.*shared/__init__"):
        refuse_overlaps([made_wheel(tmp_path)], site=SITE, known=[[other]])


def test_two_layers_with_different_files_are_refused() -> None:
    first, second = known("p/s", b"1"), replace(known("p/s", b"2"), label="another layer")
    with pytest.raises(ArtifactError, match="a layer and another layer would install different files"):
        refuse_overlaps([], site=SITE, known=[[first], [second]])


def test_a_file_of_a_layer_is_not_the_folder_of_a_wheel(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="would be both a file and the folder"):
        refuse_overlaps([made_wheel(tmp_path)], site=SITE, known=[[known("shared", b"x")]])
