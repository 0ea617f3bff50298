"""Writes the tables of commands and exit codes into README.md and docs/exit-codes.md; `--check` compares them.

python -m buildctl.cli.table [--check] [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from buildctl.cli.commands import CommandGroup
from buildctl.cli.options import Options
from buildctl.cli.program import cli
from buildctl.ground.errors import DriftError, ExitCode

_BEGIN, _END = "<!-- {}: written by `python -m buildctl.cli.table` -->\n", "<!-- end -->"


def commands() -> Iterator[str]:
    yield "| | |\n|---|---|\n"
    for title, group in cli.sections.items():
        yield f"| **{title}** | |\n"
        for command in group:
            yield from _rows("buildctl", command)


def _rows(before: str, command: click.Command) -> Iterator[str]:
    words = f"{before} {command.name}"
    if isinstance(command, CommandGroup):
        for one in command.commands.values():
            yield from _rows(words, one)
        return
    usage = " ".join((words, *_arguments(command))).replace("|", "\\|")
    yield f"| `{usage}` | {command.short_help} |\n"


def _arguments(command: click.Command) -> Iterator[str]:
    """Arguments and the options without which the command does nothing."""
    context = click.Context(command, obj=Options(Path(), None))
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            yield parameter.make_metavar(context)
        elif parameter.required:
            yield f"{parameter.opts[0]} {parameter.make_metavar(context)}"


def exit_codes() -> Iterator[str]:
    yield "| Code | Name | Meaning |\n|---|---|---|\n"
    for code in ExitCode:
        yield f"| {int(code)} | `{code.name}` | {code.meaning} |\n"


TABLES: Mapping[tuple[str, str], Callable[[], Iterator[str]]] = {
    ("README.md", "commands"): commands,
    ("docs/exit-codes.md", "exit codes"): exit_codes,
}


def written(text: str, name: str, rows: Iterator[str], where: str) -> str:
    """`text` with the rows between its marks. Raises DriftError when it has none."""
    begin = _BEGIN.format(name)
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(_END)
    if not found or not ended:
        raise DriftError(f"{where}: no place for the {name}", hint=f"put {begin.strip()} and {_END} where it belongs")
    return f"{before}{begin}{''.join(rows)}{_END}{after}"


def update(root: Path, *, check: bool) -> None:
    """Raises DriftError with `check` when a table differs."""
    for (file, name), rows in TABLES.items():
        path = root / file
        old = path.read_text("utf-8")
        new = written(old, name, rows(), file)
        if new != old and check:
            raise DriftError(f"{file}: the table of {name} differs", hint="run `python -m buildctl.cli.table`")
        if new != old:
            path.write_text(new, "utf-8")


def main(arguments: list[str]) -> int:
    folders = [Path(word) for word in arguments if word != "--check"]
    try:
        update(*folders or [Path()], check="--check" in arguments)
    except DriftError as error:
        click.echo(f"error: {error.message}\nhint: {error.hint}", err=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
