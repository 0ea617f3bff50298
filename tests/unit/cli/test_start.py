"""`buildctl init` and `buildctl plan` as commands: what they ask, refuse and promise."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import requests  # noqa: F401 - on a Mac it asks for a module that Linux lacks
from click.testing import CliRunner

from buildctl.cli.answers.forecast import Forecast
from buildctl.cli.program import cli
from buildctl.cli.start import init
from buildctl.ground.errors import EngineError, MatrixError, UnknownNameError, UsageError
from buildctl.matrix.read import load_matrix


def asked(folder: Path, *args: str, answers: str | None = None) -> str:
    done = CliRunner().invoke(init, [str(folder), *args], input=answers)
    if done.exception:
        raise done.exception
    return done.output


def test_options_are_enough_for_scripts(tmp_path: Path) -> None:
    out = asked(tmp_path / "new", "--cuda", "2.6,2.10", "--cpu", "--mps", "--python", "3.13", "--ci", "gitlab")
    matrix = load_matrix(tmp_path / "new" / "matrix.yaml")
    assert [a.name for a in matrix.accelerators] == ["cuda", "cpu", "mps"]
    assert [key for key, _ in matrix.versions] == ["2.6", "2.10"]
    assert (tmp_path / "new" / ".gitlab-ci.yml").is_file()
    assert f"cd {tmp_path / 'new'}\n  buildctl plan cuda-2.6\n  buildctl build cuda-2.6\n" in out


def test_an_option_without_versions_does_not_eat_the_next_one(tmp_path: Path) -> None:
    asked(tmp_path, "--cpu", "--torch", "2.10")
    assert [key for key, _ in load_matrix(tmp_path / "matrix.yaml").versions] == ["2.10"]


def test_different_versions_are_refused_with_the_way_to_say_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="same versions") as caught:
        asked(tmp_path / "new", "--cuda", "2.6", "--cpu", "2.10")
    assert str(caught.value.hint).startswith("--torch 2.6,2.10")
    assert not (tmp_path / "new").exists()


def test_a_release_that_nobody_here_knows_is_named_at_once(tmp_path: Path) -> None:
    """It may be newer than this program, so it is not refused."""
    out = asked(tmp_path / "new", "--cuda", "9.9,2.10,2.7.9")
    assert "torch 2.7.9, 9.9.0 is unknown here (known: 2.5.0 to 2.15.0); `buildctl lock` asks" in " ".join(out.split())
    assert "unknown" not in asked(tmp_path / "old", "--cuda", "2.10,2.7,2.12.1")


def test_what_cannot_exist_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"cpu-2\.15 in a container on amd64"):
        asked(tmp_path / "new", "--cpu", "--torch", "2.15")
    assert not (tmp_path / "new").exists()
    out = asked(tmp_path / "new", "--cpu", "--cuda", "--torch", "2.15,2.10")
    assert "there will be no cpu-2.15: cpu-2.15 in a container on amd64" in " ".join(out.split())
    assert "buildctl build cpu-2.10" in out


def test_a_person_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildctl.cli.start.on_terminal", lambda: True)
    out = asked(tmp_path, answers="cpu,mps\n2.6, 2.10\ngithub\n")
    assert "Apple GPU" in out
    matrix = load_matrix(tmp_path / "matrix.yaml")
    assert [a.name for a in matrix.accelerators] == ["cpu", "mps"]
    assert (tmp_path / ".github/workflows/images.yml").is_file()
    out = asked(tmp_path / "other", answers="tpu\n,\ncpu\nnew\n2.10\nnone\n")
    assert "unknown accelerator 'tpu'; one or more of cuda, cpu, mps" in out
    assert "'new' is not a version of torch; for example 2.6,2.10" in out
    assert [a.name for a in load_matrix(tmp_path / "other" / "matrix.yaml").accelerators] == ["cpu"]
    with pytest.raises(UsageError, match="never overwrites"):  # before anything is asked
        asked(tmp_path, answers="")


def test_a_script_is_not_asked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="what for"):
        asked(tmp_path)


def test_check_names_what_is_not_locked_yet(tmp_path: Path) -> None:
    """Else it would answer "which one?" from half of the matrix."""
    asked(tmp_path, "--cuda", "2.10", "--cpu")
    host = Path(__file__).parents[2] / "support" / "hosts" / "h200.json"
    command = ["--project", str(tmp_path), "check", "--host", str(host)]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-3:] == ["", "Not locked, so unknown: cuda-2.10, cpu-2.10", "    buildctl lock"]
    refused = CliRunner().invoke(cli, [*command, "cuda-2.10"]).exception
    assert isinstance(refused, UnknownNameError)
    assert refused.hint == "run `buildctl lock cuda-2.10`"


@pytest.mark.parametrize("command", ["plan", "build", "fetch", "bases", "rebase"])
def test_what_makes_layers_says_on_a_mac_at_once_that_it_needs_linux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    asked(tmp_path, "--cpu")
    monkeypatch.setattr(sys, "platform", "darwin")
    done = CliRunner().invoke(cli, ["--project", str(tmp_path), command])
    assert isinstance(done.exception, EngineError)
    assert f"`buildctl {command}` needs Linux, and this is macOS" in done.exception.message
    assert sorted(p.name for p in tmp_path.iterdir()) == [".gitignore", "matrix.yaml"]


@pytest.mark.parametrize("command", [["matrix"], ["matrix", "--explain"], ["matrix", "cpu-2.10", "--json"]])
def test_what_does_not_need_linux_works_on_a_mac(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    asked(tmp_path, "--cpu")
    monkeypatch.setattr(sys, "platform", "darwin")
    done = CliRunner().invoke(cli, ["--project", str(tmp_path), *command])
    assert done.exit_code == 0, done.exception
    assert "cpu" in done.output


def test_a_plan_adds_up_and_says_whether_it_fits() -> None:
    found = Forecast(
        resolve=(("images/cpu-2.6/requirements.arm64.txt", "does not exist"),),
        images=(("cpu-2.6-arm64", 213_000_000),),
        downloads=115,
        download_size=200_000_000,
        make=(("torch 2.6.0", 96_000_000), ("14 small wheels", 60_000_000)),
        reuse=1,
        reuse_size=57_000_000,
        docker="no Docker daemon responds",
        docker_answers=False,
        free=300_000_000,
    )
    text = found.text()
    assert "needs about 356 MB of disk, 300 MB are free: NOT enough" in text
    assert "115 files" in text
    assert "nothing was kept: `buildctl build` resolves it again" in text
    assert "nothing was kept" not in replace(found, resolve=()).text()
    assert max(map(len, text.splitlines())) <= 80
    assert found.to_json()["download"] == {"artifacts": 115, "size": 200_000_000}
