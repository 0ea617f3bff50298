"""What matrix.yaml means where it does not say otherwise, and `matrix --explain`, which tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from buildctl.matrix.cells import DebianBase, Os
from buildctl.matrix.defaults import defaults
from buildctl.matrix.explain import MatrixSetting, settings
from buildctl.matrix.matrix import Matrix
from buildctl.matrix.read import load_matrix, parse_matrix
from tests.conftest import ROOT

SHORT = """\
versions:
  "2.6": 2.6.0
  "2.15": 2.15.0
accelerators:
  cuda: {}
  cpu: {}
  mps: {}
"""


def parse(text: str) -> Matrix:
    return parse_matrix(text, Path("matrix.yaml"))


def ids(matrix: Matrix) -> list[str]:
    return [cell.id for cell in matrix.cells]


def test_versions_and_accelerators_are_enough() -> None:
    matrix = parse(SHORT)
    assert ids(matrix) == [
        "cuda-2.6-amd64",
        "cuda-2.15-amd64",
        "cuda-2.15-arm64",
        "cpu-2.6-arm64",
        "mps-2.6-arm64",
        "mps-2.15-arm64",
    ]
    assert {cell.python for cell in matrix.cells} == {"3.13"}
    assert "torchaudio==2.6.0" in matrix.cells[0].requirements


def test_the_defaults_are_what_the_projects_own_matrix_writes_out() -> None:
    """Whoever starts with a short file gets the images of this repository, and its base locks fit."""
    ours, short = load_matrix(ROOT / "matrix.yaml"), parse(SHORT)
    assert short.bases == ours.bases
    assert (short.pythons, defaults()["packages"]) == (
        ours.pythons,
        yaml.safe_load((ROOT / "matrix.yaml").read_text())["packages"],
    )
    known = {cell.id: cell.requirements for cell in ours.cells}
    assert {cell.id: cell.requirements for cell in short.cells}.items() <= known.items()


def test_the_reasons_are_known_without_writing_them_down() -> None:
    combination = parse(SHORT).explain("cpu", "2.6", os=Os.LINUX, arch="amd64")
    assert "CUDA builds" in combination.reason
    assert "accelerators.cpu.index" in combination.instead


@pytest.mark.parametrize("given", ["index: https://index.example/cpu", "arch: [amd64, arm64]"])
def test_facts_about_pypi_do_not_hold_for_what_names_an_index_or_its_architectures(given: str) -> None:
    matrix = parse(SHORT.replace("cpu: {}", f"cpu: {{{given}}}"))
    assert {"cpu-2.6-amd64", "cpu-2.15-amd64", "cpu-2.15-arm64"} <= set(ids(matrix))


def test_exclusions_hold_for_accelerators_with_other_names() -> None:
    matrix = parse(SHORT.replace("cpu: {}", "mine: {kind: cpu}"))
    assert "mine-2.6-arm64" in ids(matrix)
    assert "accelerators.mine.index" in matrix.explain("mine", "2.15", os=Os.LINUX, arch="arm64").instead


def test_what_is_given_replaces_its_default_whole() -> None:
    own = "bases:\n  mine: {debian: trixie, packages: [python3.13]}\nexclude: []\npackages: []\n"
    matrix = parse(SHORT + own)
    assert [base.name for base in matrix.bases] == ["mine"]
    assert isinstance(matrix.cells[0].base, DebianBase)
    assert matrix.cells[0].requirements == ("torch==2.6.0",)
    assert "cpu-2.6-amd64" in ids(matrix)


def test_every_setting_is_told_with_its_line_or_as_a_default(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text(SHORT)
    found = {setting.key: setting for setting in settings(path)}
    assert found['versions["2.15"]'] == MatrixSetting(key='versions["2.15"]', value="2.15.0", line=3)
    assert (found["accelerators.cuda.base"].shown(), found["accelerators.cuda.base"].source) == ("debian13", "default")
    assert found["exclude[0]"].shown() == "kind mps, os linux"
    assert found["bases.debian13.devel"].shown() == "[g++, gcc, libc6-dev, python3.13-dev]"
    assert found["python"].to_json() == {"key": "python", "value": "3.13", "line": None, "default": True}


def test_a_file_that_says_everything_has_no_default() -> None:
    assert {setting.source for setting in settings(ROOT / "matrix.yaml")}.isdisjoint({"default"})
