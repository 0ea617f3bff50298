"""Commands about the shared layer cache; `build` reads and writes it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from buildctl.cli.commands import command, command_group
from buildctl.cli.options import (
    Options,
    answer,
    arch_option,
    cache_read_options,
    compression_options,
    json_option,
    names_argument,
)
from buildctl.ground.errors import ExitCode, UsageError


@command("Make layers of a shared cache again, and compare")
@names_argument
@arch_option
@click.option("--sample", type=click.IntRange(1), default=3, show_default=True, help="How many layers, at random.")
@compression_options
@cache_read_options
@json_option
@click.pass_obj
def verify(
    options: Options,
    /,
    names: Sequence[str],
    arch: str | None,
    sample: int,
    compression: str | None,
    compression_level: str | None,
    as_json: bool,
    **cache: Any,
) -> None:
    """Make layers that a cache has for the current locks again, from inputs that are hashed now, and compare them.

    Exit code 1 when one differs: either somebody signed what no recipe makes, or this machine is wrong.

    \b
    Examples:
      buildctl cache verify --sample 5
      buildctl cache verify cpu-2.6 \\
          --cache-from registry.example/cache --cache-trust cache.pub
    """
    from buildctl.build.cache.options import CacheOptions
    from buildctl.build.cache.settings import open_cache
    from buildctl.build.cache.verify import compare
    from buildctl.build.planner import chosen_compression
    from buildctl.lock.locked import load_locked

    project = options.open()
    how = chosen_compression(project, compression, compression_level)
    opened = open_cache(project, CacheOptions.given(**cache), how)
    if opened is None:
        raise UsageError("no cache is configured", hint="--cache-from REGISTRY/REPO, or `cache` in matrix.yaml")
    locked = load_locked(project, project.matrix.images_of(names, arch))
    found = compare(project, locked, opened, how, sample=sample)
    answer(found, as_json=as_json)
    sys.exit(found.exit_code)


@command("Show or remove what nobody needs in a shared cache")
@click.argument("repository", metavar="REGISTRY/REPO")
@click.option("--months", type=click.IntRange(0), default=3, show_default=True, help="Keep what was used since.")
@click.option(
    "--used-by",
    multiple=True,
    metavar="REGISTRY/REPO",
    help="Keep every layer of the images that tags there lead to; may be repeated.",
)
@click.option("--delete", is_flag=True, help="Remove what is shown.")
@json_option
@click.pass_obj
def prune(options: Options, repository: str, months: int, used_by: Sequence[str], delete: bool, as_json: bool) -> None:
    """Show which entries and sets of a cache nobody needs; with --delete remove them.

    Kept are those of the current locks, those that a build that writes the cache used in the last months, and those
    with a layer of an image in --used-by. Images are safe in any case: a blob that was mounted belongs to both.

    \b
    Examples:
      buildctl cache prune registry.example/cache \\
          --used-by registry.example/pytorch
      buildctl cache prune registry.example/cache --months 1 --delete
    """
    from buildctl.build.cache.prune import prune as pruned
    from buildctl.build.planner import Planner, chosen_compression
    from buildctl.ground.clock import now
    from buildctl.lock.locked import load_locked
    from buildctl.registry.client import open_repository
    from buildctl.registry.reference import Reference

    project = options.open()
    planner = Planner(project=project, compression=chosen_compression(project))
    planned = [planner.plan(locked) for locked in load_locked(project, project.matrix.images_of())]
    cache, *others = (open_repository(Reference.parse_repository(name)) for name in (repository, *used_by))
    found = pruned(cache, planned, others, months=months, today=now(), delete=delete)
    answer(found, as_json=as_json)
    sys.exit(ExitCode.REGISTRY if found.refused else ExitCode.OK)


GROUP = command_group("cache", "Check or clean a shared layer cache", verify, prune)
