"""`buildctl verify REFERENCE`: is what a registry serves what its documents say, down to the bytes of the layers.

Needs neither project nor locks. What cannot be checked here is NOT RUN with the reason, as everywhere.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildctl.accelerators import VERSIONED, kind_in_image
from buildctl.claims import LABEL
from buildctl.contents import Package, packages_of
from buildctl.errors import BuildctlError
from buildctl.gate import REPORT_KIND, merged, parse_report
from buildctl.keys import PublicKey
from buildctl.oci.check import check_image
from buildctl.oci.image import Descriptor, ImageConfig, Index
from buildctl.oci.layout import INDEX_TYPES, Layout
from buildctl.progress import Progress
from buildctl.provenance import PREDICATE, PROVENANCE_KIND
from buildctl.registry.client import Fetched, Repository
from buildctl.registry.pull import pull
from buildctl.registry.referrers import document
from buildctl.report import Finding, Status
from buildctl.sbom import SBOM_KIND, packages_in_bill
from buildctl.signed import MissingError, Signed, WrongError
from buildctl.targets import in_registry

_SHOWN = 5


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
    """Every platform that the reference leads to, or one. Layers go to a temporary folder below `scratch`.

    With `key`, the image and the index that led to it must be signed by it, and what is attached covered by that.
    Raises RegistryError when the registry does not answer, LayoutError when there is no image for `arch`; what is wrong
    with an image is a finding.
    """
    out = []
    top = repository.manifest(repository.reference.wanted)  # a tag may move while we look: this is what it was
    if arch and top.descriptor.media_type not in INDEX_TYPES:
        in_registry(repository).of(arch)  # an image is for one architecture, and pulled whatever that is
    for platform_arch in [arch] if arch else _architectures(top):
        with tempfile.TemporaryDirectory(prefix="buildctl-verify-", dir=scratch) as folder:
            layout = Layout(Path(folder))
            wanted = str(top.descriptor.digest)
            image = pull(repository, wanted, arch=platform_arch, layout=layout, name="image", progress=progress)
            signed = Signed(repository, tuple(dict.fromkeys((top.descriptor.digest, image.digest))), key)
            check = _Check(repository, layout, image, signed)
            name = f"{repository.reference} {check.config.platform}"
            out.append(Verified(name=name, digest=str(image.digest), findings=tuple(check.findings())))
    return out


def _architectures(found: Fetched) -> list[str]:
    if found.descriptor.media_type in INDEX_TYPES:
        platforms = [m.platform for m in Index.from_json(found.json()).manifests if m.platform]
        return sorted({p.architecture for p in platforms if p.os == "linux"})
    return [""]  # an image: whatever it is for


class _Check:
    def __init__(self, repository: Repository, layout: Layout, image: Descriptor, signed: Signed) -> None:
        self.repository, self.layout, self.image, self.signed = repository, layout, image, signed
        self.config: ImageConfig = layout.config(image)
        self._packages: tuple[Package, ...] | None = None

    def findings(self) -> Iterator[Finding]:
        checks: Mapping[str, Callable[[], str]] = {
            "signature": self.signed.signature,
            "layers": self.layers,
            "bill of materials": self.bill,
            "labels": self.labels,
            "provenance": self.provenance,
            "report": self.report,
        }
        for name, check in checks.items():
            try:
                status, detail = Status.PASSED, check()
            except MissingError as error:
                status, detail = Status.NOT_RUN, str(error)
            except (BuildctlError, WrongError) as error:
                status, detail = Status.FAILED, str(error)
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
                status, detail = Status.FAILED, f"malformed ({error!r})"
            yield Finding(name=name, status=status, detail=detail)

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
        """What torch and its companions are called in the labels is what lies in the layers."""
        there = {p.name: p.version for p in self.packages if p.kind == "pypi" and not p.within}
        checked = []
        for name in ("torch", "torchvision", "torchaudio"):
            said = self.config.labels.get(f"dev.buildctl.{name}")
            if said is None:
                continue
            found = there.get(name)
            if found is None or found.partition("+")[0] != said.partition("+")[0]:
                raise WrongError(f"the label says {name} {said}, the layers hold {found or 'none'}")
            checked.append(f"{name} {said}")
        said_kind = kind_in_image((), self.config.labels, LABEL)
        for kind in VERSIONED:
            foreign = sorted(n for n in there if kind != said_kind and kind.vendor and n.startswith(kind.vendor))
            if checked and foreign:
                raise WrongError(f"the labels say {said_kind.label}, the layers hold {foreign[0]}")
        if not checked:
            raise MissingError("no label of buildctl says what is inside")
        return ", ".join(checked)

    def provenance(self) -> str:
        for value in self._json(PROVENANCE_KIND):
            if value["predicateType"] != PREDICATE:
                raise WrongError(f"predicate {value['predicateType']}")
            (subject,) = value["subject"]
            if subject["digest"]["sha256"] != self.image.digest.hex:
                raise WrongError(f"it is about sha256:{subject['digest']['sha256'][:12]}")
            inputs = value["predicate"]["buildDefinition"]["resolvedDependencies"]
            builder = value["predicate"]["runDetails"]["builder"]["id"]
        said = "signed" if self.signed.covered else "unsigned: it is a claim"
        return f"{len(inputs)} inputs by hash, built by {builder} ({said})"

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
        return [json.loads(data) for data in self._documents(kind)]

    def _documents(self, kind: str) -> list[bytes]:
        return [document(self.repository, referrer) for referrer in self.signed.of_kind(kind)]


def _names(packages: tuple[Package, ...]) -> set[str]:
    return {f"{p.kind} {p.name} {p.version}" for p in packages}
