"""`buildctl publish` of what an archive or another layout carries."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from buildctl.cli.options import answer

if TYPE_CHECKING:
    from buildctl.registry.client import Repository
    from buildctl.registry.referrers import Signer


def open_target(to: str, dry_run: bool, plain_http: bool | None, mount_from: Sequence[str]) -> Repository:
    from buildctl.registry.client import open_repository
    from buildctl.registry.reference import Reference

    reference = Reference.parse_repository(to)
    return open_repository(reference, write=not dry_run, plain_http=plain_http, mount_from=tuple(mount_from))


def deliver(
    names: Sequence[str],
    arch: str | None,
    repository: Repository,
    dry_run: bool,
    tag: bool,
    allow_not_run: Sequence[str],
    signer: Signer | None,
    as_json: bool,
) -> NoReturn:
    from buildctl.console.progress import open_progress
    from buildctl.publish.export.deliver import DeliverOptions
    from buildctl.publish.export.deliver import deliver as send

    wanted = DeliverOptions(dry_run=dry_run, tag=tag, arch=arch, allow_not_run=frozenset(allow_not_run), signer=signer)
    with open_progress("sent") as progress:
        found = send(names, repository, wanted, progress=progress)
    answer(found, as_json=as_json)
    sys.exit(found.exit_code)
