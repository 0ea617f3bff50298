"""Where tags point, and moving them: never to fewer platforms, never to untested images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from buildctl.build.index import claimed, index_of
from buildctl.lock.claims import LABEL
from buildctl.matrix.accelerators import public_version
from buildctl.matrix.cells import Cell
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, MediaType, Platform, canonical_json
from buildctl.oci.layout import INDEX_TYPES
from buildctl.publish.lazy import Twins, lazy
from buildctl.publish.tags import Tag, TagKind
from buildctl.registry.client import Fetched, Repository
from buildctl.registry.members import IndexEntry, NotAnImageError, entries, is_unknown, look, same_platform
from buildctl.registry.problems import UnavailableError
from buildctl.registry.referrers import Signer
from buildctl.testing.report import Report, Status

WORKERS = 4


class TagOutcome(StrEnum):
    """`waiting` is not a failure: another run brings the rest. `refused` is."""

    CREATED = "new"
    MOVED = "moved"
    UNCHANGED = "as it was"
    WAITING = "waiting"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class TagState:
    """`digest` is what the tag points at now, `was` before. `platforms` maps each to what it gets."""

    name: str
    kind: TagKind
    outcome: TagOutcome
    digest: Digest | None = None
    was: Digest | None = None
    platforms: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    def where(self) -> str:
        if self.reason:
            return self.reason
        return ", ".join(self.platforms.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "tag": self.name,
            "kind": str(self.kind),
            "outcome": str(self.outcome),
            "digest": str(self.digest) if self.digest else None,
            "was": str(self.was) if self.was else None,
            "platforms": dict(self.platforms),
            "reason": self.reason or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """A tag and what it names afterwards, an index or an image with the content `data`; no `top` if it stays."""

    state: TagState
    top: Descriptor | None = None
    data: bytes = b""

    @property
    def index(self) -> Descriptor | None:
        return self.top if self.top is not None and self.top.media_type in INDEX_TYPES else None

    @property
    def sets(self) -> bool:
        return self.state.outcome in {TagOutcome.CREATED, TagOutcome.MOVED}


def move_tags(
    repository: Repository,
    tags: Sequence[Tag],
    candidates: Mapping[str, Descriptor],
    *,
    objections: Mapping[str, str],
    waits: Mapping[str, str] = MappingProxyType({}),
    revision: str = "",
    drop_platforms: frozenset[str] = frozenset(),
    dry_run: bool = False,
    signer: Signer | None = None,
    keep: bool = True,
    manifests: Mapping[Digest, bytes] = MappingProxyType({}),
) -> tuple[TagState, ...]:
    """Point `tags`, in order, at the candidates (by cell id, as `index.claimed` gives them), and each `-lazy` tag at
    their twins. Manifests of single cells must be in the repository; `manifests` are those of candidates, by digest,
    that need not be read from it.

    An architecture of a tag without a candidate keeps what the tag has for it; if it has nothing, the tag waits.
    A `signer` signs every index before a tag names it, and keeps only what it has signed. Without `keep`, such a tag
    is refused: nothing counts but the candidates. `waits` is what another machine still asks of a cell.
    """
    twins = Twins(repository=repository, manifests=manifests)
    decide = _Decide(repository, candidates, objections, waits, revision, drop_platforms, dry_run, signer, keep, twins)
    with ThreadPoolExecutor(WORKERS) as pool:
        moves = [move for both in pool.map(decide.both, tags) for move in both]
    if not dry_run:
        twins.put()
        for digest, data in {m.index.digest: m.data for m in moves if m.index and m.sets}.items():
            repository.put_manifest(data, MediaType.INDEX, str(digest))
        if signer:
            subjects = {m.index.digest: m.index for m in moves if m.index} | twins.descriptors
            with ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(lambda one: signer.sign(repository, one, ()), subjects.values()))
        for move in moves:
            if move.top and move.sets:
                _set(repository, move, move.top)
    return tuple(move.state for move in moves)


def _set(repository: Repository, move: _Move, top: Descriptor) -> None:
    """PUT, then read back, since people pull by tag. Raises UnavailableError."""
    for _ in range(3):
        repository.put_manifest(move.data, top.media_type, move.state.name)
        there = repository.head(move.state.name)
        if there is not None and there.digest == move.state.digest:
            return
    raise UnavailableError(
        f"{repository.reference.name}:{move.state.name} does not keep its new value",
        hint="someone else is moving it, or the registry's tags are immutable",
    )


@dataclass(frozen=True, slots=True)
class _Decide:
    repository: Repository
    candidates: Mapping[str, Descriptor]
    objections: Mapping[str, str]
    waits: Mapping[str, str]
    revision: str
    drop_platforms: frozenset[str]
    dry_run: bool
    signer: Signer | None
    keep: bool
    twins: Twins

    def both(self, tag: Tag) -> tuple[_Move, ...]:
        """The tag and its twin, which goes where the tag goes."""
        move = self.move(tag)
        twin = self.twin(tag, move, move.top) if move.top else None
        return (move,) if twin is None else (move, twin)

    def move(self, tag: Tag) -> _Move:
        if tag.kind is not TagKind.IMMUTABLE:
            said = [f"{c.id}: {self.objections[c.id]}" for c in tag.cells if c.id in self.objections]
            if said:
                return self._no(tag, tag.stem, TagOutcome.REFUSED, "; ".join(said))
            if later := [self.waits[c.id] for c in tag.cells if c.id in self.waits]:
                return self._no(tag, tag.stem, TagOutcome.WAITING, f"for what another machine asks: {'; '.join(later)}")
        if tag.single:
            return self._single(tag)
        return self._index(tag)

    def _single(self, tag: Tag) -> _Move:
        cell = tag.cells[0]
        found = self.candidates[cell.id]
        name = tag.name(self.revision or found.digest.short)
        state = self._state(tag, name, found.digest, {f"linux/{cell.arch}": cell.id}, self.repository.head(name))
        idle = self.dry_run or state.outcome is not TagOutcome.CREATED
        return _moved(state, found, b"" if idle else self.repository.manifest(str(found.digest)).data)

    def twin(self, tag: Tag, move: _Move, top: Descriptor) -> _Move | None:
        """None if no image has a twin. A `-lazy` tag left from when they had twins stays: it gets the plain images."""
        data, own = self.twins.under(top, move.data), replace(tag, stem=lazy(tag.stem))
        twin = replace(top, digest=Digest.of(data), size=len(data))
        if twin == top and tag.kind is TagKind.IMMUTABLE:
            return None
        name = own.name(self.revision or twin.digest.short)
        before = self.repository.head(name)
        if twin == top and before is None:
            return None
        return _moved(self._state(own, name, twin.digest, move.state.platforms, before), twin, data)

    def _index(self, tag: Tag) -> _Move:
        """With the digest as revision, an immutable tag's name follows from its content, so it has no past."""
        named = tag.name(self.revision) if self.revision or tag.kind is not TagKind.IMMUTABLE else ""
        there = self.repository.find(named) if named else None
        had = self._platforms(there) if there else {}
        members: dict[str, Descriptor] = {}
        for cell in tag.cells:
            platform = Platform(architecture=cell.arch)
            member = self.candidates.get(cell.id)
            if member is None and there and str(platform) in had:
                member = published(self.repository, str(had[str(platform)]))
                if reason := self._unfit(cell, member):
                    reason = f"its {platform} is not in this run, and {reason}"
                    return self._no(tag, named, TagOutcome.REFUSED, reason, there.descriptor.digest)
                if other := _other_than(cell, member):
                    reason = f"for {cell.id}: for {platform} it has {other}"
                    return self._no(tag, named, TagOutcome.WAITING, reason, there.descriptor.digest)
            if member is None:
                waits = [c.id for c in tag.cells if c.id not in self.candidates]
                return self._no(tag, named or f"{tag.stem}-...", TagOutcome.WAITING, f"for {', '.join(waits)}")
            members[str(platform)] = replace(member, platform=platform)
        lost = sorted(set(had) - set(members) - self.drop_platforms)
        if lost and there:
            reason = f"it has {', '.join(lost)}, which the matrix dropped (allow with --drop-platform {lost[0]})"
            return self._no(tag, named, TagOutcome.REFUSED, reason, there.descriptor.digest)
        index = index_of(list(members.values()), title=tag.title, torch=tag.torch)
        data = canonical_json(index.to_json())
        digest = Digest.of(data)
        name = named or tag.name(digest.short)
        before = there.descriptor if there else (None if named else self.repository.head(name))
        ids = {f"linux/{cell.arch}": cell.id for cell in tag.cells}
        top = Descriptor(media_type=MediaType.INDEX, digest=digest, size=len(data))
        return _moved(self._state(tag, name, digest, ids, before), top, data)

    def _state(
        self, tag: Tag, name: str, digest: Digest, platforms: Mapping[str, str], before: Descriptor | None
    ) -> TagState:
        was = before.digest if before else None
        state = TagState(
            name=name, kind=tag.kind, outcome=TagOutcome.CREATED, digest=digest, was=was, platforms=platforms
        )
        if was is None:
            return state
        if was == digest:
            return replace(state, outcome=TagOutcome.UNCHANGED)
        if tag.kind is TagKind.IMMUTABLE:
            reason = f"it is immutable and points at sha256:{was.short}: use another --revision"
            return replace(state, outcome=TagOutcome.REFUSED, digest=was, reason=reason)
        return replace(state, outcome=TagOutcome.MOVED)

    def _no(self, tag: Tag, name: str, outcome: TagOutcome, reason: str, was: Digest | None = None) -> _Move:
        return _Move(state=TagState(name=name, kind=tag.kind, outcome=outcome, digest=was, was=was, reason=reason))

    def _unfit(self, cell: Cell, member: Descriptor) -> str:
        """Why a tag does not keep what it has for a platform: anyone who may push could have put it there."""
        if not self.keep:
            return "no build job handed on what the tag has for it"
        if not same_platform(member.platform or Platform(architecture=""), Platform(architecture=cell.arch)):
            return f"the tag's image for it is configured for {member.platform}"
        if self.signer and self.signer.covered(self.repository, member.digest) is None:
            return "not signed by this run's signer, as far as known"
        return ""

    def _platforms(self, there: Fetched) -> dict[str, Digest]:
        """What a tag has for each platform, without other tools' attestations. If the index gives no platform,
        the image's configuration does.
        """
        found: dict[str, Digest] = {}
        for entry in entries(self.repository, there):
            with suppress(NotAnImageError):
                platform = entry.said or look(self.repository, entry).platform
                if not is_unknown(platform):
                    found.setdefault(str(platform), entry.descriptor.digest)  # clients take the first
        return found


def _moved(state: TagState, top: Descriptor, data: bytes) -> _Move:
    return _Move(state=state) if state.outcome is TagOutcome.REFUSED else _Move(state=state, top=top, data=data)


def _other_than(cell: Cell, member: Descriptor) -> str:
    """Claims of the image that contradict the cell; empty if none do."""
    for key, wanted in (("torch", public_version(str(cell.torch))), ("accelerator", cell.accelerator.name)):
        said = member.annotations.get(LABEL + key)
        if said is not None and public_version(said) != wanted:
            return f"{key} {said}, not {wanted}"
    return ""


def published(repository: Repository, wanted: str) -> Descriptor:
    """An image of the repository, as a member of an index. Raises RegistryError, LayoutError."""
    found = repository.manifest(wanted)
    member = look(repository, IndexEntry(descriptor=found.descriptor))
    return claimed(found.descriptor, member.config)


def objection(
    report: Report | None, digest: Digest, allow_not_run: AbstractSet[str], require: AbstractSet[str] = frozenset()
) -> str | None:
    """Why that digest does not pass, None if it does. NOT RUN counts as passed only if allowed by name, and
    never if required.
    """
    if report is None:
        return "not tested: run `buildctl test`"
    if report.digest != digest:
        return f"the report is about sha256:{report.digest.short}, not sha256:{digest.short}: run `buildctl test` again"
    failed = [f.name for f in report.findings if f.status is Status.FAILED]
    if failed:
        return f"FAILED: {', '.join(failed)}"
    if report.verdict is not Status.PASSED:
        return "every finding is NOT RUN" if report.findings else "no finding applies to it"
    answered = {f.name for f in report.findings if f.status is not Status.NOT_RUN}
    missing = [name for name in not_run(report) if name not in allow_not_run | require]
    wrong = {"required and NOT RUN": sorted(require - answered), "NOT RUN without permission": missing}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong.items() if names) or None


def not_run(report: Report | None) -> tuple[str, ...]:
    return tuple(f.name for f in report.findings if f.status is Status.NOT_RUN) if report else ()
