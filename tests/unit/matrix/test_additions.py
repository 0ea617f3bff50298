"""`extras` and `images` of matrix.yaml: who gets what, and what is refused where."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import ProblemsError
from buildctl.lock.wheels import inputs_of
from buildctl.matrix.additions import keys_of
from buildctl.matrix.cells import Cell
from buildctl.matrix.matrix import Matrix
from buildctl.matrix.read import parse_matrix

ROOT = Path(__file__).parents[3]
SMALL = """
python: "3.13"
versions: {"2.6": 2.6.0, "2.15": 2.15.0}
packages: [torchvision, numpy, pip]
flavours: [runtime, devel]
bases:
  debian13: {debian: trixie, packages: [bash, python3.13], devel: [g++]}
  theirs: {image: "example.invalid/python@sha256:%s"}
accelerators:
  cuda: {arch: [amd64, arm64], base: debian13}
  cpu: {arch: [arm64], base: theirs}
  mps: {native: macos, arch: [arm64]}
""" % ("0" * 64)


def parse(more: str) -> Matrix:
    return parse_matrix(SMALL + more, Path("matrix.yaml"))


def cell(matrix: Matrix, cell_id: str) -> Cell:
    return next(c for c in matrix.cells if c.id == cell_id)


def problems(more: str) -> tuple[str, ...]:
    with pytest.raises(ProblemsError) as caught:
        parse(more)
    return caught.value.problems


def test_what_matches_adds_up_for_both_flavours_and_every_architecture() -> None:
    matrix = parse(
        "extras: [onnx]\n"
        "images:\n"
        '  cuda-2.6: {packages: ["einops>=0.8", {name: xformers, version: "{torch}", torch: "<2.10"}], apt: [git]}\n'
        '  "cuda-*": {apt: [curl, git]}\n'
        '  "*": {packages: [{name: timm, torch: ">=2.10"}]}\n'
    )
    for cell_id in ("cuda-2.6-amd64", "cuda-2.6-devel-arm64"):
        found = cell(matrix, cell_id)
        assert found.requirements == (
            *("torch==2.6.0", "torchvision", "numpy", "pip", "onnx", "onnxscript", "onnxruntime"),
            *("einops>=0.8", "xformers==2.6.0"),
        )
        assert (found.apt, found.extras) == (("curl", "git"), ("onnx",))
    assert cell(matrix, "cuda-2.15-amd64").requirements[-1] == "timm"
    assert cell(matrix, "cuda-2.15-amd64").apt == ("curl", "git")
    native = cell(matrix, "mps-2.15-arm64")
    assert (native.apt, native.extras) == ((), ("onnx",))
    assert "onnxruntime" in native.requirements


def test_a_glob_gives_native_environments_python_packages_and_no_debian_ones() -> None:
    matrix = parse('images: {"[cm]*-2.15": {packages: [einops]}, "cuda-*": {apt: [git]}}\n')
    assert cell(matrix, "mps-2.15-arm64").requirements[-1] == "einops"
    assert "einops" not in cell(matrix, "mps-2.6-arm64").requirements


def test_the_base_of_an_image_with_debian_packages_is_its_own() -> None:
    matrix = parse("images: {cuda-2.6: {apt: [git]}}\n")
    assert cell(matrix, "cuda-2.6-amd64").base_image == "base-debian13_cuda-2.6"
    assert cell(matrix, "cuda-2.6-devel-arm64").base_image == "base-debian13_cuda-2.6-devel"
    assert cell(matrix, "cuda-2.15-amd64").base_image == "base-debian13"
    assert cell(matrix, "cuda-2.15-devel-amd64").base_image == "base-debian13-devel"


def test_adding_changes_the_inputs_of_the_lock_and_adding_nothing_does_not() -> None:
    plain, same = cell(parse(""), "cuda-2.6-amd64"), cell(parse("extras: []\nimages: {}\n"), "cuda-2.6-amd64")
    more = cell(parse("images: {cuda-2.6: {packages: [einops]}}\n"), "cuda-2.6-amd64")
    twice = cell(parse("images: {cuda-2.6: {packages: [numpy]}}\n"), "cuda-2.6-amd64")
    assert inputs_of(plain) == inputs_of(same) == inputs_of(twice) != inputs_of(more)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            "images: {cuda-2.7: {apt: [git]}}",
            "line 13: images[\"cuda-2.7\"]: no image matches (did you mean 'cuda-2.6'?)",
        ),
        (
            "images: {cuda-2.6-devel: {apt: [git]}}",
            "line 13: images[\"cuda-2.6-devel\"]: no image matches (both flavours get it: write 'cuda-2.6')",
        ),
        ("images: {'*-devel': {apt: [git]}}", "no image matches (both flavours get it: write '*')"),
        ("images:\n  x*: {apt: [git]}", 'line 14: images["x*"]: no image matches (names: cuda-2.6, cuda-2.15'),
        ("images: {'mps-*': {apt: [git]}}", 'images["mps-*"].apt: mps-2.6, mps-2.15: a native environment has no'),
        (
            "images: {cpu-2.6: {apt: [git]}}",
            "cpu-2.6 has the base image bases.theirs, to which apt packages cannot be added (a template with RUN apt",
        ),
        ("images: {'*': {apt: [git]}}", 'images["*"].apt: cpu-2.6 has the base image bases.theirs'),
        ("images: {cuda-2.6: {apt: [Git]}}", "images[\"cuda-2.6\"].apt[0]: 'Git' is not a Debian package name"),
        ("images: {cuda-2.6: {packages: [torch]}}", 'images["cuda-2.6"].packages[0]: torch comes from versions'),
        ("images: {cuda-2.6: {packages: [a, A]}}", 'images["cuda-2.6"].packages[1]: a is listed twice'),
        ("images: {cuda-2.6: {pip: [a]}}", 'images["cuda-2.6"].pip: unknown key'),
        ("images: {cuda-2.6: {}}", 'images["cuda-2.6"]: must not be empty'),
        ("extras: [onx]", "line 13: extras[0]: 'onx' is not one of onnx, coreml (did you mean 'onnx'?)"),
        (
            "extras: [onnx]\nimages: {'cuda-*': {packages: [onnxruntime-gpu]}}",
            "images[\"cuda-*\"].packages: onnxruntime-gpu owns the same files as a package of the extra 'onnx', which",
        ),
    ],
)
def test_what_is_wrong_is_said_with_line_and_key(more: str, expected: str) -> None:
    found = problems(more)
    assert any(expected in problem for problem in found), found


def test_the_keys_that_an_image_gets_something_from() -> None:
    matrix = parse('extras: [onnx]\nimages: {"cuda-*": {packages: [a], apt: [git]}, cuda-2.15: {packages: [b]}}\n')
    assert keys_of(matrix.additions, "cuda-2.6", "packages", "extras") == ("extras", 'images["cuda-*"].packages')
    assert keys_of(matrix.additions, "cuda-2.15", "packages") == (
        'images["cuda-*"].packages',
        'images["cuda-2.15"].packages',
    )
    assert keys_of(matrix.additions, "cuda-2.15", "apt") == ('images["cuda-*"].apt',)
