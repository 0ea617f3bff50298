"""Commands for the first minute: a project of your own, and what a build would do before it does it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildctl.cli.commands import command
from buildctl.cli.options import Options, answer, arch_option, json_option, names_argument
from buildctl.ground.errors import BuildctlError, UsageError

if TYPE_CHECKING:
    from buildctl.matrix.initial import Wish

_VERSIONS = "VERSIONS"


def _accelerator(name: str, text: str) -> click.Option:
    """`--cuda`, or `--cuda 2.6,2.10`."""
    return click.Option([f"--{name}"], is_flag=False, flag_value="", metavar=f"[{_VERSIONS}]", help=text)


@command("Write a first matrix.yaml, and a CI workflow if wanted")
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--ci", type=click.Choice(("github", "gitlab")), help="Write a workflow that builds, tests and publishes."
)
@click.option("--python", metavar="VERSIONS", help="One or more of 3.11, 3.13, 3.14 (default: 3.13).")
@click.option("--torch", metavar=_VERSIONS, help="Versions of PyTorch, for all accelerators: 2.6,2.10.")
def init(folder: Path, ci: str | None, python: str | None, torch: str | None, **asked: str | None) -> None:
    """Write matrix.yaml, .gitignore and, with --ci, a workflow. Existing files are never overwritten.

    VERSIONS are PyTorch versions, separated by commas. Without an accelerator, it asks (on a terminal).

    \b
    Examples:
      buildctl init
      buildctl init --cuda 2.6,2.10 --cpu
      buildctl init --torch 2.10 --cpu --mps --ci github
      buildctl init --cuda 2.10 --python 3.13,3.11
    """
    from buildctl.console.log import say
    from buildctl.matrix.initial import refuse_existing, write_project

    refuse_existing(folder)
    chosen = {name: value for name, value in asked.items() if value is not None}
    wish = _wish(chosen, torch, python, ci) if chosen else _asked(torch, python, ci)
    names, notes = _foreseen(wish)  # refuses before a folder is made
    folder.mkdir(parents=True, exist_ok=True)
    for line in write_project(folder, wish):
        click.echo(line)
    for line in notes:
        say(line)
    click.echo(f"\nnext:\n{_next(folder, names[0])}")


init.params[1:1] = [
    _accelerator("cuda", "Images for NVIDIA GPUs."),
    _accelerator("cpu", "Images for CPUs."),
    _accelerator("mps", "Native environments for Apple GPUs."),
]


def _wish(chosen: dict[str, str], torch: str | None, python: str | None, ci: str | None) -> Wish:
    from buildctl.ground.version import source
    from buildctl.matrix.initial import USUAL, Wish, default_python

    versions = tuple(dict.fromkeys(v for text in (torch, *chosen.values()) if text for v in _words(text)))
    different = {_words(text) for text in (torch, *chosen.values()) if text}
    if len(different) > 1:
        raise UsageError(
            "every accelerator gets the same versions of PyTorch: one matrix is their product",
            hint=f"--torch {','.join(versions)}, and `exclude` in matrix.yaml for what is not wanted",
        )
    return Wish(
        accelerators=tuple(chosen),
        versions=versions or (USUAL,),
        pythons=tuple(dict.fromkeys(_words(python or ""))) or (default_python(),),
        ci=ci,
        source=source() if ci else "",
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.replace(" ", ",").split(",") if word)


def _asked(torch: str | None, python: str | None, ci: str | None) -> Wish:
    """From a person at a terminal, who is asked again after a wrong answer. Raises UsageError without a terminal."""
    from buildctl.ground.machine import system
    from buildctl.matrix.initial import ACCELERATORS, USUAL, releases

    if not on_terminal():
        raise UsageError("init needs to know what for", hint="for example: buildctl init --cuda 2.6,2.10 --cpu")
    for name, text in ACCELERATORS.items():
        click.echo(f"  {name:<6}{text}")
    usual = "cpu,mps" if system() == "macos" else "cuda,cpu"
    words = click.prompt("For which", default=usual, value_proc=_accelerators)

    def versions(text: str) -> str:
        try:
            releases(_words(text))
        except UsageError as error:
            raise click.UsageError(f"{error.message}; for example 2.6,2.10 or 2.7.1") from error
        return text

    torch = torch or click.prompt("Versions of PyTorch", default=USUAL, value_proc=versions)
    if ci is None:
        found = click.prompt("CI workflow", type=click.Choice(("none", "github", "gitlab")), default="none")
        ci = None if found == "none" else found
    return _wish(dict.fromkeys(words, ""), torch, python, ci)


def _accelerators(text: str) -> tuple[str, ...]:
    from buildctl.matrix.initial import ACCELERATORS

    words = _words(text)
    if not words or (wrong := [word for word in words if word not in ACCELERATORS]):
        what = f"unknown accelerator {wrong[0]!r}" if words else "no accelerator"
        raise click.UsageError(f"{what}; one or more of {', '.join(ACCELERATORS)}")
    return words


def on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _foreseen(wish: Wish) -> tuple[list[str], list[str]]:
    """The names that there will be, and what is known of the others. Raises BuildctlError if there are none."""
    from buildctl.matrix.initial import RELEASES, matrix_text, releases, unknown
    from buildctl.matrix.read import parse_matrix

    matrix = parse_matrix(matrix_text(wish), Path("matrix.yaml"))
    there, names, notes = {cell.name for cell in matrix.cells}, [], []
    for name in (f"{accelerator}-{key}" for accelerator in wish.accelerators for key in releases(wish.versions)):
        if name in there:
            names.append(name)
            continue
        try:
            matrix.select([name])
        except BuildctlError as error:
            if not there:
                raise
            notes.append(f"there will be no {name}: {error.message}")
    if new := ", ".join(unknown(wish)):
        known = f"{RELEASES[0]} to {RELEASES[-1]}"
        notes.append(f"torch {new} is unknown here (known: {known}); `buildctl lock` asks the index for it")
    return names, notes


def _next(folder: Path, name: str) -> str:
    lines = [f"cd {folder}"] if folder != Path() else []
    if name.startswith("mps-"):
        lines += [f"buildctl lock {name}", f"buildctl native {name}"]
    else:
        lines += [f"buildctl plan {name}", f"buildctl build {name}"]
    lines.append(f"buildctl test {name}")
    return "\n".join(f"  {line}" for line in lines)


@command("Say what a build would fetch and make, and how much that is")
@names_argument
@arch_option
@json_option
@click.pass_obj
def plan(options: Options, names: Sequence[str], arch: str | None, as_json: bool) -> None:
    """Say what `buildctl build` would resolve, download, make and load, and how big that is. Writes nothing.

    What is not locked yet is resolved in a temporary folder, to know the sizes.

    \b
    Examples:
      buildctl plan
      buildctl plan cuda-2.10 --arch amd64
    """
    from buildctl.cli.answers.forecast import forecast

    answer(forecast(options.open(), names, arch), as_json=as_json)


COMMANDS = (init, plan)
