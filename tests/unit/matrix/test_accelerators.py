"""What names and keys claim, and the table of kinds; locked wheels: tests/integration/lock/test_accelerators.py."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from buildctl.ground.errors import LockError, MatrixError, ProblemsError
from buildctl.lock.claims import LABEL, Claims, claims_of
from buildctl.lock.wheels import LockedWheel, WheelLock, inputs_of
from buildctl.matrix.accelerators import (
    CPU,
    CUDA,
    KINDS,
    MPS,
    ROCM,
    VERSIONED,
    XPU,
    AcceleratorKind,
    agrees,
    claim_in_name,
    kind_in_image,
)
from buildctl.matrix.cells import Os
from buildctl.matrix.matrix import Matrix
from buildctl.matrix.read import parse_matrix, schema
from buildctl.oci.digest import Digest
from buildctl.publish.tags import variant
from tests.conftest import ROOT
from tests.support.sources import PACKAGE, nodes


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


@pytest.mark.parametrize("name", ["stable", "gpu", "custom", "cpus", "cu", "team-cu126"])
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
    kinds = schema()["$defs"]["kind"]["enum"]
    assert set(kinds) == set(KINDS)
    backends = {kind.backend for kind in KINDS.values() if kind.backend}
    assert set(schema()["$defs"]["device"]["enum"]) == backends


ASKED = {"name", "accelerator", "kind", "built", "never", "labels", "backend"}


def test_no_code_compares_an_accelerators_name() -> None:
    """A kind behaves as its value in the table says; `x == "cuda"` anywhere would be a second table."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if "inside" in path.parts:
            continue
        for node in nodes(path):
            if isinstance(node, ast.Compare):
                parts = [part for side in [node.left, *node.comparators] for part in ast.walk(side)]
                words = {part.value for part in parts if isinstance(part, ast.Constant)}
                asked = {part.attr for part in parts if isinstance(part, ast.Attribute)}
                if words & set(KINDS) and asked & ASKED:
                    found.append(f"{path.name}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize(
    ("env", "labels", "kind"),
    [
        ((("NVIDIA_VISIBLE_DEVICES", "all"),), {}, CUDA),
        ((("ROCM_PATH", "/opt/rocm"),), {}, ROCM),
        ((), {f"{LABEL}rocm": "6.2"}, ROCM),
        ((), {f"{LABEL}xpu.amd64": "2025.1"}, XPU),
        ((("NVIDIA_VISIBLE_DEVICES", "all"),), {f"{LABEL}rocm": "6.2"}, ROCM),
        ((), {f"{LABEL}cudnn": "9"}, CPU),
        ((), {}, CPU),
    ],
)
def test_the_kind_of_an_image_is_in_its_configuration(
    env: tuple[tuple[str, str], ...], labels: dict[str, str], kind: AcceleratorKind
) -> None:
    assert kind_in_image(env, labels, LABEL) == kind


@pytest.mark.parametrize(
    ("claims", "kind", "title", "tag", "floor"),
    [
        ({"cuda": "12.6"}, CUDA, "CUDA 12.6", "cuda12.6", "525"),
        ({"cuda": "13.0"}, CUDA, "CUDA 13.0", "cuda13.0", "580"),
        ({"rocm": "6.2"}, ROCM, "ROCm 6.2", "rocm6.2", None),
        ({"xpu": "2025.1"}, XPU, "XPU 2025.1 (Intel GPUs)", "xpu", None),
        ({"platform": "darwin/arm64"}, MPS, "MPS", "mps", None),
        ({}, CPU, "CPU only", "stable", None),
    ],
)
def test_a_kind_behaves_as_the_table_says(
    claims: dict[str, Any], kind: AcceleratorKind, title: str, tag: str, floor: str | None
) -> None:
    found = Claims(torch="2.10.0", python="3.13", arch="amd64", accelerator="stable", **claims)
    assert (found.kind, variant(found), found.driver_floor) == (kind, tag, floor)
    assert found.kind.titled(found.built_for) == title


def locked(name: str, version: str, rest: str = "", **others: str) -> Claims:
    """What the lock alone says, before anybody has looked into the wheel."""
    (cell,) = parse(name, rest).cells
    wheels = [
        LockedWheel(name=n.replace("_", "-"), version=v, filename="x.whl", size=1, digest=Digest.of(n.encode()))
        for n, v in {"torch": version, **others}.items()
    ]
    lock = WheelLock(
        name=cell.name, platform=cell.platform, python="3.13", inputs=inputs_of(cell), wheels=tuple(wheels)
    )
    return claims_of(cell, lock)


def test_where_nothing_says_the_kind_the_key_is_asked_for() -> None:
    with pytest.raises(LockError, match=r"accelerators\.new \(matrix\.yaml line 7\) claims nothing") as caught:
        locked("new", "2.10.0")
    assert "`kind:`" in str(caught.value.hint)
    assert locked("new", "2.10.0", ", kind: cpu").kind == CPU
    assert locked("new", "2.10.0+cu126").cuda == "12.6"


@pytest.mark.parametrize("name", ["xpu", "cuda"])
def test_where_nothing_says_the_version_the_wheel_must(name: str) -> None:
    with pytest.raises(LockError, match="unknown which"):
        locked(name, {"xpu": "2.10.0+xpu", "cuda": "2.10.0"}[name], **{"cuda": {"nvidia_cublas": "1"}}.get(name, {}))
    assert locked("xpu", "2.10.0+xpu", intel_sycl_rt="2025.1.1").xpu == "2025.1"


def test_what_is_versioned_has_a_claim_of_its_name() -> None:
    assert {kind.name for kind in VERSIONED} <= set(Claims.__dataclass_fields__)
