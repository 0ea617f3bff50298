"""`buildctl disk` and `prune`: what they promise before they remove anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from buildctl.artifacts.usage import CHEAP, Sort
from buildctl.cli.answers.disk import seconds, sorts_of
from buildctl.cli.program import cli
from buildctl.ground.errors import UsageError


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "store"
    for name in ("artifacts/ab/abcd", "unpacked/x/file"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(os.urandom(100_000))
    monkeypatch.setenv("BUILDCTL_CACHE", str(root))
    return root


def run(*args: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(args), input=answer)


def test_disk_counts_by_kind(store: Path) -> None:
    kinds = {kind["kind"]: kind for kind in json.loads(run("disk", "--json").output)["kinds"]}
    assert kinds["downloads"]["items"] == 1
    assert kinds["downloads"]["size"] >= 100_000
    text = run("disk").output
    assert str(store) in text
    assert "prune --downloads" in text


def test_a_dry_run_removes_nothing(store: Path) -> None:
    done = run("prune", "--all", "--dry-run")
    assert "nothing was removed" in done.output
    assert (store / "artifacts/ab/abcd").exists()


def test_what_costs_a_download_is_asked_for(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run("prune", "--downloads")
    assert isinstance(refused.exception, UsageError)
    assert "--yes" in str(refused.exception.hint)
    monkeypatch.setattr("buildctl.cli.answers.disk.on_terminal", lambda: True)
    assert "nothing was removed" in run("prune", "--downloads", answer="n\n").output
    assert (store / "artifacts/ab/abcd").exists()
    assert "freed" in run("prune", "--downloads", answer="y\n").output
    assert not (store / "artifacts/ab/abcd").exists()
    assert (store / "unpacked/x").exists()


def test_what_is_made_again_is_not_asked_for(store: Path) -> None:
    done = run("prune")
    assert done.exit_code == 0
    assert (store / "artifacts/ab/abcd").exists()
    assert not (store / "unpacked/x").exists()
    assert "unpacked trees: 1" in done.output


def test_what_was_used_lately_stays(store: Path) -> None:
    assert "freed 0 B" in run("prune", "--unpacked", "--older-than", "1h").output
    assert (store / "unpacked/x").exists()


@pytest.mark.parametrize(("age", "expected"), [(None, 0), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)])
def test_ages(age: str | None, expected: int) -> None:
    assert seconds(age) == expected


@pytest.mark.parametrize("age", ["30", "d", "1.5d", "30 days", "-1d"])
def test_what_is_not_an_age(age: str) -> None:
    with pytest.raises(UsageError, match="not an age"):
        seconds(age)


def test_kinds_add_up() -> None:
    assert sorts_of(unpacked=False, downloads=False, everything=False) == CHEAP
    assert sorts_of(unpacked=True, downloads=True, everything=False) == (Sort.UNPACKED, Sort.DOWNLOADS)
    assert sorts_of(unpacked=False, downloads=False, everything=True) == tuple(Sort)
    with pytest.raises(UsageError):
        sorts_of(unpacked=True, downloads=False, everything=True)
