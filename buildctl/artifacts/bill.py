"""A bill of materials in CycloneDX: writing one from the contents of layers, and reading one."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from buildctl import __version__
from buildctl.artifacts.contents import Package
from buildctl.artifacts.licences import spdx
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, ImageConfig

SBOM_KIND = "application/vnd.cyclonedx+json"


Key = tuple[str, str, str]  # kind, name, version


def bill(
    name: str,
    descriptor: Descriptor,
    config: ImageConfig,
    packages: Sequence[Package],
    hashes: Mapping[Key, Digest],
    *,
    suite: str,
) -> dict[str, Any]:
    """The document as JSON. Its serial number follows from the image's digest, its time is the image's."""
    components = [_component(p, hashes, suite) for p in packages]
    version = config.labels.get("org.opencontainers.image.version", str(descriptor.digest))
    root = f"pkg:oci/{quote(name)}@{quote(str(descriptor.digest), safe='')}?arch={config.platform.architecture}"
    image = {
        "type": "container",
        "bom-ref": root,
        "name": name,
        "version": version,
        "purl": root,
        "hashes": [{"alg": "SHA-256", "content": descriptor.digest.hex}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, str(descriptor.digest))}",
        "version": 1,
        "metadata": {
            **({"timestamp": config.created} if config.created else {}),
            "tools": {"components": [{"type": "application", "name": "buildctl", "version": __version__}]},
            "component": image,
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [c["bom-ref"] for c in components]}],
    }


def packages_in_bill(value: Mapping[str, Any]) -> tuple[Package, ...]:
    """The packages listed in one of our bills, for comparison; other components are left out. Raises LayoutError, also
    for a name with a line break or another character that would change what is shown around it.
    """
    try:
        found = [package for component in value.get("components", ()) if (package := _package(component))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LayoutError(f"not a bill of materials ({error!r})") from error
    return tuple(sorted(found, key=lambda p: (p.kind, p.name, p.within, p.version)))


def _package(component: Mapping[str, Any]) -> Package | None:
    purl = str(component.get("purl", ""))
    kind = purl.removeprefix("pkg:").partition("/")[0]
    if kind not in {"deb", "pypi"}:
        return None
    arch = purl.partition("?arch=")[2].partition("&")[0]
    name, version = str(component["name"]), str(component.get("version", ""))
    within = str(component["bom-ref"]).partition("#")[2]
    if not f"{name}{version}{arch}{within}".isprintable():
        raise ValueError(f"{name[:80]!r}")
    return Package(kind=kind, name=name, version=version, architecture=arch, within=within)


def purl(package: Package, suite: str) -> str:
    """Package URL (ECMA-427)."""
    version = quote(package.version, safe="~:")
    if package.kind == "pypi":
        return f"pkg:pypi/{package.name}@{version}"
    distro = f"&distro=debian-{suite}" if suite else ""
    return f"pkg:deb/debian/{quote(package.name)}@{version}?arch={package.architecture}{distro}"


def _component(package: Package, hashes: Mapping[Key, Digest], suite: str) -> dict[str, Any]:
    """A package bundled in another distribution has no file of its own, so no hash."""
    digest = None if package.within else hashes.get((package.kind, package.name, package.version))
    reference = purl(package, suite)
    out: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"{reference}#{package.within}" if package.within else reference,
        "name": package.name,
        "version": package.version,
        "purl": reference,
        "supplier": {"name": package.supplier or package.name},
    }
    if digest is not None:
        out["hashes"] = [{"alg": "SHA-256", "content": digest.hex}]
    if package.within:
        out["properties"] = [{"name": "buildctl:within", "value": package.within}]
    if package.expression:
        out["licenses"] = [{"expression": package.expression}]
    elif package.licences:
        known = dict.fromkeys((("id", i) if (i := spdx(name)) else ("name", name)) for name in package.licences)
        out["licenses"] = [{"license": {key: value}} for key, value in known]
    return out


def compare(name: str, packages: Iterable[Package], hashes: Mapping[Key, Digest], *, whole: bool) -> None:
    """Checks that the image holds exactly what was locked for it; `whole` if the base is locked, too."""
    there = {(p.kind, p.name, p.version) for p in packages if not p.within and (whole or p.kind == "pypi")}
    extra, missing = sorted(there - set(hashes)), sorted(set(hashes) - there)
    if extra or missing:
        listed = [f"not locked: {n} {v}" for _, n, v in extra] + [f"not in the image: {n} {v}" for _, n, v in missing]
        raise LayoutError(
            f"{name}: the image and its locks differ: {'; '.join(listed[:5])}"
            + (f" and {len(listed) - 5} more" if len(listed) > 5 else ""),
            hint="build the image again from the current locks",
        )
