"""What names and keys claim, and the table of kinds; locked wheels: tests/integration/lock/test_accelerators.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from buildctl.ground.errors import MatrixError, ProblemsError
from buildctl.matrix.accelerators import (
    CPU,
    CUDA,
    KINDS,
    MPS,
    ROCM,
    VERSION_KEYS,
    VERSIONED,
    XPU,
    AcceleratorKind,
    agrees,
    claim_in_name,
)
from buildctl.matrix.cells import Os
from buildctl.matrix.matrix import Matrix
from buildctl.matrix.read import parse_matrix, schema
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("name", "kind", "versions"),
    [
        ("cuda", CUDA, ()),
        ("cu126", CUDA, ("12.6",)),
        ("cu118", CUDA, ("11.8",)),
        ("cu130", CUDA, ("13.0",)),
        ("cuda12", CUDA, ("12",)),
        ("cuda-12", CUDA, ("12",)),
        ("cuda126", CUDA, ("12.6",)),
        ("cuda12.6", CUDA, ("12.6",)),
        ("cuda-12.6", CUDA, ("12.6",)),
        ("cu126-nightly", CUDA, ("12.6",)),
        ("cudax", CUDA, ()),
        ("team-cu126", CUDA, ("12.6",)),
        ("a-b-rocm6.2", ROCM, ("6.2",)),
        ("rocm", ROCM, ()),
        ("rocm6", ROCM, ("6",)),
        ("rocm62", ROCM, ("6.2",)),
        ("rocm6.2", ROCM, ("6.2",)),
        ("rocm624", ROCM, ("6.2.4", "6.24")),
        ("xpu", XPU, ()),
        ("cpu", CPU, ()),
        ("cpu-small", CPU, ()),
        ("mps", MPS, ()),
    ],
)
def test_what_a_name_claims(name: str, kind: AcceleratorKind, versions: tuple[str, ...]) -> None:
    claim = claim_in_name(name)
    assert claim is not None
    assert (claim.kind, claim.versions) == (kind, versions)


@pytest.mark.parametrize("name", ["stable", "gpu", "custom", "cpus", "cu", "team-cuda", "team-cu126x"])
def test_what_names_nothing_claims_nothing(name: str) -> None:
    assert claim_in_name(name) is None


@pytest.mark.parametrize(
    ("claim", "version", "right"),
    [
        ("12.6", "12.6", True),
        ("12", "12.6", True),
        ("12.6.3", "12.6", True),
        ("12.6", "12.8", False),
        ("1", "12.6", False),
        ("13", "12.6", False),
    ],
)
def test_claims_are_compared_as_far_as_both_go(claim: str, version: str, right: bool) -> None:
    assert agrees(claim, version) is right


MATRIX = """\
python: "3.13"
versions: {"2.10": 2.10.0}
packages: []
flavours: [runtime]
bases: {debian13: {debian: trixie, packages: [python3]}}
accelerators:
  NAME: {arch: [amd64], base: debian13REST}
"""


def parse(name: str, rest: str = "", more: str = "") -> Matrix:
    return parse_matrix(MATRIX.replace("NAME", name).replace("REST", rest) + more, Path("matrix.yaml"))


@pytest.mark.parametrize(
    ("name", "rest", "problem"),
    [
        (
            "cuda",
            ', rocm: "6.2"',
            "line 7: accelerators.cuda: the name 'cuda' means CUDA, but the key 'rocm' means ROCm",
        ),
        ("cpu", ', cuda: "12.6"', "the name 'cpu' means CPU, but the key 'cuda' means CUDA"),
        ("rocm", ", kind: xpu", "the name 'rocm' means ROCm, but the key 'kind' means XPU"),
        (
            "new",
            ', kind: cpu, cuda: "12.6"',
            "accelerators.new.kind: the key 'kind' means CPU, but the key 'cuda' means",
        ),
        ("cu126", ', cuda: "12.8"', "accelerators.cu126.cuda (matrix.yaml line 7) claims 12.8, but the name cu126 in"),
        ("mps", "", "MPS does not work in a container (native: macos)"),
        ("new", ", kind: mps", "accelerators.new.kind: 'mps' is not one of cpu, cuda, rocm, xpu"),
        ("new", ", cuda: 12.6", "value 12.6 is a number"),
        ("new", ', cuda: "twelve"', "'twelve' is not a quoted version such as \"12.6\""),
        ("cuda", ", devices: {never: [cuda]}", "cuda is under never, but the accelerator is of kind cuda"),
        ("rocm", ", devices: {built: [cuda]}", "rocm is not under built, but the accelerator is of kind rocm"),
        ("cpu", ", devices: {built: [cuda]}", "cuda is under built, but the accelerator is of kind cpu"),
    ],
)
def test_claims_that_contradict_each_other_are_told_before_anything_is_downloaded(
    name: str, rest: str, problem: str
) -> None:
    with pytest.raises(ProblemsError) as caught:
        parse(name, rest)
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


@pytest.mark.parametrize(
    ("name", "rest", "kind"),
    [
        ("cu126", "", CUDA),
        ("new", ', cuda: "12"', CUDA),
        ("new", ', rocm: "6.2"', ROCM),
        ("new", ", kind: xpu", XPU),
        ("cu126", ', cuda: "12.6"', CUDA),
        ("new", "", None),
    ],
)
def test_the_kind_is_known_before_a_wheel_is_locked(name: str, rest: str, kind: AcceleratorKind | None) -> None:
    (accelerator,) = parse(name, rest).accelerators
    assert accelerator.kind == kind


def test_a_rule_about_a_kind_is_about_every_accelerator_of_it() -> None:
    rule = "exclude: [{kind: cuda, os: macos, reason: no CUDA on macOS, instead: Linux}]\n"
    found = parse("cu126", more=rule).explain("cu126", "2.10", os=Os.MACOS, arch="arm64")
    assert found.reason == "no CUDA on macOS"
    assert parse("cpu", more=rule).explain("cpu", "2.10", os=Os.MACOS, arch="arm64").reason != "no CUDA on macOS"


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("", "give one of the keys 'accelerator', 'kind' and 'python'"),
        ("kind: cuda, accelerator: cuda, ", "give only one of the keys 'accelerator' and 'kind'"),
    ],
)
def test_a_rule_is_about_an_accelerator_or_a_kind(keys: str, problem: str) -> None:
    with pytest.raises(ProblemsError, match=problem):
        parse("cuda", more=f"exclude: [{{{keys}reason: because, instead: that}}]\n")


def test_a_name_with_dots_and_hyphens_is_told_from_a_version() -> None:
    with pytest.raises(MatrixError, match=r"torch 2\.9 is not in matrix\.yaml"):
        parse("cuda-12.6").select(["cuda-12.6-2.9"])


def test_the_example_of_the_documentation_is_a_matrix() -> None:
    text = (ROOT / "docs" / "accelerators.md").read_text()
    example = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    head = MATRIX[: MATRIX.index("accelerators")].replace('versions: {"2.10": 2.10.0}\n', "")
    names = parse_matrix(head + example, Path("matrix.yaml")).images
    assert names == ("cu126-2.10", "cu128-2.10", "cpu-2.10")


def test_the_schema_knows_every_kind() -> None:
    defined = schema()["$defs"]
    assert set(defined["kind"]["enum"]) == set(KINDS)
    accelerator = defined["imageAccelerator"]["properties"]
    assert set(accelerator["kind"]["enum"]) == {kind.name for kind in KINDS.values() if not kind.native}
    assert set(VERSION_KEYS) == {key for key in KINDS if key in accelerator}
    assert set(defined["device"]["enum"]) == {kind.backend for kind in KINDS.values() if kind.backend}


def test_no_two_claims_of_a_file_have_the_same_key() -> None:
    keys = [key for kind in VERSIONED for key in (kind.name, kind.raw) if key]
    assert sorted(set(keys)) == sorted(keys)
