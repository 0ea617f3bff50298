"""The command line: only click, and printing. Answers on stdout, the story on stderr, one catcher for errors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildctl import __version__
from buildctl.build.choose import ENGINES
from buildctl.ground import interrupts
from buildctl.ground.errors import BuildctlError
from buildctl.oci.compression import COMPRESSIONS
from buildctl.runtimes.choose import AUTO, RUNTIMES

# Modules are imported where they are used: `buildctl --help` and completion answer in a tenth of a second.
if TYPE_CHECKING:
    from buildctl.matrix.project import Project
    from buildctl.registry.reference import Reference
    from buildctl.registry.referrers import Signer


@dataclass(frozen=True, slots=True)
class Options:
    project: Path
    layout: Path | None

    def open(self) -> Project:
        from buildctl.matrix.project import Project

        return Project.find(self.project, layout=self.layout)


def main() -> None:
    """Run the command line; every error becomes a message, a hint and an exit code here and nowhere else."""
    interrupts.listen()
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
        status = interrupts.exit_code()
    except BrokenPipeError:  # `buildctl matrix | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:  # a file or folder that is not there, or may not be read or written
        if error.filename is None:
            raise
        _complain(BuildctlError(f"{os.fsdecode(error.filename)}: {error.strerror}"))
        status = 1
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
context_option = click.option(
    "--context", metavar="NAME|URL", help="A Docker elsewhere: a docker context, ssh://[USER@]HOST, tcp://HOST:PORT."
)
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
    from buildctl.cli.overview import overview

    view = overview(options.open(), names, arch)
    click.echo(json.dumps(view.to_json(), indent=2) if as_json else view.text())


@cli.command()
@names_argument
@click.option("--upgrade", is_flag=True, help="Take the newest versions that fit, instead of keeping what is locked.")
@click.option("--upgrade-bases", is_flag=True, help="Take the newest Debian packages, and keep all wheels.")
@click.option("--check", is_flag=True, help="Change nothing; fail when a lock is missing or stale (for CI).")
@click.pass_obj
def lock(options: Options, names: Sequence[str], upgrade: bool, upgrade_bases: bool, check: bool) -> None:
    """Pin every wheel and Debian package by name, version, file, size and SHA-256, for each cell's own platform.

    \b
    Examples:
      buildctl lock                      what is missing or stale
      buildctl lock --upgrade            everything, newest
      buildctl lock --upgrade-bases      security fixes of Debian; torch and all wheels stay
      buildctl lock --check              in CI
    """
    from buildctl.lock.update import check_locks, lock_cells

    if check and (upgrade or upgrade_bases):
        raise click.UsageError("--check changes nothing: leave out --upgrade and --upgrade-bases")
    project = options.open()
    cells = project.matrix.select(names)
    if check:
        click.echo(f"{check_locks(project, cells)} locks are up to date")
        return
    for line in lock_cells(project, cells, upgrade=upgrade, upgrade_bases=upgrade_bases):
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
    from buildctl.dockerfile.files import check_rendered, render_images
    from buildctl.lock.locked import load_locked, of_all_architectures

    project = options.open()
    cells = load_locked(project, of_all_architectures(project, project.matrix.images_of(names)))
    if check:
        click.echo(f"{check_rendered(project, cells)} rendered files are up to date")
        return
    for line in render_images(project, cells):
        click.echo(line)


@cli.command()
@names_argument
@arch_option
@click.option("--locked", is_flag=True, help="Refuse where a lock, claim or Dockerfile would change.")
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

    project = options.open()
    cells = project.matrix.images_of(names, arch)
    update_locks(project, cells, locked=locked)
    update_rendered(project, load_locked(project, of_all_architectures(project, cells)), locked=locked)
    count = renewing(project, lambda: fetch_images(project, load_locked(project, cells)), locked=locked)
    click.echo(f"{count} artifacts are in the store")


@cli.command()
@names_argument
@arch_option
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="OCI layout to write to (as --layout)."
)
@click.option("--engine", type=click.Choice(tuple(ENGINES)), default="assemble", show_default=True)
@click.option(
    "--builder", metavar="NAME", help="With --engine docker: a buildx builder (remote, Kubernetes, several nodes)."
)
@context_option
@click.option("--compression", type=click.Choice(tuple(COMPRESSIONS)), default="zstd", show_default=True)
@click.option("--load/--no-load", default=None, help="Put the images into Docker (default: when a daemon answers).")
@click.option("--locked", is_flag=True, help="Refuse where a lock, claim or Dockerfile would change.")
@click.option("--jobs", type=click.IntRange(1), help="Processes at once (default: one per core).")
@json_option
@click.pass_obj
def build(
    options: Options,
    names: Sequence[str],
    arch: str | None,
    output: Path | None,
    engine: str,
    builder: str | None,
    context: str | None,
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
      buildctl build cuda-2.6 --context gpu-box             made here, loaded there
      buildctl build --engine docker --context gpu-box      made there, too
    """
    from buildctl.build.images import BuildOptions, build_images, reach
    from buildctl.build.material import renewing
    from buildctl.dockerfile.files import update_rendered
    from buildctl.lock.locked import load_locked, of_all_architectures
    from buildctl.lock.update import update_locks

    project = Options(options.project, output or options.layout).open()
    wanted = BuildOptions(
        engine=engine,
        compression=compression,
        load=load,
        jobs=jobs,
        builder=builder,
        context=context,
    )
    reach(wanted)
    cells = project.matrix.images_of(names, arch)
    update_locks(project, cells, locked=locked)
    update_rendered(project, load_locked(project, of_all_architectures(project, cells)), locked=locked)
    result = renewing(project, lambda: build_images(project, load_locked(project, cells), wanted), locked=locked)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.text())


@cli.command()
@names_argument
@click.option("--locked", is_flag=True, help="Refuse where a lock, claim or Dockerfile would change.")
@click.pass_obj
def bases(options: Options, names: Sequence[str], locked: bool) -> None:
    """Make only the bases of these images, and the uv that their install steps use, for Docker to build on.

    \b
    Examples:
      buildctl bases && docker buildx bake cpu-2_6-arm64
    """
    from buildctl.artifacts.store import Store
    from buildctl.build.assembler import bases_under, build_bases
    from buildctl.build.material import renewing
    from buildctl.build.uv_image import put_tool
    from buildctl.dockerfile.files import update_rendered
    from buildctl.lock.locked import load_locked, of_all_architectures
    from buildctl.lock.update import update_locks
    from buildctl.oci.layout import Layout

    project = options.open()
    layout = Layout(project.layout)
    cells = project.matrix.images_of(names)
    update_locks(project, cells, locked=locked)
    update_rendered(project, load_locked(project, of_all_architectures(project, cells)), locked=locked)
    work = partial(build_bases, project, bases_under(cells), Store.default(), layout)
    for name in renewing(project, work, locked=locked):
        click.echo(f"{project.shown(layout.root)}: {name}")
    put_tool(layout)
    click.echo(f"{project.shown(layout.root)}: uv")


@cli.command()
@names_argument
@arch_option
@click.option("--runtime", type=click.Choice((AUTO, *RUNTIMES)), default="auto", show_default=True)
@context_option
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write the findings as JUnit XML, too.")
@click.option(
    "--path", type=click.Path(file_okay=False, path_type=Path), help="Where the native environment is (mps-... only)."
)
@click.option("--attach", is_flag=True, help="Add the report to the published image, where `promote` reads it.")
@json_option
@click.pass_obj
def test(
    options: Options,
    names: Sequence[str],
    arch: str | None,
    runtime: str,
    context: str | None,
    junit: Path | None,
    path: Path | None,
    attach: bool,
    as_json: bool,
) -> None:
    """Run the probes inside the images and compare what torch reports with what the tag says.

    NAMES are those of the matrix, references to a registry, PATH:NAME of an OCI layout, or env:PATH, an environment on
    this machine: a Python, a virtual environment or a conda environment. All but the first need no project, and what
    such an image or environment does not claim is NOT RUN.

    A native environment that is named (mps-2.6) is asked without a container, on a Mac. A finding is PASSED, FAILED, or
    NOT RUN with the reason; NOT RUN is never PASSED. Exit code 1: something FAILED; 3: one could not be asked anything.

    \b
    Examples:
      buildctl test cuda-2.6 cpu-2.6
      buildctl test --runtime sandbox --junit report.xml
      buildctl test cuda-2.6 --context gpu-box     on that machine; what it lacks of the image is moved there
      buildctl test mps-2.6              what `buildctl native mps-2.6` made
      buildctl test registry.example/pytorch:cuda-2.6 --attach     on a server with a GPU, before `promote`
      buildctl test env:~/miniforge3/envs/torch --json > report.json      without a container, by what it claims
    """
    from buildctl.matrix.matrix import parse_arch
    from buildctl.registry.target import points_elsewhere
    from buildctl.testing.environments import names_environment, test_environments
    from buildctl.testing.images import TestResult, heard, test_images

    environments = [name for name in names if names_environment(name)]
    elsewhere = [name for name in names if name not in environments and points_elsewhere(name)]
    ours = [name for name in names if name not in elsewhere and name not in environments]
    if environments and (arch or context or runtime != "auto"):
        raise click.UsageError("env:PATH runs here as it is: without --arch, --context and --runtime")
    if attach and (ours or not elsewhere):
        raise click.UsageError("--attach is for references: publish attaches the reports on images of the layout")
    result = TestResult(reports=())
    if ours or not names:
        result = test_images(options.open(), ours, arch=arch, runtime=runtime, context=context, path=path)
    if environments:
        asked = test_environments(environments, on_finding=heard())
        result = TestResult(reports=(*result.reports, *asked))
    if elsewhere:
        from buildctl.testing.references import test_targets

        one = parse_arch(arch) if arch else None
        others = test_targets(elsewhere, arch=one, runtime=runtime, context=context, attach=attach)
        result = TestResult(reports=(*result.reports, *others.reports))
    if junit is not None:
        result.write_junit(junit)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.text())
    sys.exit(result.exit_code)


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="FILE|REFERENCE...")
@click.pass_obj
def report(options: Options, sources: Sequence[str]) -> None:
    """Take in what other machines found out, so that `matrix` and `publish` know it here.

    FILE is a report of `buildctl test` (dist/reports/NAME.json, or what its --json prints), REFERENCE a published image
    with reports attached. About the same digest they are merged: FAILED counts, and so does PASSED where here it is NOT
    RUN. About another digest they say when a finding last ran.

    \b
    Examples:
      buildctl report gpu-server/cuda-2.6-amd64.json
      buildctl report registry.example/pytorch:cuda-2.6
    """
    from buildctl.testing.kept import bring

    for line in bring(options.open(), sources):
        click.echo(line)


@cli.command()
@names_argument
@arch_option
@click.option("--runtime", type=click.Choice((AUTO, *RUNTIMES)), default="auto", show_default=True)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the exported files there, a folder per cell.",
)
@click.option(
    "--path", type=click.Path(file_okay=False, path_type=Path), help="Where the native environment is (mps-... only)."
)
@context_option
@json_option
@click.pass_obj
def portability(
    options: Options,
    names: Sequence[str],
    arch: str | None,
    runtime: str,
    output: Path | None,
    path: Path | None,
    context: str | None,
    as_json: bool,
) -> None:
    """Export a model in each image, run it in every other, and compare the numbers: TorchScript, torch.export, ONNX.

    Between images of one torch version it must work; a newer torch must run an older one's TorchScript; the rest is
    shown. ONNX needs the extra `onnx` in matrix.yaml. Exit code 1: something FAILED; 3: an image could not be asked.

    \b
    Examples:
      buildctl portability cuda-2.6 cpu-2.6      from amd64 to arm64 and back
      buildctl portability --output models       every image that is built
    """
    from buildctl.testing.portability import check_portability

    project = options.open()
    result = check_portability(project, names, arch=arch, runtime=runtime, output=output, path=path, context=context)
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
    from buildctl.oci.layout import Layout

    project = options.open()
    problems = check_layout(project.layout, list(names) or None)
    if not problems and not Layout(project.layout).read_index().manifests:
        problems = [f"{project.shown(project.layout)} holds no image: there is nothing to check"]
    for problem in problems:
        click.echo(problem)
    if problems:
        sys.exit(8)
    click.echo(f"{project.shown(project.layout)}: everything matches its digest")


@cli.command()
@click.option(
    "--all", "everything", is_flag=True, help="Layers and downloads, too: the next build starts from nothing."
)
def prune(everything: bool) -> None:
    """Free disk space in the store: unpacked images, and layers that nothing leads to any more.

    \b
    Examples:
      buildctl prune
    """
    from buildctl.artifacts.store import Store
    from buildctl.console.table import size

    store = Store.default()
    click.echo(f"freed {size(store.prune(everything=everything))} in {store.root}")


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


def _revision(_: click.Context, option: click.Parameter, value: str) -> str:
    from buildctl.registry.reference import is_tag

    if (value and not is_tag(f"_{value}")) or (option.required and not value):
        raise click.BadParameter(f"{value!r} cannot end a tag: letters, digits, '.', '_' and '-'")
    return value


def _known_findings(_: click.Context, __: click.Parameter, names: Sequence[str]) -> Sequence[str]:
    if names:
        from buildctl.ground.errors import did_you_mean
        from buildctl.publish.gate import known_findings

        known = known_findings()
        for name in names:
            if name not in known:
                raise click.BadParameter(f"no finding {name!r}{did_you_mean(name, known)}")
    return names


to_option = click.option("--to", required=True, metavar="REGISTRY/REPO", help="Where to: localhost:5000/pytorch.")
revision_option = click.option(
    "--revision",
    default="",
    callback=_revision,
    help="What ends immutable tags: a date, a commit (default: the digest itself).",
)
allow_option = click.option(
    "--allow-not-run",
    multiple=True,
    metavar="NAME",
    callback=_known_findings,
    help="A finding that may be NOT RUN, beside those that matrix.yaml allows; once for each.",
)
plain_http_option = click.option(
    "--plain-http", is_flag=True, default=None, help="Speak http, which is the default only for this machine."
)
drop_option = click.option(
    "--drop-platform", multiple=True, metavar="PLATFORM", help="Let a tag lose linux/arm64 or another it has."
)

sign_key_option = click.option(
    "--sign-key",
    envvar="BUILDCTL_SIGN_KEY",
    metavar="FILE",
    help="Sign with this private key: cosign's ($COSIGN_PASSWORD), plain PEM, or env://NAME.",
)
sign_keyless_option = click.option(
    "--sign-keyless", is_flag=True, help="Sign with the workflow's identity, through the program cosign."
)


def _signer(key: str | None, keyless: bool) -> Signer | None:
    """Before any work is done, so that a wrong password costs nothing."""
    if not key and not keyless:
        return None
    from buildctl.publish.sign import open_signer

    return open_signer(key, keyless=keyless)


@cli.command()
@names_argument
@arch_option
@to_option
@click.option("--dry-run", is_flag=True, help="Send nothing; show what would be sent and where tags would point.")
@click.option(
    "--tags",
    type=click.Choice(["all", "immutable", "none"]),
    default="all",
    show_default=True,
    help="Which tags to set; immutable: of each image, and `promote` sets the others when all architectures are there.",
)
@revision_option
@allow_option
@drop_option
@plain_http_option
@click.option("--mount-from", multiple=True, metavar="REPO", help="Repositories of that registry to take blobs from.")
@click.option("--sbom/--no-sbom", default=True, help="Attach bill of materials and provenance (default).")
@click.option("--builder-id", metavar="URI", help="Who builds, for the provenance: the URL of a workflow.")
@sign_key_option
@sign_keyless_option
@json_option
@click.pass_obj
def publish(
    options: Options,
    names: Sequence[str],
    arch: str | None,
    to: str,
    dry_run: bool,
    tags: str,
    revision: str,
    allow_not_run: Sequence[str],
    drop_platform: Sequence[str],
    plain_http: bool | None,
    mount_from: Sequence[str],
    sbom: bool,
    builder_id: str | None,
    sign_key: str | None,
    sign_keyless: bool,
    as_json: bool,
) -> None:
    """Push images from the layout and point tags at those that passed their tests. No daemon; only missing blobs move.

    A moving tag is set only when the report of exactly that digest has no FAILED, and no NOT RUN but what `publish` in
    matrix.yaml or --allow-not-run allows. Exit code 1: a tag was refused (images and immutable tags are pushed all the
    same).

    \b
    Examples:
      buildctl publish --to localhost:5000/pytorch --dry-run
      buildctl publish cpu-2.6 cuda-2.6 --to registry.example/team/pytorch --allow-not-run entrypoint
      buildctl publish --to registry.example/pytorch --arch arm64 --tags immutable --revision 20261122   then `promote`
      buildctl publish --to registry.example/pytorch --sign-key cosign.key      its password in $COSIGN_PASSWORD
    """
    from buildctl.console.progress import open_progress
    from buildctl.dockerfile.files import refuse_drift
    from buildctl.lock.locked import WANTED, load_locked, load_matrix_images, of_all_architectures
    from buildctl.lock.update import refuse_stale_locks
    from buildctl.publish.publish import PublishOptions, attached
    from buildctl.publish.publish import publish as push
    from buildctl.registry.client import open_repository
    from buildctl.registry.reference import Reference

    project = options.open()
    cells = project.matrix.images_of(names, arch)
    refuse_stale_locks(project, cells, WANTED)
    refuse_drift(project, load_locked(project, of_all_architectures(project, cells)), WANTED)
    repository = open_repository(
        Reference.parse_repository(to), write=not dry_run, plain_http=plain_http, mount_from=tuple(mount_from)
    )
    wanted = PublishOptions(
        dry_run=dry_run,
        tags=tags,
        revision=revision,
        allow_not_run=frozenset(allow_not_run),
        drop_platforms=frozenset(drop_platform),
        signer=_signer(sign_key, sign_keyless),
    )
    documents = attached(project, sbom=sbom, **({"builder": builder_id} if builder_id else {}))
    pinned = load_matrix_images(project)
    with open_progress("sent") as progress:
        result = push(project, pinned, cells, repository, wanted, documents=documents, progress=progress)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.text())
    sys.exit(result.exit_code)


@cli.command()
@names_argument
@arch_option
@to_option
@click.option("--revision", required=True, callback=_revision, help="The revision that the images were published with.")
@click.option("--dry-run", is_flag=True, help="Show where tags would point, and set none.")
@allow_option
@drop_option
@plain_http_option
@sign_key_option
@sign_keyless_option
@json_option
@click.pass_obj
def promote(
    options: Options,
    names: Sequence[str],
    arch: str | None,
    to: str,
    revision: str,
    dry_run: bool,
    allow_not_run: Sequence[str],
    drop_platform: Sequence[str],
    plain_http: bool | None,
    sign_key: str | None,
    sign_keyless: bool,
    as_json: bool,
) -> None:
    """Point moving tags at published images by the reports attached to them: the last job of a pipeline.

    It needs the registry and the locks, not the images: the builders of all architectures have pushed theirs before.

    \b
    Examples:
      buildctl promote --to registry.example/pytorch --revision 20261122
    """
    from buildctl.lock.locked import load_matrix_images
    from buildctl.publish.publish import PublishOptions
    from buildctl.publish.publish import promote as move
    from buildctl.registry.client import open_repository
    from buildctl.registry.reference import Reference

    project = options.open()
    repository = open_repository(Reference.parse_repository(to), write=not dry_run, plain_http=plain_http)
    wanted = PublishOptions(
        dry_run=dry_run,
        revision=revision,
        allow_not_run=frozenset(allow_not_run),
        drop_platforms=frozenset(drop_platform),
        signer=_signer(sign_key, sign_keyless),
    )
    cells = project.matrix.images_of(names, arch)
    result = move(project, load_matrix_images(project), cells, repository, wanted)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.text())
    sys.exit(result.exit_code)


@cli.command()
@names_argument
@revision_option
@allow_option
@json_option
@click.pass_obj
def tags(options: Options, names: Sequence[str], revision: str, allow_not_run: Sequence[str], as_json: bool) -> None:
    """Show the tags that the rule gives, what each would point at, and what stands against it.

    \b
    Examples:
      buildctl tags cpu-2.6
      buildctl tags --allow-not-run entrypoint
    """
    from buildctl.console.table import table
    from buildctl.lock.locked import load_matrix_images
    from buildctl.publish.publish import PublishOptions, planned_tags

    project = options.open()
    wanted = PublishOptions(revision=revision, allow_not_run=frozenset(allow_not_run))
    cells = project.matrix.images_of(names)
    found = planned_tags(project, load_matrix_images(project), cells, wanted)
    if as_json:
        click.echo(json.dumps([tag.to_json() for tag in found], indent=2))
    else:
        click.echo(table(("TAG", "KIND", "OVER", "STATE"), [tag.row() for tag in found]))


@cli.command()
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


@cli.command()
@click.argument("target", metavar="NAME|REFERENCE|LAYOUT", shell_complete=_complete_names)
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
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.text())


@cli.command()
@names_argument
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
      buildctl check pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime     by its labels or its environment
    """
    from buildctl.host.check import check_images

    answer = check_images(options.project, options.layout, names, host_file=host_file, save=save)
    click.echo(json.dumps(answer.to_json(), indent=2) if as_json else answer.text())
    sys.exit(answer.exit_code if names else 0)


@cli.command()
@json_option
@click.pass_obj
def doctor(options: Options, as_json: bool) -> None:
    """What this machine has, what is missing for building, testing and running, and the command that mends each.

    Exit code 1 when images cannot be built here.

    \b
    Examples:
      buildctl doctor
    """
    from buildctl.host.doctor import examine

    found = examine(options.open)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.text())
    sys.exit(found.exit_code)


@cli.command()
@click.argument("name", metavar="NAME", shell_complete=_complete_names)
@click.option(
    "--path",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the environment (default: .venv-NAME in the project).",
)
@click.option("--verify", is_flag=True, help="Install nothing: does the lock resolve, is its wheel an MPS build?")
@json_option
@click.pass_obj
def native(options: Options, name: str, path: Path | None, verify: bool, as_json: bool) -> None:
    """Make a native environment on macOS arm64 from the lock, hash-checked: the only road to an Apple GPU.

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
        click.echo(json.dumps({"name": name, "verified": verify, "says": list(lines)}, indent=2))
        return
    for line in lines:
        click.echo(line)


@cli.command()
@names_argument
@arch_option
@click.option("--locked", is_flag=True, help="Resolve nothing: put the bases below as they are locked.")
@json_option
@click.pass_obj
def rebase(options: Options, names: Sequence[str], arch: str | None, locked: bool, as_json: bool) -> None:
    """Move the base of built images to patched Debian packages; torch and every other layer stay byte for byte.

    \b
    Examples:
      buildctl rebase                    the whole matrix; says which packages moved from what to what
      buildctl rebase cpu-2.6 --locked   after a change of images/bases/ that came from elsewhere
    """
    from buildctl.publish.rebase import rebase_images

    project = options.open()
    result = rebase_images(project, project.matrix.images_of(names, arch), locked=locked)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.text())


@cli.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--arch", default="amd64", show_default=True, metavar="ARCH", help="Which of a name that has several.")
@plain_http_option
@json_option
@click.pass_obj
def diff(options: Options, a: str, b: str, arch: str, plain_http: bool | None, as_json: bool) -> None:
    """Show what differs between two images: packages, configuration, layers and sizes.

    A and B are names in the layout or references to a registry. Exit code 0, also when they differ.

    \b
    Examples:
      buildctl diff cpu-2.6-arm64 cpu-2.10-arm64
      buildctl diff registry.example/pytorch:cuda-2.6 cuda-2.6
    """
    from buildctl.matrix.matrix import parse_arch
    from buildctl.publish.diff import compare

    found = compare(options.open(), a, b, arch=parse_arch(arch), plain_http=plain_http)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.text())


@cli.command()
@click.argument("name", shell_complete=_complete_names)
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
        raise click.UsageError(f"{name} has {' and '.join(c.arch for c in cells)}: choose one with --arch")
    (locked,) = load_locked(project, cells)
    layout = Layout(project.layout)
    image = layout.resolve(locked.cell.id, locked.cell.arch)
    found = sbom_document(layout, locked, image, store=Store.default())
    click.echo(found.data)


def _published(reference: str) -> Reference:
    """A name of the matrix would be looked for in the registry that Docker takes when none is named."""
    from buildctl.registry.reference import Reference

    if "/" not in reference:
        raise click.UsageError(f"{reference} names no registry: REGISTRY/REPO:TAG, as `buildctl publish` printed it")
    return Reference.parse(reference)


@cli.command()
@click.argument("reference")
@sign_key_option
@sign_keyless_option
@plain_http_option
def sign(reference: str, sign_key: str | None, sign_keyless: bool, plain_http: bool | None) -> None:
    """Sign what is in a registry: an image, or an index and its images, with all that is attached to each now.

    `publish` and `promote` sign what they push by themselves. `cosign verify` and `buildctl verify` check it.

    \b
    Examples:
      buildctl sign registry.example/pytorch:2.6 --sign-key cosign.key
    """
    from buildctl.publish.sign import sign_reference
    from buildctl.registry.client import open_repository

    signer = _signer(sign_key, sign_keyless)
    if signer is None:
        raise click.UsageError("--sign-key FILE or --sign-keyless is needed")
    repository = open_repository(_published(reference), write=True, plain_http=plain_http)
    for digest in sign_reference(repository, signer):
        click.echo(f"{repository.reference.name}@{digest}")


@cli.command()
@click.argument("reference")
@arch_option
@click.option(
    "--key",
    envvar="BUILDCTL_VERIFY_KEY",
    metavar="FILE",
    help="Public key that must have signed: cosign.pub, env://NAME.",
)
@plain_http_option
@json_option
def verify(reference: str, arch: str | None, key: str | None, plain_http: bool | None, as_json: bool) -> None:
    """Check a published image: signature, layers against digests, bill of materials against layers, labels against
    packages, provenance and report against the image.

    Pulls every layer into a temporary folder. Exit code 1 when something FAILED. Without --key, signatures are NOT RUN.

    \b
    Examples:
      buildctl verify localhost:5000/pytorch:2.6 --key cosign.pub
      buildctl verify registry.example/pytorch:cuda-2.6 --arch amd64
    """
    from buildctl.console.progress import open_progress
    from buildctl.matrix.matrix import parse_arch
    from buildctl.publish.keys import PublicKey
    from buildctl.publish.verify import verify as check_published
    from buildctl.registry.client import open_repository

    repository = open_repository(_published(reference), plain_http=plain_http)
    wanted, trusted = parse_arch(arch) if arch else None, PublicKey.load(key) if key else None
    with open_progress("fetched") as progress:
        found = check_published(repository, arch=wanted, scratch=None, progress=progress, key=trusted)
    text = "\n\n".join(image.text() for image in found)
    click.echo(json.dumps([image.to_json() for image in found], indent=2) if as_json else text)
    sys.exit(int(any(image.failed for image in found)))
