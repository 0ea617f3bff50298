"""A first matrix.yaml is one that loads, says what was asked for, and replaces nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

from buildctl.ground.errors import UsageError
from buildctl.matrix.cells import DebianBase
from buildctl.matrix.initial import BASES, CI, RELEASES, Wish, files, matrix_text, releases, write_project
from buildctl.matrix.project import Project
from buildctl.matrix.read import parse_matrix
from tests.support.torch_releases import read_table

ALL = Wish(accelerators=("cuda", "cpu", "mps"), versions=("2.10", "2.6"))


def test_it_loads_and_has_what_was_asked_for() -> None:
    matrix = parse_matrix(matrix_text(ALL), Path("matrix.yaml"))
    assert [key for key, _ in matrix.versions] == ["2.6", "2.10"]
    assert [a.name for a in matrix.accelerators] == ["cuda", "cpu", "mps"]
    assert [cell.id for cell in matrix.cells if cell.arch == "amd64"] == ["cuda-2.6-amd64", "cuda-2.10-amd64"]


def test_its_comments_are_settings_that_load_too() -> None:
    text = matrix_text(ALL)
    for line in text.splitlines():
        if line.startswith(("# packages:", "# flavours:", "# images:")):
            text = text.replace(line, line.removeprefix("# "))
    matrix = parse_matrix(text.replace("packages: [], ", ""), Path("matrix.yaml"))
    assert len(matrix.flavours) == 2
    assert matrix.cells[0].apt == ("git",)


@pytest.mark.parametrize("ci", CI)
def test_with_ci_its_policy_is_about_findings_that_exist(ci: str) -> None:
    from buildctl.testing.probes.known import known_findings

    wish = Wish(accelerators=("mps",), ci=ci, source="buildctl==1")
    matrix = parse_matrix(matrix_text(wish), Path("matrix.yaml"))
    matrix.publish.check(known_findings(), "matrix.yaml")
    (workflow,) = [text for name, text in files(wish).items() if name.endswith(".yml")]
    assert "buildctl==1" in workflow
    assert not re.search("@[A-Z]+@", workflow)


@pytest.mark.parametrize(
    ("accelerators", "arches"), [(("cuda",), ["amd64"]), (("cuda", "cpu"), ["amd64", "arm64"]), (("cpu",), ["arm64"])]
)
def test_gitlab_gets_a_job_for_each_architecture_that_there_is(
    accelerators: tuple[str, ...], arches: list[str]
) -> None:
    text = files(Wish(accelerators=accelerators, ci="gitlab"))[".gitlab-ci.yml"]
    assert yaml.safe_load(text)[".each-architecture"]["parallel"]["matrix"] == [{"ARCH": arches}]


def test_about_fifteen_lines() -> None:
    assert len(matrix_text(ALL).splitlines()) <= 20


def test_a_release_is_the_newest_of_its_minor_unless_it_is_given() -> None:
    assert releases(["2.7", "2.10", "2.6.0"]) == {"2.6": "2.6.0", "2.7": "2.7.1", "2.10": "2.10.0"}
    assert releases(["2.12", "9.9"]) == {"2.12": "2.12.1", "9.9": "9.9.0"}


def test_the_known_releases_are_those_whose_wheels_were_looked_into() -> None:
    """A nightly test compares that table with the index."""
    there = {name.split(" ")[0] for name in read_table()}
    assert sorted(there, key=Version) == list(RELEASES)
    assert releases(["2.7.0"]) == {"2.7": "2.7.0"}


@pytest.mark.parametrize("versions", [("two",), ("2",), ("2.6.0", "2.6.1"), ("2.6,2.7",)])
def test_what_is_not_a_version_is_refused(versions: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        releases(versions)


@pytest.mark.parametrize("pythons", [("3.11",), ("3.14",), ("3.13", "3.11", "3.14"), ("3.11", "3.13")])
def test_each_python_has_a_base_and_the_first_is_in_no_name(tmp_path: Path, pythons: tuple[str, ...]) -> None:
    write_project(tmp_path, Wish(accelerators=("cpu", "mps"), pythons=pythons))
    matrix = Project.find(tmp_path).matrix
    suffixes = ["", *(f"-py{python.replace('.', '')}" for python in pythons[1:])]
    images = [cell for cell in matrix.cells if not cell.native]
    assert [cell.name for cell in images] == [f"cpu-2.10{suffix}" for suffix in suffixes]
    bases = [cell.base for cell in images]
    found = [(c.python, b.name, b.suite) for c, b in zip(images, bases, strict=True) if isinstance(b, DebianBase)]
    assert found == [(python, *BASES[python]) for python in pythons]


def test_the_default_base_is_the_same_written_out() -> None:
    first, _ = parse_matrix(matrix_text(Wish(accelerators=("cpu",), pythons=("3.13", "3.11"))), Path("m.yaml")).bases
    (default,) = parse_matrix(matrix_text(Wish(accelerators=("cpu",))), Path("m.yaml")).bases
    assert first == default


def test_a_python_that_no_base_has_is_refused_with_what_the_bases_have() -> None:
    with pytest.raises(UsageError, match=r"has Python 3\.12: debian12 \(bookworm\) has 3\.11, debian13") as caught:
        matrix_text(Wish(accelerators=("cpu",), pythons=("3.13", "3.12")))
    assert "under `bases`" in str(caught.value.hint)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("/dist/\n")
    assert write_project(tmp_path, ALL) == (
        "matrix.yaml written",
        ".gitignore is there and stays as it is; it lacks /.venv-*/",
    )
    assert (tmp_path / ".gitignore").read_text() == "/dist/\n"
    with pytest.raises(UsageError, match="never overwrites"):
        write_project(tmp_path, ALL)
