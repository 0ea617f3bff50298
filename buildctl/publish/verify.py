"""`buildctl verify REFERENCE`: does a registry serve what its documents say, down to the bytes of the layers?

Needs neither project nor locks. What cannot be checked is NOT RUN, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildctl.artifacts.bill import SBOM_KIND, packages_in_bill
from buildctl.artifacts.contents import Package, packages_of
from buildctl.console.progress import Progress
from buildctl.ground.errors import BuildctlError, ExitCode, LayoutError
from buildctl.ground.jsontext import parse_json
from buildctl.ground.scratch import scratch as scratch_folder
from buildctl.lock.claims import LABEL
from buildctl.matrix.accelerators import VERSIONED, kind_in_image, public_version
from buildctl.oci.check import check_image
from buildctl.oci.chunked.twin import OF, twin_of
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, MediaType, Platform
from buildctl.oci.layout import Layout
from buildctl.publish.pipeline.attestation import Origin, attested
from buildctl.publish.provenance import PREDICATE, PROVENANCE_KIND
from buildctl.publish.signatures import MissingError, Signed, WrongError
from buildctl.registry.client import Fetched, Repository
from buildctl.registry.keys import PublicKey
from buildctl.registry.members import IndexEntry, IndexMember, NotAnImageError, entries, is_unknown, look
from buildctl.registry.problems import AbsentError, UnavailableError
from buildctl.registry.pull import pull
from buildctl.registry.referrers import document
from buildctl.testing.merge import REPORT_KIND, merged, parse_report
from buildctl.testing.report import Finding, Status

_SHOWN = 5
CHECKS = ("signature", "platform", "layers", "bill of materials", "labels", "provenance", "report")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The findings about the image of one platform."""

    name: str
    digest: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        return any(finding.status is Status.FAILED for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "digest": self.digest, "findings": [f.to_json() for f in self.findings]}

    def text(self) -> str:
        width = max(len(f.name) for f in self.findings)
        lines = [f"  {f.status:<7}  {f.name:<{width}}  {f.detail}" for f in self.findings]
        return "\n".join([f"{self.name}  {self.digest}", *lines])


def verify(
    repository: Repository,
    *,
    arch: str | None,
    scratch: Path | None,
    progress: Progress,
    key: PublicKey | None = None,
) -> list[Verified]:
    """Every image that the reference leads to, or those for one architecture by the index's word or their own. Never
    empty: where there is none for Linux, that is what FAILED. Layers go to a temporary folder below `scratch`.

    With `key`, it must have signed the image and what the reference names, including what is attached.
    Raises RegistryError if the registry does not answer, LayoutError if there is nothing for `arch`; what is wrong
    with an image is a finding.
    """
    top = repository.manifest(repository.reference.wanted)  # pinned here, since the tag may move meanwhile
    signed = Signed(repository, top.descriptor.digest, key)
    signature = _finding("signature", signed.signature)  # before trusting anything the document says
    try:
        found = [_candidate(repository, entry) for entry in entries(repository, top)]
    except (LayoutError, AbsentError) as error:
        return [_nothing(repository, top, signature, error.message)]
    wanted = [candidate for candidate in found if not candidate.attestation and candidate.is_for(arch)]
    if arch and not wanted:
        there = ", ".join(dict.fromkeys(str(c.platform) for c in found if not c.attestation)) or "nothing"
        raise LayoutError(f"{repository.reference} has no image for {arch}", hint=f"it has: {there}")
    same = Counter(str(candidate.platform) for candidate in wanted)
    out = []
    for candidate in wanted:
        with scratch_folder("verify", under=scratch) as folder:
            check = _Verification(
                repository, Layout(Path(folder)), candidate, signed, same[str(candidate.platform)], progress
            )
            name = f"{repository.reference} {candidate.platform or 'unknown platform'}"
            findings = tuple(check.findings())
            out.append(Verified(name=name, digest=str(candidate.entry.descriptor.digest), findings=findings))
    if not any(candidate.system == "linux" for candidate in wanted):
        there = ", ".join(dict.fromkeys(str(c.platform) for c in wanted)) or "nothing"
        out.append(_nothing(repository, top, signature, f"no Linux image; it has: {there}"))
    return out


def exit_code(found: Sequence[Verified], require: Collection[str] = ()) -> ExitCode:
    """What was `require`d and did not run on an image is NOT RUN, which is not PASSED."""
    if any(image.failed for image in found):
        return ExitCode.FAILED
    ran = [{f.name for f in image.findings if f.status is Status.PASSED} for image in found]
    return ExitCode.OK if all(set(require) <= names for names in ran) else ExitCode.NOT_RUN


def _nothing(repository: Repository, top: Fetched, signature: Finding, why: str) -> Verified:
    """About what the reference names: it holds nothing to verify."""
    platform = Finding(name="platform", status=Status.FAILED, detail=why)
    return Verified(name=str(repository.reference), digest=str(top.descriptor.digest), findings=(signature, platform))


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        status, detail = Status.PASSED, check()
    except MissingError as error:
        status, detail = Status.NOT_RUN, str(error)
    except UnavailableError:
        raise  # says nothing about the image
    except (BuildctlError, WrongError) as error:
        status, detail = Status.FAILED, str(error)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        status, detail = Status.FAILED, f"malformed ({error!r})"
    return Finding(name=name, status=status, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """An entry and the image that it leads to, or the `problem` why it leads to none."""

    entry: IndexEntry
    member: IndexMember | None = None
    problem: str = ""
    artifact: bool = False

    @property
    def platform(self) -> Platform | None:
        return self.member.platform if self.member else self.entry.said

    @property
    def system(self) -> str:
        return self.platform.os if self.platform else "linux"

    @property
    def attestation(self) -> bool:
        """Something about an image, not run."""
        if self.artifact:
            return True
        return self.member.attestation if self.member else self.entry.said is not None and is_unknown(self.entry.said)

    def is_for(self, arch: str | None) -> bool:
        """By either word, so that a wrong one is found; without both, the image may be for anything."""
        said = [p for p in (self.entry.said, self.platform) if p is not None]
        return arch is None or not said or any(p.architecture == arch for p in said)


def _candidate(repository: Repository, entry: IndexEntry) -> _Candidate:
    try:
        return _Candidate(entry=entry, member=look(repository, entry))
    except NotAnImageError as error:
        return _Candidate(entry=entry, problem=error.message, artifact=True)
    except (LayoutError, AbsentError) as error:
        return _Candidate(entry=entry, problem=error.message)


class _Verification:
    """The findings about one image; its layers are pulled into `layout`. `same` is how many are for its platform."""

    image: Descriptor

    def __init__(
        self, repository: Repository, layout: Layout, candidate: _Candidate, top: Signed, same: int, progress: Progress
    ) -> None:
        self.repository, self.layout, self.same, self.progress = repository, layout, same, progress
        self.candidate, self.digest = candidate, candidate.entry.descriptor.digest
        self.signed = top.leading_to(self.digest)
        self._packages: tuple[Package, ...] | None = None

    def findings(self) -> Iterator[Finding]:
        yield _finding("signature", self.signed.signature)
        yield _finding("platform", self.platform)
        if self.candidate.member is None:
            return
        if problem := self._pulled():
            yield problem
            return
        if OF in self.candidate.member.manifest.annotations:
            yield _finding("twin", self.twin)
        checks: Mapping[str, Callable[[], str]] = {
            "layers": self.layers,
            "bill of materials": self.bill,
            "labels": self.labels,
            "provenance": self.provenance,
            "report": self.report,
        }
        for name, check in checks.items():
            yield _finding(name, check)

    def platform(self) -> str:
        """Clients choose by what the index says; what runs is what the configuration says."""
        member = self.candidate.member
        if member is None:
            raise WrongError(self.candidate.problem)
        if member.misplaced:
            raise WrongError(member.misplaced)
        if not member.platform.os or not member.platform.architecture:
            raise WrongError("the configuration has no platform")
        if self.same > 1:
            raise WrongError(f"{self.same} images for {member.platform}: clients may pull either")
        return f"{member.platform}, according to the configuration{' and the index' if member.said else ''}"

    def _pulled(self) -> Finding | None:
        """The image is in the layout, or a finding tells why there are no layers to check."""
        if self.candidate.system != "linux":
            why = f"it is for {self.candidate.platform}; buildctl reads Linux images only"
            return Finding(name="layers", status=Status.NOT_RUN, detail=why)
        try:
            self.image = pull(
                self.repository, str(self.digest), arch="", layout=self.layout, name="image", progress=self.progress
            )
            self.config = self.layout.config(self.image)
        except (LayoutError, AbsentError) as error:
            return Finding(name="layers", status=Status.FAILED, detail=error.message)
        return None

    def twin(self) -> str:
        """A twin must be what its image's manifest makes of it. Attachments belong to the image, so all other checks
        are about the image.
        """
        assert self.candidate.member is not None  # noqa: S101 - decided before
        member = self.candidate.member
        image = self.repository.manifest(str(Digest.parse(member.manifest.annotations[OF])))
        if twin_of(image.data) != member.fetched.data:
            raise WrongError(f"it is not derived from {image.descriptor.digest}, the manifest that it names")
        self.image = self.layout.write_bytes(MediaType.MANIFEST, image.data)
        self.signed = self.signed.leading_to(self.image.digest)
        if self.signed.key is not None:
            self.signed.signature()
        return f"of image sha256:{self.image.digest.short}, for stargz"

    @property
    def packages(self) -> tuple[Package, ...]:
        if self._packages is None:
            self._packages = packages_of(self.layout, self.image)
        return self._packages

    def layers(self) -> str:
        problems = check_image(self.layout, self.image)
        if problems:
            raise WrongError("; ".join(problems[:_SHOWN]))
        return f"{len(self.config.diff_ids)} layers match their digests and diff ids"

    def bill(self) -> str:
        for value in self._json(SBOM_KIND):
            (said,) = value["metadata"]["component"]["hashes"]
            if said["content"] != self.image.digest.hex:
                raise WrongError(f"it is about sha256:{said['content'][:12]}")
            listed, there = _names(packages_in_bill(value)), _names(self.packages)
            if listed != there:
                more = [f"{n} is only in the image" for n in sorted(there - listed)]
                less = [f"{n} is only in the bill" for n in sorted(listed - there)]
                raise WrongError("; ".join([*more, *less][:_SHOWN]))
        return f"{len(self.packages)} packages, exactly those in the layers"

    def labels(self) -> str:
        """Versions of torch and its companions in the labels match the layers."""
        there = {p.name: p.version for p in self.packages if p.kind == "pypi" and not p.within}
        checked = []
        for name in ("torch", "torchvision", "torchaudio"):
            said = self.config.labels.get(f"dev.buildctl.{name}")
            if said is None:
                continue
            found = there.get(name)
            if found is None or public_version(found) != public_version(said):
                raise WrongError(f"the label claims {name} {said}, the layers hold {found or 'none'}")
            checked.append(f"{name} {said}")
        said_kind = kind_in_image((), self.config.labels, LABEL)
        for kind in VERSIONED:
            foreign = sorted(n for n in there if kind != said_kind and kind.vendor and kind.vendor.fullmatch(n))
            if checked and foreign:
                raise WrongError(f"the labels claim {said_kind.label}, the layers hold {foreign[0]}")
        if not checked:
            raise MissingError("no buildctl labels claim what is inside")
        return ", ".join(checked)

    def provenance(self) -> str:
        said = set[Origin]()
        for value in self._json(PROVENANCE_KIND):
            if value["predicateType"] != PREDICATE:
                raise WrongError(f"predicate {value['predicateType']}")
            (subject,) = value["subject"]
            if subject["digest"]["sha256"] != self.image.digest.hex:
                raise WrongError(f"it is about sha256:{subject['digest']['sha256'][:12]}")
            inputs = value["predicate"]["buildDefinition"]["resolvedDependencies"]
            said.add(Origin.of(value["predicate"]))
        builder = max(said).builder
        signed = "signed" if self.signed.covered else "unsigned, so only a claim"
        return f"{len(inputs)} inputs by hash, built by {builder} ({signed}{self._attested(said)})"

    def _attested(self, said: AbstractSet[Origin]) -> str:
        """What the CI service says of the same. Only what names a commit was built by one."""
        there = attested(self.signed.bundles[self.digest], self.digest)
        ours = {origin for origin in said if origin.commit}
        if not there or not ours:
            return ""
        if not there & ours:
            one, other = min(ours), min(there)
            raise WrongError(
                f"it says {one.builder} built it of commit {one.commit[:12]}, "
                f"what is attested is {other.builder} of commit {other.commit[:12]}"
            )
        return "; attested, which `gh attestation verify` checks"

    def report(self) -> str:
        reports = [parse_report(data, "report") for data in self._documents(REPORT_KIND)]
        both = merged(reports)
        if both is None or both.digest != self.image.digest:
            raise WrongError("it is about another image")
        counts = {status: both.count(status) for status in Status}
        text = ", ".join(f"{count} {status.lower()}" for status, count in counts.items() if count)
        if counts[Status.FAILED]:
            raise WrongError(text)
        return text

    def _json(self, kind: str) -> list[Any]:
        return [parse_json(data) for data in self._documents(kind)]

    def _documents(self, kind: str) -> list[bytes]:
        return [document(self.repository, referrer) for referrer in self.signed.of_kind(kind)]


def _names(packages: tuple[Package, ...]) -> set[str]:
    return {f"{p.kind} {p.name} {p.version}" for p in packages}
