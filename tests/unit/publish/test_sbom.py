"""The bill of materials, by the schema of CycloneDX itself, and what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from buildctl.artifacts.bill import bill, packages_in_bill
from buildctl.artifacts.contents import Package
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, ImageConfig, MediaType, Platform, canonical_json
from tests.support.cyclonedx import problems

IMAGE = Descriptor(media_type=MediaType.MANIFEST, digest=Digest("a" * 64), size=1)
CONFIG = ImageConfig(platform=Platform(architecture="arm64"), created="1980-01-01T00:00:00Z")
PACKAGES = (
    Package(
        kind="deb", name="libc6", version="1:2.41-12+deb13u4", architecture="arm64", licences=("GPL-2+", "Expat", "MIT")
    ),
    Package(kind="deb", name="libstdc++6", version="14.2.0-19", architecture="arm64", supplier="Debian GCC"),
    Package(kind="pypi", name="numpy", version="2.5.5", expression="BSD-3-Clause AND 0BSD"),
    Package(kind="pypi", name="torch", version="2.6.0+cu124", licences=("BSD License",)),
    Package(kind="pypi", name="wheel", version="0.46.3", within="setuptools"),
)
HASHES = {("pypi", "torch", "2.6.0+cu124"): Digest("b" * 64), ("pypi", "wheel", "0.46.3"): Digest("c" * 64)}


def made(packages: tuple[Package, ...] = PACKAGES) -> dict[str, Any]:
    return bill("cpu-2.6", IMAGE, CONFIG, packages, HASHES, suite="trixie")


def component(name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in made()["components"] if c["name"] == name)
    return found


def test_it_is_valid_by_the_schema() -> None:
    assert problems(json.dumps(made())) == []
    assert problems(json.dumps(made(()))) == []
    assert problems(json.dumps(made() | {"components": [{"name": "no type"}]})) != []
    assert (
        problems(json.dumps(made() | {"components": [component("torch") | {"licenses": [{"license": {"id": "x"}}]}]}))
        != []
    )


def test_no_reference_stands_for_two_components() -> None:
    twice = (*PACKAGES, replace(PACKAGES[-1], within=""))
    references = [c["bom-ref"] for c in made(twice)["components"]]
    assert len(references) == len(set(references)) == len(twice)


def test_what_is_written_is_read_back() -> None:
    named = [(p.kind, p.name, p.version, p.architecture, p.within) for p in packages_in_bill(made())]
    assert named == [(p.kind, p.name, p.version, p.architecture, p.within) for p in PACKAGES]


def test_versions_and_names_are_escaped_in_package_urls() -> None:
    assert component("libc6")["purl"] == "pkg:deb/debian/libc6@1:2.41-12%2Bdeb13u4?arch=arm64&distro=debian-trixie"
    assert component("libstdc++6")["purl"].startswith("pkg:deb/debian/libstdc%2B%2B6@14.2.0-19")
    assert component("torch")["purl"] == "pkg:pypi/torch@2.6.0%2Bcu124"


def test_licences_are_identifiers_where_the_name_leaves_no_doubt() -> None:
    identifiers = [{"license": {"id": "GPL-2.0-or-later"}}, {"license": {"id": "MIT"}}]
    assert component("libc6")["licenses"] == identifiers
    assert component("torch")["licenses"] == [{"license": {"name": "BSD License"}}]
    assert component("numpy")["licenses"] == [{"expression": "BSD-3-Clause AND 0BSD"}]
    assert "licenses" not in component("libstdc++6")


def test_only_what_was_locked_has_a_hash() -> None:
    assert component("torch")["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]
    assert "hashes" not in component("wheel")
    assert "hashes" not in component("numpy")


def test_the_same_image_has_the_same_bill() -> None:
    assert canonical_json(made()) == canonical_json(made())
    other = replace(IMAGE, digest=Digest("d" * 64))
    changed = bill("cpu-2.6", other, CONFIG, PACKAGES, HASHES, suite="trixie")
    assert changed["serialNumber"] != made()["serialNumber"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_every_component_has_a_supplier(package: Package) -> None:
    assert component(package.name)["supplier"]["name"] == (package.supplier or package.name)


@pytest.mark.parametrize("key", ["name", "version"])
def test_a_bill_of_others_whose_names_have_line_breaks_is_none(key: str) -> None:
    forged = made()
    next(one for one in forged["components"] if one["purl"].startswith("pkg:pypi"))[key] = "1\n\n# PASSED"
    with pytest.raises(LayoutError, match="not a bill of materials"):
        packages_in_bill(forged)
