"""What publishing did: images sent, tags moved, findings that are NOT RUN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from buildctl.console.table import folded, size, table
from buildctl.ground.errors import ExitCode
from buildctl.matrix.cells import Cell
from buildctl.oci.image import Descriptor
from buildctl.publish.diff import Difference
from buildctl.publish.move import TagOutcome, TagState, not_run
from buildctl.registry.referrers import Document, Referrer
from buildctl.testing.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An image that tags may point at, with what is known about this exact digest. `not_run` are findings' names; those
    in `waits` are what another machine still asks, and nothing else stands against it. `size` is that of its layers in
    bytes; `change` is from what its moving tag has in the registry, None if that is nothing or was not asked.
    """

    cell: Cell
    descriptor: Descriptor
    documents: tuple[Document, ...] = ()
    report: Report | None = None
    objection: str | None = None
    waits: str = ""
    size: int = 0
    change: Difference | None = None

    @property
    def not_run(self) -> tuple[str, ...]:
        return not_run(self.report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """`sent` in bytes of blobs that this image was the first to need; `new` and `there` count blobs. `attached` is what
    this run attached, or found attached already.
    """

    candidate: Candidate
    sent: int
    new: int
    there: int
    mounted: int = 0
    attached: tuple[Referrer, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.candidate.cell.id,
            "digest": str(self.candidate.descriptor.digest),
            "size": self.candidate.size,
            "bytesSent": self.sent,
            "blobsSent": self.new,
            "blobsMounted": self.mounted,
            "blobsThere": self.there,
            "passed": self.candidate.objection is None,
            "objection": self.candidate.objection,
            "notRun": list(self.candidate.not_run),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    repository: str
    images: tuple[Pushed, ...]
    tags: tuple[TagState, ...]
    dry_run: bool
    signed: bool
    candidates: tuple[Candidate, ...] = ()

    @property
    def exit_code(self) -> int:
        """0, or 1 if a requested tag was refused."""
        refused = any(tag.outcome is TagOutcome.REFUSED for tag in self.tags)
        return ExitCode.FAILED if refused else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        return {
            "repository": self.repository,
            "dryRun": self.dry_run,
            "signed": self.signed,
            "images": [image.to_json() for image in self.images],
            "tags": [tag.to_json() for tag in self.tags],
            "notRun": {c.cell.id: list(c.not_run) for c in self.candidates if c.not_run},
        }

    def text(self) -> str:
        parts = []
        if self.images:
            sent = "TO SEND" if self.dry_run else "SENT"
            rows = [
                (
                    p.candidate.cell.id,
                    size(p.sent),
                    str(p.new),
                    str(p.mounted + p.there),
                    f"sha256:{p.candidate.descriptor.digest.short}",
                )
                for p in self.images
            ]
            parts.append(table(("CELL", sent, "BLOBS", "THERE", "DIGEST"), rows, right=frozenset({1, 2, 3})))
        if self.tags:
            parts.append(tags_text(self.tags))
        if lines := list(_not_run_lines(self.candidates)):
            parts.append("\n".join(["NOT RUN, but allowed:", *lines]))
        total = size(sum(p.sent for p in self.images))
        verb = "would be sent" if self.dry_run else "sent"
        signed = ", images and indexes are signed" if self.signed else ""
        return "\n\n".join([*parts, f"{self.repository}: {total} {verb}{signed}"])


def tags_text(tags: Sequence[TagState]) -> str:
    return folded(("TAG", "", "POINTS AT"), [(tag.name, tag.outcome.value, tag.where()) for tag in tags])


def _not_run_lines(candidates: Sequence[Candidate]) -> Iterator[str]:
    """For images that passed anyway; the others give their own reason."""
    waived = [c for c in candidates if c.objection is None and not c.waits]
    for name in dict.fromkeys(name for c in waived for name in c.not_run):
        yield f"  {name}: {', '.join(c.cell.id for c in waived if name in c.not_run)}"
