"""`publish` in matrix.yaml: which findings may be NOT RUN and which must have run, and each problem with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import ProblemsError
from buildctl.matrix.matrix import Matrix
from buildctl.matrix.read import load_matrix, parse_matrix
from buildctl.testing.probes.known import known_findings
from tests.conftest import ROOT

MATRIX = """\
python: "3.13"
versions: {"2.6": 2.6.0}
packages: [numpy]
flavours: [runtime, devel]
bases: {debian13: {debian: trixie, packages: [python3], devel: [gcc]}}
accelerators:
  cuda: {arch: [amd64, arm64], base: debian13, devices: {built: [cuda]}}
  cpu: {arch: [arm64], base: debian13}
publish:
"""
RULES = """\
  allow-not-run:
    "*": [torch.compile]
    "cuda-*": [works on the gpu, without a gpu]
    "cuda-*-arm64": [dataloader]
  require:
    "*-devel": [torch.compile]
"""


def parse(publish: str) -> Matrix:
    return parse_matrix(MATRIX + publish, Path("matrix.yaml"))


def problems(publish: str) -> tuple[str, ...]:
    with pytest.raises(ProblemsError) as caught:
        parse(publish).publish.check(known_findings(), "matrix.yaml")
    return tuple(caught.value.problems)


def test_globs_match_image_names_and_cells_and_what_is_required_is_not_allowed() -> None:
    matrix = parse(RULES)
    allowed = {cell.id: sorted(matrix.publish.allowed(cell)) for cell in matrix.cells}
    gpu = ["without a gpu", "works on the gpu"]
    assert allowed == {
        "cuda-2.6-amd64": ["torch.compile", *gpu],
        "cuda-2.6-arm64": ["dataloader", "torch.compile", *gpu],
        "cuda-2.6-devel-amd64": gpu,
        "cuda-2.6-devel-arm64": ["dataloader", *gpu],
        "cpu-2.6-arm64": ["torch.compile"],
        "cpu-2.6-devel-arm64": [],
    }
    required = {cell.id for cell in matrix.cells if matrix.publish.required(cell)}
    assert required == {"cuda-2.6-devel-amd64", "cuda-2.6-devel-arm64", "cpu-2.6-devel-arm64"}


def test_the_smallest_limit_counts_in_whatever_order() -> None:
    publish = parse('  max-size: {"cuda-*-arm64": 1.5 GB, "*": 3GB, "cpu-*": 300MB}\n').publish
    cells = parse(RULES).cells
    limits = {cell.id: limit.most for cell in cells if (limit := publish.limit(cell)) and cell.flavour == "runtime"}
    assert limits == {"cuda-2.6-amd64": 3 * 10**9, "cuda-2.6-arm64": 15 * 10**8, "cpu-2.6-arm64": 3 * 10**8}
    assert parse(RULES).publish.limit(cells[0]) is None


def test_without_the_key_nothing_is_allowed_and_nothing_required() -> None:
    matrix = parse_matrix(MATRIX.removesuffix("publish:\n"), Path("matrix.yaml"))
    assert {matrix.publish.allowed(cell) | matrix.publish.required(cell) for cell in matrix.cells} == {frozenset()}


@pytest.mark.parametrize(
    ("publish", "expected"),
    [
        (
            '  require:\n    "cuda-*": [works on the gpu, torch.complie]\n',
            "line 11: publish.require[\"cuda-*\"][1]: no finding 'torch.complie' (did you mean 'torch.compile'?)",
        ),
        (
            '  allow-not-run:\n    "cdua-*": [torch]\n',
            "line 11: publish.allow-not-run[\"cdua-*\"]: no image matches 'cdua-*'",
        ),
        ("  alow-not-run: {}\n", "line 10: publish.alow-not-run: unknown key (did you mean 'allow-not-run'?)"),
        ('  require: {"*": torch}\n', "line 10: publish.require[\"*\"]: must be a list, is 'torch'"),
        ('  require: {"*": []}\n', 'line 10: publish.require["*"]: must not be empty'),
        ('  require: {"*": [torch, torch]}\n', "line 10: publish.require[\"*\"]: has 'torch' more than once"),
        (
            '  max-size: {"cpu-*": 300MiB}\n',
            "line 10: publish.max-size[\"cpu-*\"]: '300MiB' is not a size such as 300MB or 2.5GB",
        ),
        ('  max-size: {"cup-*": 1GB}\n', "line 10: publish.max-size[\"cup-*\"]: no image matches 'cup-*'"),
        (
            '  require: {"CUDA": [torch]}\n',
            "line 10: publish.require.CUDA: 'CUDA' is not an image name such as cuda-2.6, or a glob such as cuda-*",
        ),
    ],
)
def test_what_is_wrong_is_named_with_line_and_key(publish: str, expected: str) -> None:
    assert problems(publish) == (expected,)


def test_the_default_matrix_names_findings_that_there_are() -> None:
    matrix = load_matrix(ROOT / "matrix.yaml")
    matrix.publish.check(known_findings(), "matrix.yaml")
    devel = next(cell for cell in matrix.cells if cell.id == "cuda-2.6-devel-amd64")
    assert "torch.compile" in matrix.publish.required(devel)


def test_a_rule_about_a_flavour_that_is_left_out_is_no_mistake() -> None:
    text = MATRIX.replace("[runtime, devel]", "[runtime]") + RULES
    matrix = parse_matrix(text, Path("matrix.yaml"))
    assert {cell.flavour for cell in matrix.cells} == {"runtime"}
    assert all(matrix.publish.required(cell) == frozenset() for cell in matrix.cells)
