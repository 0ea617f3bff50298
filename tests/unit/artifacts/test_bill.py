"""What a bill of materials says of a package. The whole document: test_contents.py."""

from __future__ import annotations

from typing import Any

import pytest

from buildctl.artifacts.bill import bill, compare, packages_in_bill, purl
from buildctl.artifacts.contents import Package
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, ImageConfig, MediaType, Platform

LIBC = Package(kind="deb", name="libc6", version="2.41-12", architecture="amd64", supplier="Debian")
TORCH = Package(kind="pypi", name="torch", version="2.6.0", expression="BSD-3-Clause")
WITHIN = Package(kind="pypi", name="wheel", version="0.46.3", within="setuptools", licences=("MIT License", "Own"))
IMAGE = Descriptor(media_type=MediaType.MANIFEST, digest=Digest("a" * 64), size=1)
HASH = Digest("b" * 64)


def made(*packages: Package, created: str = "") -> dict[str, Any]:
    config = ImageConfig(platform=Platform(architecture="amd64"), created=created)
    hashes = {("deb", "libc6", "2.41-12"): HASH, ("pypi", "wheel", "0.46.3"): HASH}
    return bill("cpu-2.6", IMAGE, config, packages, hashes, suite="trixie")


@pytest.mark.parametrize(
    ("package", "suite", "expected"),
    [
        (LIBC, "trixie", "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-trixie"),
        (LIBC, "", "pkg:deb/debian/libc6@2.41-12?arch=amd64"),
        (TORCH, "trixie", "pkg:pypi/torch@2.6.0"),
        (Package(kind="deb", name="g++", version="1:2~a+b", architecture="all"), "", None),
        (Package(kind="pypi", name="x", version="1+cu"), "", "pkg:pypi/x@1%2Bcu"),
    ],
)
def test_a_package_url(package: Package, suite: str, expected: str | None) -> None:
    assert purl(package, suite) == (expected or "pkg:deb/debian/g%2B%2B@1:2~a%2Bb?arch=all")


def test_only_what_has_a_file_of_its_own_has_a_hash() -> None:
    libc, torch, within = made(LIBC, TORCH, WITHIN)["components"]
    assert libc["hashes"] == [{"alg": "SHA-256", "content": HASH.hex}]
    assert "hashes" not in torch
    assert "hashes" not in within
    assert within["bom-ref"] == "pkg:pypi/wheel@0.46.3#setuptools"
    assert within["properties"] == [{"name": "buildctl:within", "value": "setuptools"}]
    assert (libc["supplier"], torch["supplier"]) == ({"name": "Debian"}, {"name": "torch"})


def test_an_expression_is_kept_and_names_are_looked_up() -> None:
    _, torch, within = made(LIBC, TORCH, WITHIN)["components"]
    assert torch["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert {"license": {"name": "Own"}} in within["licenses"]


def test_the_same_image_has_the_same_bill_and_no_other_time_than_its_own() -> None:
    assert made(LIBC) == made(LIBC)
    assert "timestamp" not in made(LIBC)["metadata"]
    assert made(LIBC, created="1970-01-01T00:00:00Z")["metadata"]["timestamp"] == "1970-01-01T00:00:00Z"


def test_what_is_read_again_is_what_was_listed() -> None:
    found = packages_in_bill({"components": [*made(TORCH, LIBC, WITHIN)["components"], {"purl": "pkg:oci/x"}]})
    assert [(p.kind, p.name, p.version, p.architecture, p.within) for p in found] == [
        ("deb", "libc6", "2.41-12", "amd64", ""),
        ("pypi", "torch", "2.6.0", "", ""),
        ("pypi", "wheel", "0.46.3", "", "setuptools"),
    ]


@pytest.mark.parametrize("value", [{"components": 1}, {"components": ["x"]}, {"components": [{"purl": "pkg:deb/x"}]}])
def test_a_bill_that_somebody_else_wrote_is_no_traceback(value: dict[str, Any]) -> None:
    with pytest.raises(LayoutError, match="not a bill of materials"):
        packages_in_bill(value)


def test_an_image_and_its_locks_are_the_same_set() -> None:
    hashes = {("deb", "libc6", "2.41-12"): HASH, ("pypi", "torch", "2.6.0"): HASH}
    compare("cpu-2.6", [LIBC, TORCH, WITHIN], hashes, whole=True)
    with pytest.raises(LayoutError, match=r"cpu-2\.6: .* differ: not in the image: libc6 2\.41-12$"):
        compare("cpu-2.6", [TORCH], hashes, whole=True)
    only_wheels = {("pypi", "torch", "2.6.0"): HASH}
    compare("cpu-2.6", [LIBC, TORCH], only_wheels, whole=False)
    with pytest.raises(LayoutError, match=r"not locked: libc6 2\.41-12$"):
        compare("cpu-2.6", [LIBC, TORCH], only_wheels, whole=True)


def test_of_many_differences_five_are_shown() -> None:
    many = {("pypi", f"p{n}", "1"): HASH for n in range(7)}
    with pytest.raises(LayoutError, match=r"not in the image: p4 1 and 2 more$"):
        compare("x", [], many, whole=True)
