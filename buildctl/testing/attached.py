"""The reports that are attached to published images: what `buildctl test --attach` adds, here or elsewhere."""

from __future__ import annotations

from collections.abc import Collection

from buildctl.ground.errors import BuildctlError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor
from buildctl.registry.client import Repository
from buildctl.registry.members import entries
from buildctl.registry.referrers import Attached, Document, Signer, artifact, attach, document, referrers
from buildctl.testing.merge import REPORT_KIND, parse_report, report_bytes
from buildctl.testing.report import Report


def attached_reports(
    repository: Repository, digest: Digest, signer: Signer | None = None, *, only: Collection[Digest] | None = None
) -> list[Report]:
    """Of exactly that image. If `signer` has signed it, only reports it signed, because anyone who may push
    can attach a report; with `only`, those alone. Raises BuildctlError for an attached report that is malformed or
    about another image.
    """
    signed = signer.covered(repository, digest) if signer and only is None else only
    reports = [
        parse_report(document(repository, r), f"{repository.reference.name}@{r.descriptor.digest}")
        for r in referrers(repository, digest, REPORT_KIND)
        if signed is None or r.descriptor.digest in signed
    ]
    if wrong := next((report for report in reports if report.digest != digest), None):
        raise BuildctlError(f"{repository.reference.name}@{digest}: the report attached to it is about {wrong.digest}")
    return reports


def reports_at(repository: Repository) -> list[Report]:
    """Of the referenced image, or of every image in the index."""
    top = repository.manifest(repository.reference.wanted)
    digests = dict.fromkeys(entry.descriptor.digest for entry in entries(repository, top))
    return [report for digest in digests for report in attached_reports(repository, digest)]


def report_artifact(image: Descriptor, report: Report) -> Digest:
    """The digest under which that report is attached to that image."""
    return artifact(image, Document(kind=REPORT_KIND, data=report_bytes(report))).referrer.descriptor.digest


def attach_report(repository: Repository, image: Descriptor, report: Report) -> Attached:
    """Raises RegistryError."""
    return attach(repository, image, Document(kind=REPORT_KIND, data=report_bytes(report)))
