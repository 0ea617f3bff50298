from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.artifacts.contents import Package, packages_of
from buildctl.ground.errors import LayoutError
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, History, ImageConfig, MediaType, Platform
from buildctl.oci.layout import Layout
from buildctl.publish.diff import Change, Side, compare, difference, package_changes
from tests.conftest import ROOT
from tests.support.images import Blobs, config_of, file, image, tar

STATUS = b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12\n"
BASE = tar(file("var/lib/dpkg/status", STATUS))
WHEELS = tar(file("usr/lib/x.py", b"x"))
AMD64 = Platform(architecture="amd64")


def test_the_difference_of_two_images(tmp_path: Path) -> None:
    newer = BASE.replace(b"2.41-12", b"2.41-13")
    sides = []
    for name, layers in {"a": (BASE, WHEELS), "b": (newer, WHEELS)}.items():
        layout, descriptor = image(tmp_path / name, *layers)
        manifest = layout.manifest(descriptor)
        sides.append(
            Side(
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
    seen = [Side(name="x", descriptor=descriptor, config=c, layers=(), packages=None) for c in (config, other)]
    lines = [c.line() for c in difference(*seen).configuration]
    assert lines == ["- env PATH /bin", "+ label a b", "+ user 1000"]


def layer(name: str) -> Descriptor:
    return Descriptor(media_type=MediaType.LAYER_ZSTD, digest=Digest.of(name.encode()), size=1_500_000)


def seen(*layers: str, steps: tuple[str, ...] = (), packages: tuple[Package, ...] | None = ()) -> Side:
    config = ImageConfig(platform=AMD64, history=tuple(History(created_by=step) for step in steps))
    descriptor = Descriptor(media_type=MediaType.MANIFEST, digest=Digest.of(repr(layers).encode()), size=1)
    found = tuple(layer(name) for name in layers)
    return Side(name="x", descriptor=descriptor, config=config, layers=found, packages=packages)


def test_layers_are_named_by_their_step_and_equal_steps_are_told_apart() -> None:
    steps = ("RUN --mount=type=cache pip  install torch", "COPY . .", "COPY . .")
    found = difference(seen("a", "b", "c", steps=steps), seen("a", "d", "e", "f", steps=steps))
    assert [(c.what, bool(c.before), bool(c.after)) for c in found.layers] == [
        ("COPY . .", True, True),
        ("COPY . . (2)", True, True),
        ("layer 3", False, True),
    ]
    assert found.layers[0].before == f"sha256:{layer('b').digest.short} (1.50 MB)"
    (long,) = difference(seen("a", steps=("RUN " + "x" * 99,)), seen()).layers
    assert (len(long.what), long.what[-4:]) == (70, "x...")


def test_options_of_a_step_are_not_its_name() -> None:
    (found,) = difference(seen("a", steps=("RUN --mount=type=cache  pip install torch",)), seen()).layers
    assert found.what == "RUN pip install torch"


def test_a_package_that_came_inside_another_is_not_the_one_of_that_name() -> None:
    own = Package(kind="pypi", name="wheel", version="1")
    within = Package(kind="pypi", name="wheel", version="2", within="setuptools")
    assert [c.line() for c in package_changes([own], [own, within])] == ["+ pypi wheel (in setuptools) 2"]


def test_packages_that_are_not_known_are_not_called_the_same() -> None:
    found = difference(seen("a", packages=None), seen("b"))
    assert found.packages is None
    assert found.to_json()["packages"] is None
    assert "packages: unknown" in found.text()
    assert "packages: the same" in difference(seen("a"), seen("b")).text()


def test_one_side_of_a_change_is_null_in_json() -> None:
    assert Change(what="user", after="1000").to_json() == {"what": "user", "before": None, "after": "1000"}
    assert Change(what="user", before="1000").line() == "- user 1000"


def test_the_architecture_that_there_is_needs_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDCTL_CACHE", str(tmp_path / "store"))
    project = Project(root=ROOT, layout=tmp_path / "dist")
    blobs = Blobs(tmp_path / "blobs")
    layers = [blobs.add(tar(file("a")))]
    for name, arch in {"here": "amd64", "mac": "arm64", "both-a": "arm64"}.items():
        config = config_of(layers, arch=arch)
        Layout(project.layout).put_image(name=name, config=config, layers=layers, blob=blobs.path)
    monkeypatch.setattr("buildctl.publish.diff.machine", lambda: "x86_64")

    def sides(a: str, b: str, arch: str | None = None) -> list[str]:
        found = compare(lambda: project, a, b, arch=arch)
        return [found.a.config.platform.architecture, found.b.config.platform.architecture]

    assert sides("mac", "both-a") == ["arm64", "arm64"]
    assert sides("here", "mac") == ["amd64", "arm64"]
    with pytest.raises(LayoutError, match="has no linux/amd64"):
        sides("mac", "both-a", "amd64")


def test_images_of_other_layouts_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDCTL_CACHE", str(tmp_path / "store"))
    paths = []
    for name, layer in {"a": BASE, "b": BASE.replace(b"2.41-12", b"2.41-13")}.items():
        layout, descriptor = image(tmp_path / name, layer)
        layout.tag(descriptor, "one")
        paths.append(f"{layout.root}:one")

    def no_project() -> Project:
        raise AssertionError("asks for a project")

    found = compare(no_project, *paths, arch="amd64")
    assert [found.a.name, found.b.name] == paths
    assert [c.line() for c in found.packages or ()] == ["~ deb libc6 2.41-12 -> 2.41-13"]
