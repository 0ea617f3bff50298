"""Commands that answer a question and change nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildctl.cli.commands import command
from buildctl.cli.options import (
    Options,
    answer,
    arch_option,
    complete_names,
    json_option,
    names_argument,
    opened,
    plain_http_option,
    targets_argument,
)
from buildctl.ground.errors import BuildctlError, ExitCode, UsageError

if TYPE_CHECKING:
    from buildctl.host.catalogue import Subject


@command("Show what can be built, what is built, what cannot exist")
@names_argument
@arch_option
@click.option("--explain", is_flag=True, help="Show every setting instead, and where it comes from.")
@json_option
@click.pass_obj
def matrix(options: Options, names: Sequence[str], arch: str | None, explain: bool, as_json: bool) -> None:
    """Show the cells, what is locked, built and tested; and why other combinations cannot exist.

    \b
    Examples:
      buildctl matrix
      buildctl matrix --explain          matrix.yaml, and the defaults of the rest
      buildctl matrix cpu-2.15           why there is none, what to use instead
      buildctl matrix --json             for CI to fan out over
    """
    from buildctl.testing.overview import explained, overview

    if explain:
        if names or arch:
            raise UsageError("--explain is about the whole of matrix.yaml: leave out names and --arch")
        answer(explained(options.open()), as_json=as_json)
        return
    view = overview(options.open(), names, arch)
    answer(view, as_json=as_json)


@command("Say whether images run here, before anything is pulled")
@targets_argument
@click.option(
    "--host",
    "host_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Facts of another machine, saved there with --save.",
)
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the facts about this machine.")
@json_option
@click.pass_obj
def check(options: Options, names: Sequence[str], host_file: Path | None, save: Path | None, as_json: bool) -> None:
    """Will it run here? One verdict for each image, with the reason and the next step, before anything is pulled.

    Runs with GPU, runs on CPU, runs slowly under emulation, or does not run. Exit code 1 when an image that was named
    does not run.

    \b
    Examples:
      buildctl check
      buildctl check cuda-2.6 --save server.json
      buildctl check --host server.json
      buildctl check cuda-2.6-devel 2.10-cuda12.8    flavours, globs, tags, too
      buildctl check pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime   by its labels
    """
    from buildctl.host.check import check_images

    def more(known: Sequence[Subject], name: str, arch: str) -> list[Subject]:
        from buildctl.publish.named import subjects_named

        return subjects_named(options.open(), known, name, arch)

    found = check_images(options.project, options.layout, names, host_file=host_file, save=save, more=more)
    if not names:
        from buildctl.publish.named import unlocked

        with suppress(BuildctlError):  # claims can be read where matrix.yaml cannot
            found = replace(found, unlocked=unlocked(options.open(), (verdict.name for verdict in found.verdicts)))
    answer(found, as_json=as_json)
    sys.exit(found.exit_code if names else ExitCode.OK)


@command("Show what an image says of itself")
@click.argument("target", metavar="NAME|REFERENCE|LAYOUT", shell_complete=complete_names, callback=opened)
@arch_option
@json_option
@click.pass_obj
def inspect(options: Options, target: str, arch: str | None, as_json: bool) -> None:
    """Show what an image says of itself: one of ours by NAME, anybody's by REFERENCE or as PATH[:NAME] of a layout.

    Of an image in a registry only manifest, configuration and attached report are fetched, no layer.

    \b
    Examples:
      buildctl inspect cuda-2.6
      buildctl inspect cuda-2.15 --arch arm64 --json
      buildctl inspect registry.example/pytorch:2.6
      buildctl inspect /tmp/layout:latest
    """
    from buildctl.matrix.matrix import parse_arch
    from buildctl.publish.inspect import inspect_images

    found = inspect_images(options.open, target, arch=parse_arch(arch) if arch else None)
    answer(found, as_json=as_json)


@command("Show what differs between two images")
@click.argument("a", metavar="A", callback=opened)
@click.argument("b", metavar="B", callback=opened)
@click.option("--arch", metavar="ARCH", help="The one to compare (default: one that both have).")
@plain_http_option
@json_option
@click.pass_obj
def diff(options: Options, a: str, b: str, arch: str | None, plain_http: bool | None, as_json: bool) -> None:
    """Show what differs between two images: packages, configuration, layers and sizes.

    A and B are names in the layout, references to a registry, or PATH:NAME of another layout or an archive. Exit code
    0, also when they differ.

    \b
    Examples:
      buildctl diff cpu-2.6 cpu-2.10
      buildctl diff registry.example/pytorch:cuda-2.6 cuda-2.6
    """
    from buildctl.matrix.matrix import parse_arch
    from buildctl.publish.diff import compare

    found = compare(options.open, a, b, arch=parse_arch(arch) if arch else None, plain_http=plain_http)
    answer(found, as_json=as_json)


@command("Print the bill of materials of a built image")
@click.argument("name", shell_complete=complete_names)
@arch_option
@click.pass_obj
def sbom(options: Options, name: str, arch: str | None) -> None:
    """Print the bill of materials of a built image: CycloneDX 1.6, every Debian package and Python distribution.

    \b
    Examples:
      buildctl sbom cpu-2.6 > cpu-2.6.cdx.json
      buildctl sbom cuda-2.15 --arch arm64
    """
    from buildctl.artifacts.store import Store
    from buildctl.lock.locked import load_locked
    from buildctl.oci.layout import Layout
    from buildctl.publish.sbom import sbom_document

    project = options.open()
    cells = project.matrix.images_of([name], arch)
    if len(cells) != 1:
        raise UsageError(f"{name} has {' and '.join(c.arch for c in cells)}: choose one with --arch")
    (locked,) = load_locked(project, cells)
    layout = Layout(project.layout)
    image = layout.resolve(locked.cell.id, locked.cell.arch)
    found = sbom_document(layout, locked, image, store=Store.default())
    click.echo(found.data)


@command("Write a folder of HTML to look at all of it")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write, or to replace if this command wrote it (default: page in the layout).",
)
@click.option("--from", "source", metavar="REGISTRY/REPO", help="Show what is published there instead of the layout.")
@click.option("--revision", default="", help="With --from: the revision that the images were published with.")
@click.option(
    "--key", envvar="BUILDCTL_VERIFY_KEY", metavar="FILE", help="With --from: public key that must have signed."
)
@plain_http_option
@click.pass_obj
def page(
    options: Options, out: Path | None, source: str | None, revision: str, key: str | None, plain_http: bool | None
) -> None:
    """Write a static page about all images: matrix, digests, findings, GPUs, sizes, differences, the last build.

    Open index.html in a browser: no server, no network. It is made from locks, claims, reports and the layout, or with
    --from from a registry. The same input gives the same bytes.

    \b
    Examples:
      buildctl page
      buildctl page --from registry.example/pytorch --revision 20261122
    """
    from buildctl.publish.page.collect import of_layout, of_registry
    from buildctl.publish.page.write import pages, refuse_foreign, write_pages
    from buildctl.registry.client import open_repository
    from buildctl.registry.keys import PublicKey
    from buildctl.registry.reference import Reference

    if revision and source is None:
        raise UsageError("--revision is about a registry", hint="add --from REGISTRY/REPO")
    project = options.open()
    target = out or project.layout / "page"
    refuse_foreign(target)
    if source is None:
        data = of_layout(project)
    else:
        repository = open_repository(Reference.parse_repository(source), plain_http=plain_http)
        data = of_registry(project, repository, revision, PublicKey.load(key) if key else None)
    write_pages(pages(data), target)
    click.echo(target / "index.html")


@command("Show what this machine lacks, and how to install it")
@json_option
@click.pass_obj
def doctor(options: Options, as_json: bool) -> None:
    """What this machine has, what is missing for building, testing and running, and the command that fixes each.

    Exit code 1 when images cannot be built here.

    \b
    Examples:
      buildctl doctor
    """
    from buildctl.host.doctor import examine

    found = examine(options.open)
    answer(found, as_json=as_json)
    sys.exit(found.exit_code)


COMMANDS = (matrix, check, inspect, diff, sbom, page, doctor)
