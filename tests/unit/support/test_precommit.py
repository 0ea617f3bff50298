""".pre-commit-config.yaml runs what `make check` runs, on the same files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

CONFIG = ROOT / ".pre-commit-config.yaml"


def commands() -> list[list[str]]:
    """The words of each command of `make check`, with the patterns of files as they are there."""
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck: ")[2].partition("\n\n")[0]
    lines = [line.removeprefix("\t@") for line in recipe.splitlines()[1:]]
    return [shlex.split(line.replace("$(BUILDCTL)", ".venv/bin/buildctl")) for line in lines]


def hooks() -> list[dict[str, Any]]:
    return [hook for repo in yaml.safe_load(CONFIG.read_text())["repos"] for hook in repo["hooks"]]


def paths(patterns: list[str]) -> set[str]:
    return {str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern) if p.is_file()}


def committed() -> list[str]:
    folders = [
        p for p in ROOT.iterdir() if p.is_dir() and (p.name == ".github" or p.name[0] != ".") and p.name != "dist"
    ]
    files = [p for p in ROOT.iterdir() if p.is_file()] + [p for folder in folders for p in folder.rglob("*")]
    return [str(p.relative_to(ROOT)) for p in files if p.is_file()]


def test_each_command_is_a_hook_in_the_same_order() -> None:
    made, hooked = commands(), hooks()
    assert len(made) > 10
    for command, hook in zip(made, hooked, strict=True):
        entry = shlex.split(hook["entry"])
        if hook.get("pass_filenames", True):
            assert command[: len(entry)] == entry
            wanted = paths(command[len(entry) :])
            assert wanted
            assert {path for path in committed() if re.search(hook["files"], path)} == wanted
        else:
            assert command == entry
        assert hook["language"] == "system", hook["id"]


def test_every_hook_looks_at_a_file_that_is_there() -> None:
    files = committed()
    assert [hook["id"] for hook in hooks() if not any(re.search(hook["files"], path) for path in files)] == []


def test_pre_commit_takes_the_file(tmp_path: Path) -> None:
    clientlib = pytest.importorskip("pre_commit.clientlib", reason="NOT RUN: pre-commit is not in this environment")
    broken = tmp_path / "config.yaml"
    broken.write_text(CONFIG.read_text().replace("language: system", "language: none", 1))
    assert len(clientlib.load_config(CONFIG)["repos"]) == 1
    with pytest.raises(clientlib.InvalidConfigError, match="none"):
        clientlib.load_config(broken)
