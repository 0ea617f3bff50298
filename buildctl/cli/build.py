"""Commands that make images: lock, render, fetch, build."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildctl.build.choose import ENGINES
from buildctl.cli.commands import command
from buildctl.cli.options import (
    Options,
    answer,
    arch_option,
    as_text,
    cache_options,
    complete_names,
    compression_options,
    context_option,
    json_option,
    locked_option,
    names_argument,
    require_linux_to,
    say_next,
)
from buildctl.ground.errors import UsageError

if TYPE_CHECKING:
    from buildctl.build.engine import BuildResult
    from buildctl.build.images import BuildOptions
    from buildctl.matrix.project import Project


@command("Pin every wheel and Debian package by hash")
@names_argument
@click.option("--upgrade", is_flag=True, help="Take the newest versions that fit, instead of keeping what is locked.")
@click.option("--upgrade-bases", is_flag=True, help="Take the newest Debian packages, and keep all wheels.")
@click.option("--record-scripts", is_flag=True, help="Run Debian scripts that are not understood once, in a sandbox.")
@click.option("--check", is_flag=True, help="Change nothing; fail when a lock is missing or stale (for CI).")
@click.pass_obj
def lock(
    options: Options, names: Sequence[str], upgrade: bool, upgrade_bases: bool, record_scripts: bool, check: bool
) -> None:
    """Pin every wheel and Debian package by name, version, file, size and SHA-256, for each cell's own platform.

    \b
    Examples:
      buildctl lock                      what is missing or stale
      buildctl lock --upgrade            everything, newest
      buildctl lock --upgrade-bases      security fixes of Debian; all wheels stay
      buildctl lock --record-scripts     also what needs scripts run, as root
      buildctl lock --check              in CI
    """
    from buildctl.artifacts.store import Store
    from buildctl.lock.update import check_locks, lock_cells
    from buildctl.runtimes.recorder.record import open_recorder

    if check and (upgrade or upgrade_bases or record_scripts):
        raise UsageError("--check changes nothing: leave out --upgrade, --upgrade-bases and --record-scripts")
    project = options.open()
    cells = project.matrix.select(names)
    if check:
        click.echo(f"{check_locks(project, cells)} locks are up to date")
        return
    with ExitStack() as stack:
        record = stack.enter_context(open_recorder(Store.default())).record if record_scripts else None
        for line in lock_cells(project, cells, upgrade=upgrade, upgrade_bases=upgrade_bases, record=record):
            click.echo(line)


@command("Write down what each locked torch wheel says of itself")
@names_argument
@click.option("--check", is_flag=True, help="Change nothing; fail when a file differs from what the wheels say.")
@click.pass_obj
def claims(options: Options, names: Sequence[str], check: bool) -> None:
    """Write images/NAME/claims.ARCH.json: what torch's locked wheel says of itself, read without importing it.

    CUDA, cuDNN and NCCL versions, compiled GPU architectures, minimum driver, glibc or macOS floor, devices that must
    and must not appear. From the wheel in the store, else from a few pieces of it at the package index.

    \b
    Examples:
      buildctl claims
      buildctl claims --check              in CI
    """
    from buildctl.artifacts.store import Store
    from buildctl.lock.claim_files import check_claims, write_claims

    project = options.open()
    cells = project.matrix.select(names)
    if check:
        click.echo(f"{check_claims(project, cells, Store.default())} files of claims agree with the wheels")
        return
    for line in write_claims(project, cells, Store.default()):
        click.echo(line)


@command("Write the Dockerfiles from templates, matrix and locks")
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
    from buildctl.dockerfile.files import check_rendered, render_images
    from buildctl.lock.locked import load_locked, of_all_architectures

    project = options.open()
    cells = load_locked(project, of_all_architectures(project, project.matrix.images_of(names)))
    if check:
        click.echo(f"{check_rendered(project, cells)} rendered files are up to date")
        return
    for line in render_images(project, cells):
        click.echo(line)


@command("Download what images are made from, to build offline")
@names_argument
@arch_option
@locked_option
@click.pass_obj
def fetch(options: Options, names: Sequence[str], arch: str | None, locked: bool) -> None:
    """Download what images are made from into the store; afterwards they build without a network.

    \b
    Examples:
      buildctl fetch cuda-2.6
    """
    from buildctl.build.material import fetch_images, renewing
    from buildctl.dockerfile.files import update_rendered
    from buildctl.lock.locked import load_locked, of_all_architectures
    from buildctl.lock.update import update_locks

    require_linux_to("fetch")
    project = options.open()
    cells = project.matrix.images_of(names, arch)
    update_locks(project, cells, locked=locked)
    update_rendered(project, load_locked(project, of_all_architectures(project, cells)), locked=locked)
    count = renewing(project, lambda: fetch_images(project, load_locked(project, cells)), locked=locked)
    click.echo(f"{count} artifacts are in the store")


@command("Build images into an OCI layout, and load them into Docker")
@names_argument
@arch_option
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="OCI layout to write to (as --layout)."
)
@click.option("--engine", type=click.Choice(tuple(ENGINES)), default="assemble", show_default=True, help="What builds.")
@click.option(
    "--builder", metavar="NAME", help="With --engine docker: a buildx builder (remote, Kubernetes, several nodes)."
)
@context_option
@compression_options
@click.option("--load/--no-load", default=None, help="Put the images into Docker (default: when a daemon answers).")
@locked_option
@click.option("--jobs", type=click.IntRange(1), help="Processes at once (default: one per core).")
@cache_options
@json_option
@click.pass_obj
def build(
    options: Options,
    /,
    names: Sequence[str],
    arch: str | None,
    output: Path | None,
    engine: str,
    builder: str | None,
    context: str | None,
    compression: str | None,
    compression_level: str | None,
    load: bool | None,
    locked: bool,
    jobs: int | None,
    as_json: bool,
    **cache: Any,
) -> None:
    """Execute the rendered Dockerfiles: images into an OCI layout, and into Docker where one answers.

    \b
    Examples:
      buildctl build                         the whole matrix
      buildctl build cuda-2.6 --arch amd64
      buildctl build --compression gzip      for Docker before 23
      buildctl build --compression zstd:chunked             for lazy pulls
      buildctl build --compression-level 9    12 % smaller; 1 or none: quick tries
      buildctl build cpu-2.6 --no-load --output /tmp/layout
      buildctl build cuda-2.6 --context gpu-box    made here, loaded there
      buildctl build --engine docker --context gpu-box      made there, too
      buildctl build --cache-from registry.example/cache --cache-trust cache.pub
    """
    from buildctl.build.cache.options import CacheOptions
    from buildctl.build.unchanged import remembered
    from buildctl.cli.answers.summary import add_summary

    require_linux_to("build")
    project = Options(options.project, output or options.layout).open()
    memory = None
    if engine == "assemble" and not (builder or context or any(cache.values())):
        method = (compression, compression_level)
        memory = remembered(project, load=load, names=names, arch=arch, compression=method, locked=locked)
    result = memory.recall() if memory is not None else None
    if result is None:
        from buildctl.build.images import BuildOptions  # what follows is imported only if there may be something to do
        from buildctl.build.planner import chosen_compression

        wanted = BuildOptions(
            engine=engine,
            compression=chosen_compression(project, compression, compression_level),
            load=load,
            jobs=jobs,
            builder=builder,
            context=context,
            cache=CacheOptions.given(**cache),
        )
        result = _built(project, names, arch, wanted, locked=locked)
        result = replace(result, first="".join(_typed(project, image.name) for image in result.images[:1]))
        if memory is not None:
            memory.keep(result)
    answer(result, as_json=as_json)
    add_summary(result)
    runs = [f"docker run --rm -it {image.tag}" for image in result.loaded[-1:]]
    runs = runs or [f"buildctl run {result.first}" for _ in result.images[:1]]
    say_next(*runs, " ".join(["buildctl test", *names]))


def _typed(project: Project, cell_id: str) -> str:
    """The name of its image, unless `run` would take that of another architecture by it."""
    from buildctl.runtimes.sandbox.emulation import native_arch

    (cell,) = project.matrix.images_of([cell_id], None)
    alone = len(project.matrix.images_of([cell.image], None)) == 1
    return cell.image if alone or cell.arch == native_arch() else cell.id


def _built(
    project: Project, names: Sequence[str], arch: str | None, wanted: BuildOptions, *, locked: bool
) -> BuildResult:
    from buildctl.build.images import build_images, reach
    from buildctl.build.material import renewing
    from buildctl.dockerfile.files import update_rendered
    from buildctl.lock.locked import load_locked, of_all_architectures
    from buildctl.lock.update import update_locks

    reach(wanted)
    cells = project.matrix.images_of(names, arch)
    update_locks(project, cells, locked=locked)
    update_rendered(project, load_locked(project, of_all_architectures(project, cells)), locked=locked)
    return renewing(project, lambda: build_images(project, load_locked(project, cells), wanted), locked=locked)


@command("Build only the bases, for docker buildx bake to build on")
@names_argument
@locked_option
@click.pass_obj
def bases(options: Options, names: Sequence[str], locked: bool) -> None:
    """Make only the bases of these images, and the uv that their install steps use, for Docker to build on.

    \b
    Examples:
      buildctl bases && docker buildx bake cpu-2_6-arm64
    """
    from buildctl.artifacts.store import Store
    from buildctl.build.assembler import bases_under, build_bases
    from buildctl.build.buildkit.uv_image import put_tool
    from buildctl.build.material import renewing
    from buildctl.build.planner import chosen_compression
    from buildctl.dockerfile.files import update_rendered
    from buildctl.lock.locked import load_locked, of_all_architectures
    from buildctl.lock.update import update_locks
    from buildctl.oci.layout import Layout

    require_linux_to("bases")
    project = options.open()
    layout = Layout(project.layout)
    cells = project.matrix.images_of(names)
    update_locks(project, cells, locked=locked)
    update_rendered(project, load_locked(project, of_all_architectures(project, cells)), locked=locked)
    how = chosen_compression(project)
    work = partial(build_bases, project, bases_under(cells), Store.default(), layout, compression=how)
    for name in renewing(project, work, locked=locked):
        click.echo(f"{project.shown(layout.root)}: {name}")
    put_tool(layout)
    click.echo(f"{project.shown(layout.root)}: uv")


@command("Move built images onto patched Debian packages")
@names_argument
@arch_option
@click.option("--locked", is_flag=True, help="Resolve nothing: put the bases below as they are locked.")
@json_option
@click.pass_obj
def rebase(options: Options, names: Sequence[str], arch: str | None, locked: bool, as_json: bool) -> None:
    """Move the base of built images to patched Debian packages; torch and every other layer stay byte for byte.

    \b
    Examples:
      buildctl rebase                    the whole matrix; lists what changed
      buildctl rebase cpu-2.6 --locked   after a change of images/bases/
    """
    from buildctl.publish.rebase import rebase_images

    require_linux_to("rebase")
    project = options.open()
    result = rebase_images(project, project.matrix.images_of(names, arch), locked=locked)
    answer(result, as_json=as_json)


@command("Make a native environment for Apple GPUs (macOS arm64)")
@click.argument("name", metavar="NAME", shell_complete=complete_names)
@click.option(
    "--path",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the environment (default: .venv-NAME in the project).",
)
@click.option("--verify", is_flag=True, help="Install nothing: does the lock resolve, is its wheel an MPS build?")
@json_option
@click.pass_obj
def native(options: Options, name: str, path: Path | None, verify: bool, as_json: bool) -> None:
    """Make a native environment on macOS arm64 from the lock, hash-checked: the only way to an Apple GPU.

    Elsewhere it says why not; --verify works everywhere.

    \b
    Examples:
      buildctl native mps-2.6 --path .venv
      buildctl native mps-2.6 --verify
    """
    from buildctl.build.native import make_native, verify_native

    project = options.open()
    lines = verify_native(project, name) if verify else make_native(project, name, path)
    if as_json:
        click.echo(as_text({"name": name, "verified": verify, "says": list(lines)}))
        return
    for line in lines:
        click.echo(line)


COMMANDS = (lock, claims, render, fetch, build, bases, rebase, native)
