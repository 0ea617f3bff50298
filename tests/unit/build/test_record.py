from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.build.engine import BuildResult, Built, LayerWork
from buildctl.build.record import keep_record, read_record
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, MediaType
from buildctl.oci.layout import Layout


def result(*work: LayerWork) -> BuildResult:
    descriptor = Descriptor(media_type=MediaType.MANIFEST, digest=Digest.of(b"x"), size=1)
    built = Built(name="cpu-2.6-arm64", descriptor=descriptor, size=9, made=len(work), reused=2, seconds=1, work=work)
    return BuildResult(layout="dist", images=(built,), loaded=(), seconds=5.0, began=100.0)


def test_what_was_made_is_kept_from_the_start_of_the_build(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    keep_record(layout, result(LayerWork(label="torch 2.6.0", began=101.5, seconds=3.0)).to_json())
    found = read_record(layout)
    assert found is not None
    assert [(w.image, w.layer, w.began, w.seconds) for w in found.work] == [("cpu-2.6-arm64", "torch 2.6.0", 1.5, 3.0)]
    assert (found.seconds, found.images[0].made, found.images[0].reused) == (5.0, 1, 2)
    assert found.at.endswith("Z")


def test_a_build_that_made_nothing_leaves_the_last_one(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    keep_record(layout, result().to_json())
    assert read_record(layout) is None


def test_a_folder_in_its_place_goes(tmp_path: Path) -> None:
    (tmp_path / "builds" / "last.json" / "inside").mkdir(parents=True)
    keep_record(Layout(tmp_path), result(LayerWork(label="torch 2.6.0", began=101.5, seconds=3.0)).to_json())
    assert read_record(Layout(tmp_path)) is not None


@pytest.mark.parametrize("text", ["", "[]", '{"at": "x", "seconds": 1, "images": [{}]}'])
def test_a_damaged_record_is_an_error_with_a_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "builds").mkdir()
    (tmp_path / "builds" / "last.json").write_text(text)
    with pytest.raises(LayoutError, match="is not the record of a build") as problem:
        read_record(Layout(tmp_path))
    assert "remove it" in (problem.value.hint or "")
