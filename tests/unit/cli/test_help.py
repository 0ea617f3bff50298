"""`buildctl --help` in 80 columns, -v and -q, and the tables that are written from the code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from buildctl.cli import table
from buildctl.cli.commands import ENVIRONMENT
from buildctl.cli.program import cli
from buildctl.console import log
from buildctl.ground.errors import ToolError
from buildctl.ground.run import run
from tests.conftest import ROOT

LAZY = """
import sys
from buildctl.cli import main
sys.argv = ["buildctl", "--help"]
try:
    main()
except SystemExit:
    pass
heavy = {"requests", "rich", "docker", "yaml"} & {name.partition(".")[0] for name in sys.modules}
print(*sorted(heavy), file=sys.stderr)
"""


def helped(*argv: str) -> list[str]:
    found = CliRunner().invoke(cli, [*argv, "--help"], terminal_width=80)
    assert found.exit_code == 0
    return found.output.splitlines()


def test_the_help_fits_80_columns_and_nothing_is_cut_off() -> None:
    lines = helped()
    assert max(map(len, lines)) <= 80
    for title in ("Build:", "Test:", "Ask:", "Publish:", "Carry:", "Keep:", "Environment:", "Exit codes:"):
        assert title in lines
    for command in cli.commands.values():
        assert any(line.split(maxsplit=1) == [command.name, command.short_help] for line in lines), command.name
    for name, meaning in ENVIRONMENT.items():
        assert any(line.split(maxsplit=1) == [name, meaning] for line in lines), name
    assert not [line for line in lines if line.endswith("...") and "Usage" not in line and "COMMAND" not in line]


COMMANDS = [
    (name, *sub)
    for name, command in sorted(cli.commands.items())
    for sub in [(), *((text,) for text in getattr(command, "commands", ()))]
]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_the_help_of_each_command_fits_and_names_both_voices(argv: tuple[str, ...]) -> None:
    lines = helped(*argv)
    assert [line for line in lines if len(line) > 80] == []
    text = "\n".join(lines)
    assert "-v, --verbose" in text
    assert "-q, --quiet" in text


def test_the_help_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("Usage: buildctl ")
    assert done.stderr.strip() == ""


@pytest.fixture
def normal() -> object:
    yield
    log.set_level(log.Level.NORMAL)


@pytest.mark.usefixtures("normal")
def test_quiet_is_only_the_answer_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_level(log.Level.QUIET)
    log.say("a story")
    log.detail("a detail")
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("normal")
def test_verbose_tells_what_is_run_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    run(["true", "https://user:secret@index.example/simple"], timeout=10)
    assert capsys.readouterr().err == ""
    log.set_level(log.Level.VERBOSE)
    run(["true", "https://user:secret@index.example/simple"], timeout=10)
    assert capsys.readouterr().err == "  $ true https://index.example/simple\n"


def test_a_failed_program_is_named_without_secrets() -> None:
    with pytest.raises(ToolError, match=r"false exited with 1: false https://index\.example/x") as caught:
        run(["false", "https://user:secret@index.example/x"], timeout=10)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("argv", [["-q", "matrix"], ["matrix", "-q"]], ids=" ".join)
@pytest.mark.usefixtures("normal")
def test_the_voice_may_stand_on_both_sides(argv: list[str]) -> None:
    assert CliRunner().invoke(cli, ["--project", str(ROOT), *argv]).exit_code == 0
    assert log.level() is log.Level.QUIET


def test_the_tables_are_what_the_code_says() -> None:
    table.update(ROOT, check=True)


def test_a_table_that_differs_is_refused_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    for file, _ in table.TABLES:
        (tmp_path / file).write_text((ROOT / file).read_text().replace("Free disk space", "Free memory"))
    assert table.main(["--check", str(tmp_path)]) == 4
    assert "error: README.md: the table of commands differs" in capsys.readouterr().err
    assert table.main([str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text("nothing")
    assert table.main([str(tmp_path)]) == 4


@pytest.mark.parametrize("rows", table.TABLES.values(), ids=lambda rows: str(rows.__name__))
def test_no_value_splits_a_cell_of_a_table(rows: Callable[[], Iterator[str]]) -> None:
    lines = "".join(rows()).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {lines[0].count("|")}


def test_all_commands_are_in_a_section() -> None:
    listed = [command for commands in cli.sections.values() for command in commands]
    assert len(listed) == len(cli.commands) >= 29
    assert all(isinstance(command, click.Command) for command in listed)
