from __future__ import annotations

from pathlib import Path

from buildctl.artifacts.bill import bill, packages_in_bill
from buildctl.artifacts.contents import Package, packages_of
from buildctl.artifacts.store import Store
from buildctl.oci.image import ImageConfig, Platform, canonical_json
from buildctl.publish.diff import Seen, difference
from tests.support.cyclonedx import problems
from tests.support.images import file, image, symlink, tar

STATUS = b"""\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12
Maintainer: GNU Libc Maintainers <x@example.invalid>
Description: text
 Version: not a field

Package: gone
Status: deinstall ok config-files
Version: 1

Package: libgcc-s1
Status: install ok installed
Architecture: amd64
Version: 1:14.2.0-19
"""
COPYRIGHT = b"Format: https://example.invalid/copyright-format/1.0/\n\nFiles: *\nLicense: LGPL-2.1+\n"
METADATA = b"Name: Typing_Extensions\nVersion: 4.16.0\nLicense-Expression: PSF-2.0\nAuthor: A\n\nName: in the body\n"
VENDORED = b"Metadata-Version: 2.1\nName: wheel\nVersion: 0.46.3\nClassifier: License :: OSI Approved :: MIT License\n"
SITE = "usr/local/lib/python3.13/dist-packages"

BASE = tar(
    file("usr/share/doc/libc6/copyright", COPYRIGHT),
    file("usr/share/doc/gcc-14-base/copyright", COPYRIGHT.replace(b"LGPL-2.1+", b"GPL-3+")),
    symlink("usr/share/doc/libgcc-s1", "gcc-14-base"),
    file("var/lib/dpkg/status", STATUS),
)
WHEELS = tar(
    file(f"{SITE}/typing_extensions-4.16.0.dist-info/METADATA", METADATA),
    file(f"{SITE}/setuptools/_vendor/wheel-0.46.3.dist-info/METADATA", VENDORED),
    file("usr/share/x.dist-info/METADATA", METADATA),  # nothing that Python would import
)


def by_name(packages: tuple[Package, ...]) -> dict[str, Package]:
    return {p.name: p for p in packages}


def test_packages_of_both_kinds_are_found_with_licence_and_supplier(tmp_path: Path) -> None:
    found = by_name(packages_of(*image(tmp_path, BASE, WHEELS)))
    assert set(found) == {"libc6", "libgcc-s1", "typing-extensions", "wheel"}
    assert found["libc6"] == Package(
        kind="deb", name="libc6", version="2.41-12", architecture="amd64", supplier="GNU Libc Maintainers",
        licences=("LGPL-2.1+",),
    )  # fmt: skip
    assert found["libgcc-s1"].licences == ("GPL-3+",)
    assert (found["typing-extensions"].expression, found["typing-extensions"].supplier) == ("PSF-2.0", "A")
    assert (found["wheel"].within, found["wheel"].licences) == ("setuptools", ("MIT License",))


def test_python_packages_of_debian_are_listed_as_debian_packages(tmp_path: Path) -> None:
    theirs = tar(file("usr/lib/python3/dist-packages/typing_extensions-4.16.0.dist-info/METADATA", METADATA))
    assert set(by_name(packages_of(*image(tmp_path, BASE, theirs)))) == {"libc6", "libgcc-s1"}


def test_a_database_replaces_the_one_below(tmp_path: Path) -> None:
    newer = tar(file("var/lib/dpkg/status", STATUS.replace(b"2.41-12", b"2.41-13")))
    assert by_name(packages_of(*image(tmp_path, BASE, newer)))["libc6"].version == "2.41-13"


def test_a_layer_is_read_once(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, BASE, WHEELS)
    store = Store(tmp_path / "store")
    first = packages_of(layout, descriptor, store=store)
    for layer in layout.manifest(descriptor).layers:
        layout.blob_path(layer.digest).unlink()
    assert packages_of(layout, descriptor, store=store) == first


def test_a_bill_is_valid_cyclonedx_and_lists_what_is_inside(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, BASE, WHEELS)
    packages = packages_of(layout, descriptor)
    hashes = {("deb", "libc6", "2.41-12"): descriptor.digest}
    value = bill("cpu-2.6", descriptor, layout.config(descriptor), packages, hashes, suite="trixie")
    assert problems(canonical_json(value)) == []
    listed = {(p.kind, p.name, p.version, p.within) for p in packages_in_bill(value)}
    assert listed == {(p.kind, p.name, p.version, p.within) for p in packages}
    purls = {c["name"]: c["purl"] for c in value["components"]}
    assert purls["libgcc-s1"] == "pkg:deb/debian/libgcc-s1@1:14.2.0-19?arch=amd64&distro=debian-trixie"
    assert purls["typing-extensions"] == "pkg:pypi/typing-extensions@4.16.0"


def test_the_difference_of_two_images(tmp_path: Path) -> None:
    newer = BASE.replace(b"2.41-12", b"2.41-13")
    sides = []
    for name, layers in {"a": (BASE, WHEELS), "b": (newer, WHEELS)}.items():
        layout, descriptor = image(tmp_path / name, *layers)
        manifest = layout.manifest(descriptor)
        sides.append(
            Seen(
                name=name,
                descriptor=descriptor,
                config=layout.config(descriptor),
                layers=manifest.layers,
                packages=packages_of(layout, descriptor),
            )
        )
    found = difference(*sides)
    assert [c.line() for c in found.packages or ()] == ["~ deb libc6 2.41-12 -> 2.41-13"]
    assert [c.what for c in found.layers] == ["layer 0"]
    assert found.shared == sides[0].layers[1].size
    assert found.configuration == ()
    assert "identical images" in difference(sides[0], sides[0]).text()


def test_settings_that_changed_are_named(tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, BASE)
    config = layout.config(descriptor)
    other = ImageConfig(platform=Platform(architecture="amd64"), user="1000", labels={"a": "b"})
    seen = [Seen(name="x", descriptor=descriptor, config=c, layers=(), packages=None) for c in (config, other)]
    lines = [c.line() for c in difference(*seen).configuration]
    assert lines == ["- env PATH /bin", "+ label a b", "+ user 1000"]
