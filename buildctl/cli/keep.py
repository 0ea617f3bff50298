"""Commands that look after what is kept: layout, store, shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from buildctl.cli import cache
from buildctl.cli.commands import command
from buildctl.cli.options import Options, answer, json_option, names_argument
from buildctl.ground.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from buildctl.oci.layout import Layout


@command("Check every digest of the built images")
@names_argument
@click.option("--store", "of_store", is_flag=True, help="Check the store of downloads and layers instead.")
@click.option("--repair", is_flag=True, help="With --store: remove what is damaged; the next build replaces it.")
@click.pass_obj
def fsck(options: Options, names: Sequence[str], of_store: bool, repair: bool) -> None:
    """Re-compute all digests, sizes and diff ids of the built images; look for setuid files and paths that escape.

    Layers that are only in a cache are fetched first: what was not read is not checked.
    With --store, do the same for everything in the store: wheels, packages, layers, bytecode, and what is unpacked.

    \b
    Examples:
      buildctl fsck
      buildctl fsck cuda-2.6
      buildctl fsck --store --repair
    """
    if of_store:
        _fsck_store(names, repair=repair)
        return
    if repair:
        raise UsageError("--repair needs --store", hint="`buildctl build` replaces what is damaged in the layout")
    from buildctl.oci.check import check_layout
    from buildctl.oci.layout import Layout

    project = options.open()
    _bring(Layout(project.layout), names)
    problems = check_layout(project.layout, list(names) or None)
    if not problems and not Layout(project.layout).read_index().manifests:
        problems = [f"{project.shown(project.layout)} holds no image: there is nothing to check"]
    for problem in problems:
        click.echo(problem)
    if problems:
        sys.exit(ExitCode.LAYOUT)
    click.echo(f"{project.shown(project.layout)}: everything matches its digest")


def _bring(layout: Layout, names: Sequence[str]) -> None:
    """A broken layout is for the check to describe."""
    from buildctl.ground.errors import LayoutError
    from buildctl.oci.absent import absent

    try:
        images = [layout.resolve(name) for name in names] if names else layout.entries()
        if not absent(layout, images):
            return
    except LayoutError:
        return
    from buildctl.registry.remote import bring_layers

    bring_layers(layout, images, "fsck")


def _fsck_store(names: Sequence[str], *, repair: bool) -> None:
    from buildctl.artifacts.check import check_store
    from buildctl.artifacts.store import Store

    if names:
        raise UsageError("--store checks the whole store: no names", hint="buildctl fsck --store")
    store = Store.default()
    problems = check_store(store, repair=repair)
    for problem in problems:
        click.echo(problem)
    if problems and not repair:
        sys.exit(ExitCode.LAYOUT)
    said = "what is left matches its digest" if problems else "everything matches its digest"
    click.echo(f"{store.root}: {said}")


@command("Show what the store takes on the disk")
@json_option
def disk(as_json: bool) -> None:
    """Show what the store takes on the disk, by kind, what layouts share, and what is free.

    \b
    Examples:
      buildctl disk
    """
    from buildctl.artifacts.store import Store
    from buildctl.cli.answers.disk import disk_use

    answer(disk_use(Store.default()), as_json=as_json)


@command("Free disk space in the store")
@click.option("--unpacked", is_flag=True, help="Only unpacked trees; the next test unpacks again.")
@click.option("--downloads", is_flag=True, help="Only wheels and Debian packages; finished layers stay.")
@click.option(
    "--all", "everything", is_flag=True, help="Layers, bytecode and downloads, too: the next build starts from nothing."
)
@click.option("--older-than", "older", metavar="AGE", help="Only what was not used for this long: 12h, 30d, 8w.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before removing what costs a download.")
def prune(unpacked: bool, downloads: bool, everything: bool, older: str | None, dry_run: bool, yes: bool) -> None:
    """Free disk space in the store: unpacked trees, and layers that nothing leads to any more.

    \b
    Examples:
      buildctl prune
      buildctl prune --downloads --older-than 30d --dry-run
      buildctl prune --all --yes
    """
    from buildctl.artifacts.store import Store
    from buildctl.cli.answers.disk import pruned, seconds, sorts_of

    sorts = sorts_of(unpacked=unpacked, downloads=downloads, everything=everything)
    for line in pruned(Store.default(), sorts, unused=seconds(older), dry_run=dry_run, yes=yes):
        click.echo(line)


@command("Print shell completion")
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
    click.echo(kind(click.get_current_context().find_root().command, {}, "buildctl", "_BUILDCTL_COMPLETE").source())


COMMANDS = (fsck, disk, prune, cache.GROUP, completion)
