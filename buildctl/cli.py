"""The command line: only click, and printing. Answers on stdout, the story on stderr, one catcher for errors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildctl import __version__
from buildctl.errors import BuildctlError

# Modules are imported where they are used: `buildctl --help` and completion answer in a tenth of a second.
if TYPE_CHECKING:
    from buildctl.project import Project

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Options:
    project: Path
    layout: Path | None

    def open(self) -> Project:
        from buildctl.project import Project

        return Project.find(self.project, layout=self.layout)


def main() -> None:
    """Run the command line; every error becomes a message, a hint and an exit code here and nowhere else."""
    try:
        status = cli.main(standalone_mode=False)
    except BuildctlError as error:
        _complain(error)
        status = error.exit_code
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; what was whole is kept, run the command again to continue", err=True)
        status = INTERRUPTED
    except BrokenPipeError:  # `buildctl matrix | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status if isinstance(status, int) else 0)


def _complain(error: BuildctlError) -> None:
    click.echo(click.style("error: ", fg="red", bold=True) + error.message, err=True)
    if error.hint:
        click.echo(click.style("hint: ", fg="cyan") + error.hint, err=True)


def _complete_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    try:
        root = context.find_root().params.get("project") or Path.cwd()
        names = {cell.image for cell in Options(Path(root), None).open().matrix.cells}
    except BuildctlError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))


names_argument = click.argument("names", nargs=-1, metavar="[NAMES]...", shell_complete=_complete_names)
arch_option = click.option("--arch", metavar="ARCH", help="Only this architecture: amd64 or arm64.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine to read.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="buildctl")
@click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Folder with matrix.yaml, or any folder below it (default: where you are).",
)
@click.option(
    "--layout",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="BUILDCTL_LAYOUT",
    help="OCI layout to write to and read from (default: dist/ in the project).",
)
@click.pass_context
def cli(context: click.Context, project: Path, layout: Path | None) -> None:
    """PyTorch container images whose tag is the truth.

    matrix.yaml (architecture x accelerator x PyTorch version) becomes locked inputs, Dockerfiles, images, and proof of
    what torch reports inside each one: no daemon, no root, no emulation.

    \b
    Examples:
      buildctl matrix                    what can be built, what is built, what cannot exist and why
      buildctl build cuda-2.6            one image, every architecture that it exists for
      buildctl test cuda-2.6 cpu-2.6     run the smoke checks inside
      buildctl lock --upgrade cpu-2.10   newest versions that still fit
    """
    context.obj = Options(project, layout)


@cli.command()
@names_argument
@arch_option
@json_option
@click.pass_obj
def matrix(options: Options, names: Sequence[str], arch: str | None, as_json: bool) -> None:
    """Show the cells, what is locked, built and tested; and why other combinations cannot exist.

    \b
    Examples:
      buildctl matrix
      buildctl matrix cpu-2.15           why there is none, and what to use instead
      buildctl matrix --json             for CI to fan out over
    """
    from buildctl.overview import overview

    view = overview(options.open(), names, arch)
    click.echo(json.dumps(view.to_json(), indent=2) if as_json else view.text())


@cli.command()
@names_argument
@click.option("--upgrade", is_flag=True, help="Take the newest versions that fit, instead of keeping what is locked.")
@click.option("--check", is_flag=True, help="Change nothing; fail when a lock is missing or stale (for CI).")
@click.pass_obj
def lock(options: Options, names: Sequence[str], upgrade: bool, check: bool) -> None:
    """Pin every wheel and Debian package by name, version, file, size and SHA-256, for each cell's own platform.

    \b
    Examples:
      buildctl lock                      what is missing or stale
      buildctl lock --upgrade            everything, newest
      buildctl lock --check              in CI
    """
    from buildctl.locking import check_locks, lock_cells

    project = options.open()
    cells = project.matrix.select(names)
    if check:
        click.echo(f"{check_locks(project, cells)} locks are up to date")
        return
    for line in lock_cells(project, cells, upgrade=upgrade):
        click.echo(line)


@cli.command()
@names_argument
@click.option("--check", is_flag=True, help="Change nothing; show the difference and fail when there is one (for CI).")
@click.pass_obj
def render(options: Options, names: Sequence[str], check: bool) -> None:
    """Write images/NAME/Dockerfile from the templates, the matrix and the locks.

    \b
    Examples:
      buildctl render
      buildctl render --check
    """
    from buildctl.rendering import check_rendered, render_images

    project = options.open()
    cells = project.matrix.images_of(names)
    if check:
        click.echo(f"{check_rendered(project, cells)} rendered files are up to date")
        return
    for line in render_images(project, cells):
        click.echo(line)


@cli.command()
@names_argument
@arch_option
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="OCI layout to write to (as --layout)."
)
@click.option("--engine", type=click.Choice(["assemble", "docker"]), default="assemble", show_default=True)
@click.option("--compression", type=click.Choice(["zstd", "gzip"]), default="zstd", show_default=True)
@click.option("--load/--no-load", default=None, help="Put the images into Docker (default: when a daemon answers).")
@click.option("--locked", is_flag=True, help="Refuse instead of mending a stale lock or a vanished Debian package.")
@click.option("--jobs", type=click.IntRange(1), help="Processes at once (default: one per core).")
@json_option
@click.pass_obj
def build(
    options: Options,
    names: Sequence[str],
    arch: str | None,
    output: Path | None,
    engine: str,
    compression: str,
    load: bool | None,
    locked: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Execute the rendered Dockerfiles: images into an OCI layout, and into Docker where one answers.

    \b
    Examples:
      buildctl build                         the whole matrix
      buildctl build cuda-2.6 --arch amd64
      buildctl build --compression gzip      for Docker before 23
      buildctl build cpu-2.6 --no-load --output /tmp/layout
    """
    from buildctl.build import BuildOptions, build_images

    project = Options(options.project, output or options.layout).open()
    wanted = BuildOptions(engine=engine, compression=compression, load=load, locked=locked, jobs=jobs)
    result = build_images(project, project.matrix.images_of(names, arch), wanted)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.text())


@cli.command()
@names_argument
@arch_option
@click.option("--runtime", type=click.Choice(["auto", "docker", "sandbox"]), default="auto", show_default=True)
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write the findings as JUnit XML, too.")
@json_option
@click.pass_obj
def test(
    options: Options, names: Sequence[str], arch: str | None, runtime: str, junit: Path | None, as_json: bool
) -> None:
    """Run the probes inside the images and compare what torch reports with what the tag says.

    A finding is PASSED, FAILED, or NOT RUN with the reason; NOT RUN is never PASSED. Exit code 1: something FAILED;
    3: an image could not be asked anything.

    \b
    Examples:
      buildctl test cuda-2.6 cpu-2.6
      buildctl test --runtime sandbox --junit report.xml
    """
    from buildctl.testing import test_images

    project = options.open()
    result = test_images(project, names, arch=arch, runtime=runtime)
    if junit is not None:
        result.write_junit(junit)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.text())
    sys.exit(result.exit_code)


@cli.command()
@names_argument
@click.pass_obj
def fsck(options: Options, names: Sequence[str]) -> None:
    """Re-compute every digest, size and diff id of the built images, and look for names that escape and setuid files.

    \b
    Examples:
      buildctl fsck
      buildctl fsck cuda-2.6
    """
    from buildctl.oci.check import check_layout

    project = options.open()
    problems = check_layout(project.layout, list(names) or None)
    for problem in problems:
        click.echo(problem)
    if problems:
        sys.exit(8)
    click.echo(f"{project.shown(project.layout)}: everything matches its digest")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print shell completion.

    \b
    Examples:
      eval "$(buildctl completion bash)"       in ~/.bashrc
      buildctl completion fish > ~/.config/fish/completions/buildctl.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click.Choice lists what click has
    click.echo(kind(cli, {}, "buildctl", "_BUILDCTL_COMPLETE").source())
