"""What the build jobs of a pipeline hand on to `promote`: digests of images and of the documents attached to them.

Between the two, whoever may push can point an immutable tag elsewhere or attach a report, so the registry's own word
is not enough. `promote` believes the digests alone, and refuses whatever changed after the builders were done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from buildctl.artifacts.bill import SBOM_KIND
from buildctl.ground.errors import BuildctlError, ExitCode, LayoutError
from buildctl.oci.digest import Digest
from buildctl.publish.provenance import PROVENANCE_KIND
from buildctl.publish.result import Pushed
from buildctl.publish.sign import is_bundle
from buildctl.registry.client import Repository
from buildctl.registry.referrers import referrers
from buildctl.testing.attached import report_artifact
from buildctl.testing.merge import REPORT_KIND
from buildctl.testing.report import Report

_TITLES = {REPORT_KIND: "report", SBOM_KIND: "bill of materials", PROVENANCE_KIND: "provenance"}


class UnexpectedError(BuildctlError):
    """The registry has something else than the build jobs handed on."""

    exit_code = ExitCode.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """One image: its digest, what its builder attached (artifact digest to kind), what others had attached before."""

    digest: Digest
    documents: Mapping[Digest, str]
    there: frozenset[Digest] = frozenset()

    def to_json(self) -> dict[str, Any]:
        return {
            "digest": str(self.digest),
            "documents": {str(digest): kind for digest, kind in sorted(self.documents.items())},
            "there": sorted(str(digest) for digest in self.there),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            digest=Digest.parse(value["digest"]),
            documents={Digest.parse(digest): str(kind) for digest, kind in value["documents"].items()},
            there=frozenset(Digest.parse(digest) for digest in value["there"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """`images` by cell id."""

    images: Mapping[str, Handed] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"images": {cell: handed.to_json() for cell, handed in sorted(self.images.items())}}

    def write(self, path: Path) -> None:
        """One line of JSON. Raises BuildctlError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.to_json()) + "\n", encoding="utf-8")
        except OSError as error:
            raise BuildctlError(
                f"{path}: {error.strerror}", hint="--hand-on names a file that can be written"
            ) from error

    def of(self, cell: str) -> Handed:
        """Raises UnexpectedError for a cell that no build job handed on."""
        try:
            return self.images[cell]
        except KeyError:
            there = ", ".join(sorted(self.images)) or "nothing"
            raise UnexpectedError(
                f"{cell}: no build job handed it on", hint=f"--expect has: {there}; build it in the same run"
            ) from None

    def with_documents(self, more: Mapping[str, Mapping[Digest, str]]) -> Handover:
        """The same, with further documents of those cells."""
        images = {c: replace(h, documents={**h.documents, **more.get(c, {})}) for c, h in self.images.items()}
        return Handover(images=images)


def handed_on(repository: Repository, pushed: Iterable[Pushed]) -> Handover:
    """What a build job is responsible for, and what else is attached at this moment. Raises RegistryError."""
    images = {}
    for one in pushed:
        digest = one.candidate.descriptor.digest
        documents = {r.descriptor.digest: r.kind for r in one.attached}
        others = {r.descriptor.digest for r in referrers(repository, digest)}
        images[one.candidate.cell.id] = Handed(
            digest=digest, documents=documents, there=frozenset(others - documents.keys())
        )
    return Handover(images=images)


def read_handover(paths: Sequence[Path]) -> Handover:
    """What several build jobs wrote. Raises BuildctlError for a file that is not theirs, or two that contradict."""
    images: dict[str, Handed] = {}
    for path in paths:
        for cell, handed in _read(path).images.items():
            if images.setdefault(cell, handed) != handed:
                raise UnexpectedError(f"{path}: {cell} was handed on before, with other digests")
    return Handover(images=images)


def refuse_unexpected(
    repository: Repository, expected: Handover, tags: Mapping[str, str], reports: Mapping[str, Sequence[Report]]
) -> None:
    """`tags` are the immutable tags of the images, `reports` those that an earlier try may have attached, by cell id.
    Raises UnexpectedError with all that differs.
    """
    wrong = [
        f"{cell}: {what}"
        for cell, tag in tags.items()
        for what in _differences(repository, expected.of(cell), tag, reports[cell])
    ]
    if wrong:
        raise UnexpectedError(
            "the registry has something else than the build jobs handed on: " + "; ".join(wrong),
            hint="somebody else pushed there: find out who may, then publish again with a new --revision",
        )


def _differences(repository: Repository, handed: Handed, tag: str, reports: Sequence[Report]) -> Iterator[str]:
    found = repository.head(tag)
    if found is None or found.digest != handed.digest:
        points = f"points at {found.digest}" if found else "does not exist"
        yield f"{repository.reference.name}:{tag} {points}, the build job pushed {handed.digest}"
        return
    attached = {r.descriptor.digest: r for r in referrers(repository, handed.digest)}
    for digest, kind in handed.documents.items():
        if digest not in attached:
            yield f"its {_title(kind)} {digest} is not attached any more"
    ours = {report_artifact(found, report) for report in reports}
    for digest in sorted(attached.keys() - handed.documents.keys() - handed.there - ours):
        if not is_bundle(repository, attached[digest]):  # signatures are believed for their key, not for being there
            yield f"{_article(_title(attached[digest].kind))} {digest} was attached after the build job"


def _title(kind: str) -> str:
    return _TITLES.get(kind, f"document of type {kind or 'unknown'}")


def _article(title: str) -> str:
    return title if title == "provenance" else f"a {title}"


def _read(path: Path) -> Handover:
    hint = "--expect takes what `buildctl publish --hand-on FILE` wrote"
    try:
        value = json.loads(path.read_bytes())
        return Handover(images={str(cell): Handed.from_json(one) for cell, one in value["images"].items()})
    except OSError as error:
        raise BuildctlError(f"{path}: {error.strerror}", hint=hint) from error
    except (ValueError, KeyError, TypeError, AttributeError, LayoutError, RecursionError) as error:
        raise BuildctlError(f"{path} does not hold digests of images ({error!r})", hint=hint) from error
