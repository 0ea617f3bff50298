from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildctl.dockerfile.bake import bake_file, target_of
from buildctl.ground.errors import BuildctlError
from buildctl.matrix.matrix import Matrix
from buildctl.matrix.read import parse_matrix
from buildctl.registry.bases import mirrored

DIGEST = "sha256:" + "a" * 64
MATRIX = """\
python: "3.13"
versions: {{"2.6": 2.6.0}}
packages: []
flavours: [runtime]
bases:
  slim:
    image: {image}
{more}
accelerators:
  cpu: {{arch: [arm64], base: slim, devices: {{}}}}
"""


def matrix(image: str, more: str = "", *, mirror: str = "") -> Matrix:
    text = MATRIX.format(image=image, more=more) + (f"mirror: {{images: {{{mirror}}}}}\n" if mirror else "")
    return parse_matrix(text, Path("matrix.yaml"))


def base_context(found: Matrix, *, root: Path = Path()) -> str:
    return target_of(found.cells[0], context=root / "images", layout=root / "dist").contexts["base"]


def test_an_image_base_is_pulled_by_digest() -> None:
    image = f"registry.invalid/python@{DIGEST}"
    assert base_context(matrix(image)) == f"docker-image://{image}"


def test_a_mirror_of_its_registry_serves_it_also_without_buildctl() -> None:
    found = matrix(f"python:3.13-slim@{DIGEST}", mirror="docker.io: registry.invalid:5000/hub")
    expected = f"docker-image://registry.invalid:5000/hub/library/python:3.13-slim@{DIGEST}"
    assert base_context(found) == expected
    assert json.loads(bake_file(found.cells))["target"]["cpu-2_6-arm64"]["contexts"]["base"] == expected


def test_a_mirror_of_another_registry_does_not() -> None:
    image = f"ghcr.invalid/python@{DIGEST}"
    assert base_context(matrix(image, mirror="docker.io: registry.invalid/hub")) == f"docker-image://{image}"


@pytest.mark.parametrize(
    ("image", "source"),
    [
        ("python@" + DIGEST, "m.invalid/library/python@" + DIGEST),
        ("team/python:3@" + DIGEST, "m.invalid/team/python:3@" + DIGEST),
        ("docker.io/team/python@" + DIGEST, "m.invalid/team/python@" + DIGEST),
        ("quay.invalid/a/b@" + DIGEST, "quay.invalid/a/b@" + DIGEST),
    ],
)
def test_names_in_a_mirror(image: str, source: str) -> None:
    assert mirrored(image, [("docker.io", "m.invalid")]) == source


@pytest.mark.parametrize("mirror", ["docker.io: https://registry.invalid", "docker.io: hub", 'hub: "registry.invalid"'])
def test_a_mirror_is_a_registry_and_no_url(mirror: str) -> None:
    with pytest.raises(BuildctlError, match=r"mirror.*a registry such as"):
        matrix(f"python@{DIGEST}", mirror=mirror)


def test_a_base_in_a_layout_is_found_from_the_project(tmp_path: Path) -> None:
    found = matrix(f"registry.invalid/python@{DIGEST}", "    layout: bases/slim")
    assert base_context(found, root=tmp_path) == f"oci-layout://{tmp_path}/bases/slim@{DIGEST}"
    assert base_context(found) == f"oci-layout://bases/slim@{DIGEST}"
