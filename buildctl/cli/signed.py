"""Commands about signatures: sign what is published, and verify it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from buildctl.cli.commands import command
from buildctl.cli.options import arch_option, as_text, json_option, plain_http_option
from buildctl.ground.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from buildctl.registry.reference import Reference
    from buildctl.registry.referrers import Signer


sign_key_option = click.option(
    "--sign-key",
    envvar="BUILDCTL_SIGN_KEY",
    metavar="FILE",
    help="Sign with this private key: cosign's ($COSIGN_PASSWORD), plain PEM, or env://NAME.",
)
sign_keyless_option = click.option(
    "--sign-keyless", is_flag=True, help="Sign with the workflow's identity, through the program cosign."
)


def signer_of(key: str | None, keyless: bool) -> Signer | None:
    """Before any work is done, so that a wrong password costs nothing."""
    if not key and not keyless:
        return None
    from buildctl.publish.sign import open_signer

    return open_signer(key, keyless=keyless)


def _known_checks(_: click.Context, __: click.Parameter, names: Sequence[str]) -> Sequence[str]:
    if names:
        from buildctl.publish.verify import CHECKS

        for name in names:
            if name not in CHECKS:
                raise click.BadParameter(f"no check {name!r}{did_you_mean(name, CHECKS)}")
    return names


def _published(reference: str) -> Reference:
    """A name of the matrix would be looked for in the registry that Docker takes when none is named."""
    from buildctl.registry.reference import Reference

    if "/" not in reference:
        raise UsageError(f"{reference} names no registry: REGISTRY/REPO:TAG, as `buildctl publish` printed it")
    return Reference.parse(reference)


@command("Sign published images")
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

    signer = signer_of(sign_key, sign_keyless)
    if signer is None:
        raise UsageError("--sign-key FILE or --sign-keyless is needed")
    repository = open_repository(_published(reference), write=True, plain_http=plain_http)
    for digest in sign_reference(repository, signer):
        click.echo(f"{repository.reference.name}@{digest}")


@command("Check published images: signature, digests, labels, report")
@click.argument("reference")
@arch_option
@click.option(
    "--key",
    envvar="BUILDCTL_VERIFY_KEY",
    metavar="FILE",
    help="Public key that must have signed: cosign.pub, env://NAME.",
)
@click.option(
    "--require",
    multiple=True,
    metavar="NAME",
    callback=_known_checks,
    help="A check that must run: exit code 3 where it is NOT RUN. Once for each.",
)
@plain_http_option
@json_option
def verify(
    reference: str,
    arch: str | None,
    key: str | None,
    require: Sequence[str],
    plain_http: bool | None,
    as_json: bool,
) -> None:
    """Check a published image: signature, layers against digests, bill of materials against layers, labels against
    packages, provenance and report against the image.

    Pulls every layer into a temporary folder. Exit code 1 when something FAILED. Without --key, signatures are NOT RUN;
    NOT RUN affects the exit code only with --require.

    \b
    Examples:
      buildctl verify localhost:5000/pytorch:2.6 --key cosign.pub
      buildctl verify registry.example/pytorch:cuda-2.6 --require report
    """
    from buildctl.console.progress import open_progress
    from buildctl.matrix.matrix import parse_arch
    from buildctl.publish.verify import exit_code
    from buildctl.publish.verify import verify as check_published
    from buildctl.registry.client import open_repository
    from buildctl.registry.keys import PublicKey

    repository = open_repository(_published(reference), plain_http=plain_http)
    wanted, trusted = parse_arch(arch) if arch else None, PublicKey.load(key) if key else None
    with open_progress("fetched") as progress:
        found = check_published(repository, arch=wanted, scratch=None, progress=progress, key=trusted)
    text = "\n\n".join(image.text() for image in found)
    click.echo(as_text([image.to_json() for image in found]) if as_json else text)
    sys.exit(exit_code(found, require))
