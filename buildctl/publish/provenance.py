"""Where an image comes from: an in-toto statement with a SLSA v1 predicate, made from locks and rendered files alone.

Every input is named by its hash, none by a host. Same image and same run, same bytes; but layers that a shared cache
vouches for are named with the key that signed them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from buildctl import __version__
from buildctl.ground.errors import LockError, UsageError
from buildctl.lock.locked import LockedCell
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, canonical_json
from buildctl.oci.remote import Place
from buildctl.publish.sbom import locked_hashes
from buildctl.registry.referrers import Document

PROVENANCE_KIND = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:x-buildctl:image:1"
LOCAL = "urn:x-buildctl:builder:unnamed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CiRun:
    """Who ran the build, and of what. `builder` is a URI, such as a workflow's; `source` the repository with its
    `commit`; `invocation` names this one run. Empty is not known.
    """

    builder: str = LOCAL
    source: str = ""
    commit: str = ""
    invocation: str = ""

    @classmethod
    def parse(cls, *, builder: str | None, source: str | None, invocation: str | None) -> CiRun:
        """`source` is REPOSITORY@COMMIT. Raises UsageError."""
        repository, _, commit = (source or "").rpartition("@")
        if source and not (repository and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit)):
            raise UsageError(f"{source} is not REPOSITORY@COMMIT", hint="COMMIT is the whole hash, in hexadecimal")
        return cls(builder=builder or LOCAL, source=repository, commit=commit, invocation=invocation or "")


def provenance_document(
    project: Project,
    locked: LockedCell,
    descriptor: Descriptor,
    *,
    run: CiRun | None = None,
    cached: Sequence[Place] = (),
) -> Document:
    """`cached` are layers for which a shared cache vouches. Raises LockError."""
    return Document(
        kind=PROVENANCE_KIND,
        data=canonical_json(statement(project, locked, descriptor, run=run or CiRun(), cached=cached)),
        annotations={"in-toto.io/predicate-type": PREDICATE},
    )


def statement(
    project: Project, locked: LockedCell, descriptor: Descriptor, *, run: CiRun, cached: Sequence[Place] = ()
) -> dict[str, Any]:
    cell = locked.cell
    source = [{"uri": run.source, "digest": {"gitCommit": run.commit}}] if run.source else []
    layers = [
        {
            "uri": f"urn:x-buildctl:layer:{place.key}",
            "digest": {"sha256": place.layer.digest.hex},
            "annotations": {"signedBy": place.signer},
        }
        for place in cached
    ]
    inputs = [_file(project, path) for path in _files(project, cell)]
    artifacts = [
        {"uri": f"pkg:{'deb/debian' if kind == 'deb' else kind}/{quote(name)}@{quote(version, safe='~:')}"}
        | {"digest": {"sha256": digest.hex}}
        for (kind, name, version), digest in sorted(locked_hashes(locked).items())
    ]
    return {
        "_type": STATEMENT,
        "subject": [{"name": cell.id, "digest": {"sha256": descriptor.digest.hex}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "image": cell.image,
                    "platform": cell.platform,
                    "torch": str(cell.torch),
                    "python": cell.python,
                },
                "internalParameters": {},
                "resolvedDependencies": [*source, *inputs, *artifacts, *layers],
            },
            "runDetails": {
                "builder": {"id": run.builder, "version": {"buildctl": __version__}},
                **({"metadata": {"invocationId": run.invocation}} if run.invocation else {}),
            },
        },
    }


def _files(project: Project, cell: Cell) -> list[Path]:
    return [project.dockerfile(cell.name), project.wheel_lock(cell.name, cell.arch), *project.debian_locks(cell)]


def _file(project: Project, path: Path) -> dict[str, Any]:
    try:
        digest = Digest.of_file(path)
    except OSError as error:
        raise LockError(f"{path}: {error.strerror}", hint="run `buildctl lock` and `buildctl render`") from error
    return {"name": path.relative_to(project.root).as_posix(), "digest": {"sha256": digest.hex}}
