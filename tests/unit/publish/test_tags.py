from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import BuildctlError
from buildctl.lock.claims import Claims, claims_of
from buildctl.matrix.cells import Cell
from buildctl.matrix.read import parse_matrix
from buildctl.publish.tags import Tag, TagKind, tags_of
from tests.support.projects import wheel_lock

MATRIX = """\
python: "3.13"
versions: {{"2.6": 2.6.0}}
packages: [numpy]
flavours: [runtime, devel]
bases: {{debian13: {{debian: trixie, packages: [python3], devel: [gcc]}}}}
accelerators:
  cuda: {{arch: [{cuda}], base: debian13, devices: {{built: [cuda]}}}}
  cpu: {{arch: [amd64, arm64], base: debian13, devices: {{never: [cuda]}}}}
  mps: {{native: macos, arch: [arm64], devices: {{built: [mps]}}}}
"""


def rule(cuda: str = "amd64", of: list[str] | None = None) -> tuple[Tag, ...]:
    cells = parse_matrix(MATRIX.format(cuda=cuda), Path("matrix.yaml")).cells
    return tags_of(cells, {c.id: claims_of(c, wheel_lock(c)) for c in cells if not c.native}, of=of)


def over(tags: tuple[Tag, ...]) -> dict[str, list[str]]:
    return {tag.name("REV"): [cell.id for cell in tag.cells] for tag in tags}


def test_the_universal_tag_is_cuda_where_that_exists_and_cpu_elsewhere() -> None:
    assert over(rule())["2.6"] == ["cuda-2.6-amd64", "cpu-2.6-arm64"]
    assert over(rule())["2.6-devel"] == ["cuda-2.6-devel-amd64", "cpu-2.6-devel-arm64"]
    assert over(rule("amd64, arm64"))["2.6"] == ["cuda-2.6-amd64", "cuda-2.6-arm64"]


def test_every_tag_of_an_image() -> None:
    assert over(rule(of=["cpu-2.6-arm64"])) == {
        "2.6.0-cpu-py3.13-arm64-REV": ["cpu-2.6-arm64"],
        "2.6.0-cpu-py3.13-REV": ["cpu-2.6-amd64", "cpu-2.6-arm64"],
        "cpu-2.6": ["cpu-2.6-amd64", "cpu-2.6-arm64"],
        "2.6-cpu": ["cpu-2.6-amd64", "cpu-2.6-arm64"],
        "2.6": ["cuda-2.6-amd64", "cpu-2.6-arm64"],
    }


def test_the_cuda_version_is_the_locked_one_and_stands_in_the_tag() -> None:
    assert "2.6-cuda12.4-devel" in over(rule())
    assert "2.6.0-cuda12.4-py3.13-devel-amd64-REV" in over(rule())


def test_what_is_immutable_moves_first_and_the_universal_tag_last() -> None:
    kinds = [tag.kind for tag in rule()]
    assert kinds == sorted(kinds, key=list(TagKind).index)


def test_native_environments_have_no_tags() -> None:
    assert not [cell for tag in rule() for cell in tag.cells if cell.native]


def test_architectures_with_different_cuda_share_the_image_name_only() -> None:
    cells = [c for c in parse_matrix(MATRIX.format(cuda="amd64, arm64"), Path("m")).cells if c.image == "cuda-2.6"]
    found = over(tags_of(cells, {c.id: claims(c, {"amd64": "13.0", "arm64": "12.8"}[c.arch]) for c in cells}))
    assert found["cuda-2.6"] == ["cuda-2.6-amd64", "cuda-2.6-arm64"]
    assert found["2.6-cuda13.0"] == ["cuda-2.6-amd64"]
    assert found["2.6-cuda12.8"] == ["cuda-2.6-arm64"]


def test_two_accelerators_with_one_tag_are_refused() -> None:
    cells = [c for c in parse_matrix(MATRIX.format(cuda="amd64"), Path("m")).cells if not c.native]
    with pytest.raises(BuildctlError, match="two tags would be named"):
        tags_of(cells, {c.id: claims(c, "12.4") for c in cells})


def claims(cell: Cell, cuda: str) -> Claims:
    return Claims(
        torch="2.6.0", python="3.13", arch=cell.arch, accelerator=cell.accelerator.name, versions={"cuda": cuda}
    )


def test_another_python_has_tags_of_its_own() -> None:
    text = MATRIX.format(cuda="amd64").replace('python: "3.13"', 'python: ["3.13", "3.11"]')
    cells = parse_matrix(text, Path("matrix.yaml")).cells
    tags = tags_of(cells, {c.id: claims_of(c, wheel_lock(c)) for c in cells if not c.native})
    assert over(tags)["2.6"] == ["cuda-2.6-amd64", "cpu-2.6-arm64"]
    assert over(tags)["2.6-py311"] == ["cuda-2.6-py311-amd64", "cpu-2.6-py311-arm64"]
    assert over(tags)["2.6-cuda12.4-py311-devel"] == ["cuda-2.6-py311-devel-amd64"]
    assert over(tags)["2.6.0-cuda12.4-py3.11-amd64-REV"] == ["cuda-2.6-py311-amd64"]
