"""What is shown: values only, from which every page follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from buildctl.artifacts.contents import Package
from buildctl.build.record import BuildRecord
from buildctl.host.catalogue import Subject
from buildctl.lock.claims import Claims
from buildctl.matrix.cells import Cell, Combination
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor
from buildctl.publish.diff import Side
from buildctl.testing.debt import Debt
from buildctl.testing.report import Report, Status


class PageState(StrEnum):
    """How far an image has come; the value is a class of the style sheet."""

    PASSED = "passed"
    PARTLY = "partly"
    FAILED = "failed"
    UNTESTED = "untested"
    UNBUILT = "unbuilt"


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePackage:
    """`size` and `digest` are those of the locked file, in bytes; None for what has no file of its own."""

    package: Package
    size: int | None
    digest: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLayer:
    """`packages` is None if nothing tells what is in this layer. `shared` are the other cells that have it."""

    step: str
    descriptor: Descriptor
    packages: tuple[PagePackage, ...] | None
    shared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTag:
    """`problem` is empty if the tag points at this image, or would; else why it does not."""

    name: str
    kind: str
    problem: str
    over: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSignature:
    """`status` is PASSED only if it was checked with a key."""

    status: Status
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PageImage:
    """A cell and what is known of it. `side` is None if it is not built (or not in the registry), `claims` if its locks
    are missing or stale, `report` if none is about this digest, `tags` if they cannot be told; `packages` are all of
    it, None if nothing lists them. `outdated` is why it no longer matches the locks.
    """

    cell: Cell
    torch: str
    locked: str
    claims: Claims | None
    side: Side | None
    layers: tuple[PageLayer, ...]
    packages: tuple[PagePackage, ...] | None
    report: Report | None
    debts: tuple[Debt, ...]
    tags: tuple[PageTag, ...] | None
    signature: PageSignature
    attached: tuple[tuple[str, str], ...] = ()
    outdated: str = ""

    @property
    def state(self) -> PageState:
        if self.report is not None:
            if self.report.verdict is Status.FAILED:
                return PageState.FAILED
            if self.report.verdict is Status.PASSED:
                return PageState.PARTLY if self.report.count(Status.NOT_RUN) else PageState.PASSED
        return PageState.UNBUILT if self.side is None and not self.cell.native else PageState.UNTESTED


@dataclass(frozen=True, slots=True, kw_only=True)
class PageData:
    """`place` is where images come from: the layout as the project shows it, or REGISTRY/REPOSITORY. `build` is the
    last build recorded in the layout.
    """

    title: str
    place: str
    registry: bool
    images: tuple[PageImage, ...]
    combinations: tuple[Combination, ...]
    systems: Mapping[str, str]
    subjects: tuple[Subject, ...]
    build: BuildRecord | None
