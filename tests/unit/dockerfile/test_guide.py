"""images/README.md is true: every committed file of that folder is in it once, with a command that exists."""

from __future__ import annotations

import re
import subprocess

import pytest

from buildctl.cli.program import cli
from buildctl.dockerfile.common import COMMON
from buildctl.dockerfile.guide import WRITTEN, Written
from buildctl.matrix.cells import Flavour
from buildctl.matrix.project import Project
from tests.conftest import ROOT

PARTS = {
    "NAME": r"[a-z][\w.-]*",
    "BASE": r"[a-z][\w.-]*",
    "FLAVOUR": "|".join(Flavour),
    "ARCH": "amd64|arm64",
}


def pattern(row: Written) -> re.Pattern[str]:
    words = re.split(r"\b(NAME|BASE|FLAVOUR|ARCH)\b", row.path)
    return re.compile("".join(f"(?:{PARTS[word]})" if word in PARTS else re.escape(word) for word in words))


def rows_of(path: str) -> list[str]:
    return [row.path for row in WRITTEN if pattern(row).fullmatch(path)]


def test_every_committed_file_is_in_the_table_once() -> None:
    listed = subprocess.run(["git", "ls-files", "images"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = listed.split() or [str(path.relative_to(ROOT)) for path in (ROOT / "images").rglob("*") if path.is_file()]
    assert {path: len(rows_of(path.removeprefix("images/"))) for path in files} == dict.fromkeys(files, 1)


def test_every_file_that_a_project_may_have_is_in_the_table() -> None:
    project = Project.find(ROOT)
    for cell in project.matrix.cells:
        paths = [project.wheel_lock(cell.name, cell.arch), *(project.common / name for name in COMMON)]
        if not cell.native:
            paths += [project.dockerfile(cell.name), project.constraints(cell.name)]
            paths += [project.added_lock(cell), *project.debian_locks(cell)]
        for path in paths:
            assert len(rows_of(str(path.relative_to(project.images)))) == 1, path


@pytest.mark.parametrize("row", WRITTEN, ids=lambda row: row.path)
def test_its_commands_exist_and_what_to_edit_does_too(row: Written) -> None:
    program, command = row.command.split()
    assert (program, command in cli.commands) == ("buildctl", True)
    for source in re.findall(r"`([^`]+)`", row.source):
        assert (ROOT / source).exists(), source
