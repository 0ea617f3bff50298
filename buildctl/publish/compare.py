"""Where the two sides of `buildctl diff` come from: a name in the layout, or a reference to a registry."""

from __future__ import annotations

import json

from buildctl.artifacts.bill import SBOM_KIND, packages_in_bill
from buildctl.artifacts.contents import Package, packages_of
from buildctl.artifacts.store import Store
from buildctl.ground.errors import LayoutError
from buildctl.matrix.project import Project
from buildctl.oci.image import ImageConfig, Manifest
from buildctl.oci.layout import Layout, parse_object
from buildctl.publish.diff import Difference, Seen, difference
from buildctl.registry.client import Repository, open_repository
from buildctl.registry.pull import resolve
from buildctl.registry.reference import Reference
from buildctl.registry.referrers import document, referrers


def compare(project: Project, a: str, b: str, *, arch: str, plain_http: bool | None = None) -> Difference:
    """Raises LayoutError, RegistryError. Of an image in a registry only the manifest, the configuration and the
    attached bill of materials are fetched.
    """
    return difference(*(_seen(project, name, arch, plain_http) for name in (a, b)))


def _seen(project: Project, name: str, arch: str, plain_http: bool | None) -> Seen:
    layout = Layout(project.layout)
    if "/" not in name:
        return from_layout(layout, name, arch)
    reference = Reference.parse(name)
    return from_registry(open_repository(reference, plain_http=plain_http), arch)


def from_layout(layout: Layout, name: str, arch: str) -> Seen:
    """A name for one architecture (`cpu-2.6-arm64`) is used as it is."""
    descriptor = layout.resolve(name)
    if descriptor.platform is None or not name.endswith(f"-{descriptor.platform.architecture}"):
        try:
            descriptor = layout.resolve(name, arch)
        except LayoutError as error:
            raise LayoutError(error.message, hint=f"{error.hint}; choose one with --arch") from error
    packages = packages_of(layout, descriptor, store=Store.default())
    return Seen(
        name=name,
        descriptor=descriptor,
        config=layout.config(descriptor),
        layers=layout.manifest(descriptor).layers,
        packages=packages,
    )


def from_registry(repository: Repository, arch: str) -> Seen:
    found = resolve(repository, repository.reference.wanted, arch)
    manifest = Manifest.from_json(found.json())
    config = parse_object(repository.blob(manifest.config), f"configuration of {repository.reference}")
    bills = referrers(repository, found.descriptor.digest, SBOM_KIND)
    packages: tuple[Package, ...] | None = None
    if bills:
        packages = packages_in_bill(json.loads(document(repository, bills[0])))
    return Seen(
        name=str(repository.reference),
        descriptor=found.descriptor,
        config=ImageConfig.from_json(config),
        layers=manifest.layers,
        packages=packages,
    )
