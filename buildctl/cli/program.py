"""The program: global options, the groups of commands, and the one place that catches errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO, cast

import click

from buildctl.cli import ask, build, carry, keep, publish, start, test
from buildctl.cli.commands import CommandGroup, usage_error
from buildctl.cli.failure import is_told, tell, tell_bug, tell_interrupt, tell_system
from buildctl.cli.options import Options
from buildctl.console.plain import Plain
from buildctl.ground import interrupts
from buildctl.ground.errors import BuildctlError


def main() -> None:
    """Run the command line; every error becomes a message, a hint and an exit code here and nowhere else."""
    interrupts.listen()
    os.umask(os.umask(0o022) | 0o022)  # others may not write to what is written here, whatever the umask
    with redirect_stdout(cast("TextIO", Plain(sys.stdout))):  # no answer is coloured: a control character is foreign
        status = _run(sys.argv[1:])
    sys.exit(status)


def _run(arguments: Sequence[str]) -> int:
    try:
        status = cli.main(list(arguments), prog_name="buildctl", standalone_mode=False)
    except BuildctlError as error:
        return tell(error, arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return tell(usage_error(error), arguments)
    except (KeyboardInterrupt, click.Abort):
        return tell_interrupt(interrupts.exit_code(), arguments)
    except BrokenPipeError:  # `buildctl matrix | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file or folder that is not there, or that the system does not read or write
        return tell_system(error, arguments) if is_told(error) else tell_bug(error, arguments)
    except Exception as error:  # noqa: BLE001 - the last net: a bug has an exit code of its own, not that of FAILED
        return tell_bug(error, arguments)
    return status if isinstance(status, int) else 0


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from buildctl.ground.version import described

        click.echo(described())
        context.exit()


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show what this program is."
)
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
      buildctl matrix                    what can be built, and what cannot exist
      buildctl build cuda-2.6            one image, for all its architectures
      buildctl test cuda-2.6 cpu-2.6     run the smoke checks inside
      buildctl lock --upgrade cpu-2.10   newest versions that still fit
    """
    context.obj = Options(project, layout)


cli.fill(
    {
        "Start": start.COMMANDS,
        "Build": build.COMMANDS,
        "Test": test.COMMANDS,
        "Ask": ask.COMMANDS,
        "Publish": publish.COMMANDS,
        "Carry": carry.COMMANDS,
        "Keep": keep.COMMANDS,
    }
)
