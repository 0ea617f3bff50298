"""Commands that take an image out of the layout: to try it here, or to where there is no registry."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from buildctl.cli.commands import command
from buildctl.cli.options import Options, answer, arch_option, complete_names, json_option, opened

FORMATS = ("docker-archive", "oci-archive", "squashfs", "dir")


def _variables(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    for value in values:
        if "=" not in value.lstrip("="):
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
    return dict(value.split("=", 1) for value in values)


@command("Start a program or shell in an image, to try it", allow_interspersed_args=False, ignore_unknown_options=True)
@click.argument("target", metavar="NAME|REFERENCE|LAYOUT", shell_complete=complete_names, callback=opened)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]...")
@arch_option
@click.option("--network", is_flag=True, help="Share this machine's network; otherwise there is none.")
@click.option("--user", metavar="UID[:GID]|NAME", help="Run as this user of the image instead of its USER.")
@click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", callback=_variables, help="Set a variable.")
@click.pass_obj
def run(
    options: Options,
    target: str,
    argv: Sequence[str],
    arch: str | None,
    network: bool,
    user: str | None,
    env: dict[str, str],
) -> None:
    """Start COMMAND in an image as `docker run -it --rm` does, in a sandbox: no Docker, no root. Options come before
    the image; without COMMAND it is the image's own (ours: a Python prompt).

    The current folder is at /workspace and is where COMMAND starts; all else that it writes is thrown away. GPUs are
    passed where there are some. Another architecture is emulated, slowly. It is for trying things: it limits what
    COMMAND can do less than a virtual machine, and keeps nothing running. The exit code is COMMAND's.

    \b
    Examples:
      buildctl run cpu-2.6 python -c "import torch; print(torch.ones(3).sum())"
      buildctl run cuda-2.6 train.py
      buildctl run --network cuda-2.6 bash
      buildctl run registry.example/pytorch:2.6 python
    """
    from buildctl.artifacts.store import Store
    from buildctl.console.log import say
    from buildctl.matrix.matrix import parse_arch
    from buildctl.runtimes.image import brought, find_built, only_image
    from buildctl.runtimes.sandbox.emulation import native_arch
    from buildctl.runtimes.sandbox.sandbox import SandboxRuntime

    found = find_built(options.open, target)
    chosen = only_image(found, parse_arch(arch) if arch else None, preferred=native_arch())
    image = brought(found, chosen)
    with SandboxRuntime(Store.default()).start(image) as session:
        how = f"emulated by {session.emulated}" if session.emulated else ""
        gpus = "with GPUs" if session.gpus else f"without GPU: {session.gpus_reason}"
        say(f"{image.name} in a sandbox, {', '.join(filter(None, (how, gpus)))}; only /workspace is kept")
        outcome = session.attach(argv, workspace=Path.cwd(), user=user, env=env, network=network)
    code = outcome.returncode or 0
    sys.exit(code if code >= 0 else 128 - code)


@command("Write images into a file or folder, to carry them")
@click.argument(
    "names", nargs=-1, required=True, metavar="NAME|REFERENCE|LAYOUT...", shell_complete=complete_names, callback=opened
)
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="What to write.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to (default: the current folder).")
@arch_option
@click.option("--since", metavar="OTHER", callback=opened, help="Leave out the layers that OTHER has (oci-archive).")
@click.option("--bare", is_flag=True, help="Without report, signature and bill of materials (oci-archive).")
@click.option("--sign-key", metavar="FILE", envvar="BUILDCTL_SIGN_KEY", help="Sign what is carried (oci-archive).")
@json_option
@click.pass_obj
def export(
    options: Options,
    names: Sequence[str],
    form: str,
    output: Path | None,
    arch: str | None,
    since: str | None,
    bare: bool,
    sign_key: str | None,
    as_json: bool,
) -> None:
    """Write images as docker-archive (`docker load`, `podman load`), oci-archive (with signatures, reports and bills of
    materials, for an air-gapped site), squashfs (Apptainer, enroot, Charliecloud) or dir. No daemon, no root; the same
    image gives the same bytes.

    `buildctl publish FILE --to REGISTRY/REPO` brings an oci-archive into a registry on the other side; `inspect`,
    `test`, `check`, `diff` and `run` read it, too. What exists already is never replaced.

    \b
    Examples:
      buildctl export cuda-2.6 --format squashfs
      buildctl export cuda-2.6 cpu-2.6 --format oci-archive -o november.oci.tar
      buildctl export cuda-2.6 --format oci-archive --since november.oci.tar
      buildctl export registry.example/pytorch:2.6 --format docker-archive
    """
    from buildctl.matrix.matrix import parse_arch
    from buildctl.publish.export.export import ExportOptions
    from buildctl.publish.export.export import export as write
    from buildctl.publish.sign import KeySigner
    from buildctl.registry.keys import PrivateKey

    signs = form == "oci-archive" and not bare  # the variable is for all commands
    wanted = ExportOptions(
        form=form,
        arch=parse_arch(arch) if arch else None,
        output=output,
        since=since,
        bare=bare,
        signer=KeySigner(PrivateKey.load(sign_key)) if sign_key and signs else None,
    )
    answer(write(options.open, names, wanted), as_json=as_json)


COMMANDS = (run, export)
