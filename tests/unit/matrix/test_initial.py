"""A first matrix.yaml is one that loads, says what was asked for, and replaces nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from buildctl.ground.errors import UsageError
from buildctl.matrix.initial import CI, Wish, files, matrix_text, releases, write_project
from buildctl.matrix.read import parse_matrix

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
    assert releases(["2.7.0"]) == {"2.7": "2.7.0"}


@pytest.mark.parametrize("versions", [("two",), ("2",), ("2.6.0", "2.6.1"), ("2.6,2.7",)])
def test_what_is_not_a_version_is_refused(versions: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        releases(versions)


def test_a_python_that_the_default_base_lacks_is_refused_with_what_it_has() -> None:
    with pytest.raises(UsageError, match=r"has Python 3\.13, not 3\.11"):
        matrix_text(Wish(accelerators=("cpu",), python="3.11"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("/dist/\n")
    assert write_project(tmp_path, ALL) == (
        "matrix.yaml written",
        ".gitignore is there and stays as it is; it lacks /.venv-*/",
    )
    assert (tmp_path / ".gitignore").read_text() == "/dist/\n"
    with pytest.raises(UsageError, match="never overwrites"):
        write_project(tmp_path, ALL)
