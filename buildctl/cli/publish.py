"""Commands that push and tag."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from buildctl.cli.answers.deliver import deliver, open_target
from buildctl.cli.commands import command
from buildctl.cli.options import (
    Options,
    answer,
    arch_option,
    as_text,
    json_option,
    names_argument,
    plain_http_option,
    say_next,
    targets_argument,
)
from buildctl.cli.signed import sign, sign_key_option, sign_keyless_option, signer_of, verify
from buildctl.ground.errors import UsageError, did_you_mean


def _revision(_: click.Context, option: click.Parameter, value: str) -> str:
    from buildctl.registry.reference import is_tag

    if (value and not is_tag(f"_{value}")) or (option.required and not value):
        raise click.BadParameter(f"{value!r} cannot end a tag: letters, digits, '.', '_' and '-'")
    return value


def _known_findings(_: click.Context, __: click.Parameter, names: Sequence[str]) -> Sequence[str]:
    if names:
        from buildctl.testing.probes.known import known_findings

        known = known_findings()
        for name in names:
            if name not in known:
                raise click.BadParameter(f"no finding {name!r}{did_you_mean(name, known)}")
    return names


_FILE = click.Path(dir_okay=False, path_type=Path)


def _repository(_: click.Context, __: click.Parameter, value: str) -> str:
    """Told before any work is done, and before anything is looked for in the layout."""
    from buildctl.registry.reference import Reference

    Reference.parse_repository(value)
    return value


to_option = click.option(
    "--to", required=True, metavar="REGISTRY/REPO", callback=_repository, help="Where to: localhost:5000/pytorch."
)
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
    help="A finding that may be NOT RUN, besides those that matrix.yaml allows; may be repeated.",
)
drop_option = click.option(
    "--drop-platform", multiple=True, metavar="PLATFORM", help="Let a tag lose linux/arm64 or another it has."
)


@command("Push images, and set the tags of those that passed")
@targets_argument
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
@click.option("--source", metavar="REPO@COMMIT", help="What is built, for the provenance: git+https://...@HASH.")
@click.option("--invocation", metavar="URI", help="Which run builds, for the provenance.")
@click.option("--hand-on", type=_FILE, help="Write the digests of what was pushed to FILE, for `promote --expect`.")
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
    source: str | None,
    invocation: str | None,
    hand_on: Path | None,
    sign_key: str | None,
    sign_keyless: bool,
    as_json: bool,
) -> None:
    """Push images from the layout and point tags at those that passed their tests. No daemon; only missing blobs move.

    NAMES are those of the matrix, or PATH[:NAME] of another OCI layout, or of an archive of `buildctl export`: what it
    carries is pushed as it is, with its documents, and its names are the tags.

    A moving tag is set only when the report of exactly that digest has no FAILED, and no NOT RUN but what `publish` in
    matrix.yaml or --allow-not-run allows. Exit code 1: a tag was refused (images and immutable tags are pushed all the
    same).

    \b
    Examples:
      buildctl publish --to localhost:5000/pytorch --dry-run
      buildctl publish --to registry.example/pytorch --allow-not-run entrypoint
      buildctl publish --to registry.example/pytorch --arch arm64 --tags immutable
      buildctl publish --to registry.example/pytorch --sign-key cosign.key
    """
    from buildctl.cli.answers.summary import add_summary, summary_wanted
    from buildctl.console.progress import open_progress
    from buildctl.dockerfile.files import refuse_drift
    from buildctl.lock.locked import WANTED, load_locked, load_matrix_images, of_all_architectures
    from buildctl.lock.update import refuse_stale_locks
    from buildctl.publish.pipeline.handover import handed_on
    from buildctl.publish.provenance import CiRun
    from buildctl.publish.publish import PublishOptions, attached
    from buildctl.publish.publish import publish as push
    from buildctl.registry.target import points_elsewhere

    signer = signer_of(sign_key, sign_keyless)
    if any(map(points_elsewhere, names)):
        if not all(map(points_elsewhere, names)) or revision or drop_platform or tags == "immutable":
            raise UsageError(
                "layouts and archives are published alone, without --revision, --drop-platform and immutable tags"
            )
        repository = open_target(to, dry_run, plain_http, mount_from)
        deliver(names, arch, repository, dry_run, tags == "all", allow_not_run, signer, as_json)
    project = options.open()
    cells = project.matrix.images_of(names, arch)
    refuse_stale_locks(project, cells, WANTED)
    refuse_drift(project, load_locked(project, of_all_architectures(project, cells)), WANTED)
    repository = open_target(to, dry_run, plain_http, mount_from)
    wanted = PublishOptions(
        dry_run=dry_run,
        tags=tags,
        revision=revision,
        allow_not_run=frozenset(allow_not_run),
        drop_platforms=frozenset(drop_platform),
        signer=signer,
        compare=summary_wanted(),
    )
    run = CiRun.parse(builder=builder_id, source=source, invocation=invocation)
    documents = attached(project, sbom=sbom, run=run)
    pinned = load_matrix_images(project)
    with open_progress("sent") as progress:
        result = push(project, pinned, cells, repository, wanted, documents=documents, progress=progress)
    if hand_on and not dry_run:
        handed_on(repository, result.images).write(hand_on)
    answer(result, as_json=as_json)
    add_summary(result)
    if not dry_run:
        set_ = [tag.name for tag in result.tags if tag.digest is not None and not tag.reason]
        say_next(*(f"docker pull {result.repository}:{name}" for name in set_[-1:]))
    sys.exit(result.exit_code)


@command("Set moving tags by the reports of published images")
@names_argument
@arch_option
@to_option
@click.option("--revision", required=True, callback=_revision, help="The revision that the images were published with.")
@click.option("--dry-run", is_flag=True, help="Show where tags would point, and set none.")
@click.option(
    "--expect",
    type=_FILE,
    multiple=True,
    help="What `publish --hand-on` wrote; refuse what differs from it in the registry. Once for each builder.",
)
@click.option("--report", type=_FILE, multiple=True, help="Another machine's report on one of the images; attach it.")
@click.option(
    "--await",
    "awaits",
    multiple=True,
    metavar="NAME",
    callback=_known_findings,
    help="A finding that another machine still asks: tags of images where it is NOT RUN wait.",
)
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
    expect: Sequence[Path],
    report: Sequence[Path],
    awaits: Sequence[str],
    allow_not_run: Sequence[str],
    drop_platform: Sequence[str],
    plain_http: bool | None,
    sign_key: str | None,
    sign_keyless: bool,
    as_json: bool,
) -> None:
    """Point moving tags at published images by the reports attached to them: the last job of a pipeline.

    It needs the registry and the locks, not the images: the builders of all architectures have pushed theirs before.
    With --expect nothing in the registry is trusted that no builder pushed: a tag that points elsewhere, or a
    document that was removed or attached since, ends it with exit code 1, before anything is signed or moved.

    \b
    Examples:
      buildctl promote --to registry.example/pytorch --revision 20261122
      buildctl promote --to registry.example/pytorch --revision 20261122 \\
          --expect amd64.json --expect arm64.json
    """
    from buildctl.cli.answers.summary import add_summary, summary_wanted
    from buildctl.lock.locked import load_matrix_images
    from buildctl.publish.pipeline.handover import read_handover
    from buildctl.publish.publish import PublishOptions
    from buildctl.publish.publish import promote as move
    from buildctl.registry.client import open_repository
    from buildctl.registry.reference import Reference
    from buildctl.testing.kept import reports_in

    project = options.open()
    repository = open_repository(Reference.parse_repository(to), write=not dry_run, plain_http=plain_http)
    wanted = PublishOptions(
        dry_run=dry_run,
        revision=revision,
        allow_not_run=frozenset(allow_not_run),
        drop_platforms=frozenset(drop_platform),
        signer=signer_of(sign_key, sign_keyless),
        expect=read_handover(expect) if expect else None,
        reports=tuple(found for path in report for found in reports_in(path)),
        awaits=frozenset(awaits),
        compare=summary_wanted(),
    )
    cells = project.matrix.images_of(names, arch)
    result = move(project, load_matrix_images(project), cells, repository, wanted)
    answer(result, as_json=as_json)
    add_summary(result)
    sys.exit(result.exit_code)


@command("Show each tag that would be set, and what prevents it")
@names_argument
@arch_option
@revision_option
@allow_option
@json_option
@click.pass_obj
def tags(
    options: Options,
    names: Sequence[str],
    arch: str | None,
    revision: str,
    allow_not_run: Sequence[str],
    as_json: bool,
) -> None:
    """Show the tags that the rule gives, what each would point at, and what blocks it.

    \b
    Examples:
      buildctl tags cpu-2.6
      buildctl tags cuda-2.15 --arch arm64
      buildctl tags --allow-not-run entrypoint
    """
    from buildctl.console.table import folded
    from buildctl.lock.locked import load_matrix_images
    from buildctl.publish.publish import PublishOptions, planned_tags

    project = options.open()
    wanted = PublishOptions(revision=revision, allow_not_run=frozenset(allow_not_run))
    cells = project.matrix.images_of(names, arch)
    found = planned_tags(project, load_matrix_images(project), cells, wanted)
    if as_json:
        click.echo(as_text([tag.to_json() for tag in found]))
    else:
        click.echo(folded(("TAG", "KIND", "STATE"), [tag.row() for tag in found]))


COMMANDS = (publish, promote, tags, sign, verify)
