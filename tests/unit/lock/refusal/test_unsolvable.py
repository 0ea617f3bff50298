"""Which package is to blame, from what uv says about it. The stories are uv's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from buildctl.lock.refusal import unsolvable
from buildctl.lock.refusal.unsolvable import explained
from buildctl.lock.uv import NoSolutionError
from buildctl.matrix.read import parse_matrix

MATRIX = """\
python: "3.13"
versions: {"2.6": 2.6.0}
packages: [numpy]
flavours: [runtime]
bases: {debian13: {debian: trixie, packages: [python3]}}
accelerators: {cuda: {arch: [amd64], base: debian13}}
images: {"cuda-*": {packages: [PACKAGE]}}
"""
SOURCES = """uv found no solution:
error: No solution found when resolving dependencies
  cause: Because all versions of flash-attn have no usable wheels and buildctl-cell depends on flash-attn, we can
         conclude that your requirements are unsatisfiable.

hint: Wheels are required for `flash-attn` because building from source is disabled for all packages"""
ABI = """uv found no solution:
error: No solution found when resolving dependencies
  cause: Because old has no wheels with a matching Python ABI tag (e.g., `cp313`) and buildctl-cell depends on old

hint: You require CPython 3.13 (`cp313`), but we only found wheels for `old` (v0.4.0) with the following \
Python ABI tags: `cp38`, `cp39`"""
UNKNOWN = "Because transfomers was not found in the package registry and buildctl-cell depends on transfomers"
CONFLICT = """Because xformers>=0.0.31,<=0.0.31.post1 depends on torch==2.7.1 and all of:
             xformers>=0.0.33
         depend on torch==2.9.0, we can conclude that all versions of xformers depend on torch>=2.10.
And because x depends on xformers and torch==2.6.0"""
NEEDS = """Because all versions of tensorrt-cu12 have no usable wheels and tensorrt==10.0.0 depends on tensorrt-cu12"""


def said(monkeypatch: pytest.MonkeyPatch, package: str, *, alone: str | None, beside: str | None) -> tuple[str, str]:
    """The error, message and hint, if uv tells the story `alone` of the package alone, `beside` next to torch."""
    matrix = parse_matrix(MATRIX.replace("PACKAGE", package), Path("matrix.yaml"))

    def tried(cell: object, texts: list[str], glibc: object, links: object, *, alone: bool) -> None:
        story = stories[alone] if canonicalize_name(Requirement(texts[0]).name) == package else None
        if story is not None:
            raise NoSolutionError(story)

    stories = {True: alone, False: beside}
    monkeypatch.setattr(unsolvable, "_tried", tried)
    error = explained(matrix.cells[0], matrix.additions, NoSolutionError("uv found no solution:\nlong"), glibc=(2, 41))
    return error.message, str(error.hint)


@pytest.mark.parametrize(
    ("package", "alone", "beside", "what", "way"),
    [
        (
            "flash-attn",
            SOURCES,
            None,
            "has no wheel for Python 3.13 on linux/amd64, only sources",
            "build a wheel of flash-attn",
        ),
        ("old", ABI, None, "has no wheel for Python 3.13, only for cp38, cp39", "set `python` in matrix.yaml"),
        ("transfomers", UNKNOWN, None, "is not on the package index", "correct the name transfomers"),
        ("xformers", None, CONFLICT, "torch 2.6.0: its versions depend on torch 2.7.1, 2.9.0, 2.10", "name: xformers"),
        (
            "mine",
            None,
            f"{UNKNOWN} and mine",
            'mine (images["cuda-*"].packages) needs transfomers, which is not',
            "serve",
        ),
        ("tensorrt", None, NEEDS, "needs tensorrt-cu12, which has no wheel", "serve wheels of tensorrt-cu12"),
    ],
)
def test_the_package_to_blame_is_named_by_its_key_with_a_next_step(
    monkeypatch: pytest.MonkeyPatch, package: str, alone: str | None, beside: str | None, what: str, way: str
) -> None:
    message, hint = said(monkeypatch, package, alone=alone, beside=beside)
    assert message.startswith(f'cuda-2.6 on linux/amd64: {package} (images["cuda-*"].packages) ')
    assert what in message
    assert way in hint


@pytest.mark.parametrize(
    ("index", "there", "story", "what", "way"),
    [
        ("", {"torch==2.6.*": "2.6.1"}, "no version of torch==2.6.0", "is not on the package index, for Python 3.13",
         "set it to 2.6.1, the nearest there, or drop it from `versions`"),
        ("", {"torch": "2.15.0"}, "no version of torch==2.6.0", "is not on the package index", "set it to 2.15.0"),
        (", index: https://a/b", {}, UNKNOWN, "is not on accelerators.cuda.index (matrix.yaml line 6)",
         "correct accelerators.cuda.index (matrix.yaml line 6), or drop it"),
        ("", {}, ABI.replace("`old`", "`torch`"), "has no wheel for Python 3.13, only for cp38, cp39", "set `python`"),
    ],
)  # fmt: skip
def test_a_torch_that_is_not_there_is_to_blame_and_no_other_package(
    monkeypatch: pytest.MonkeyPatch, index: str, there: dict[str, str], story: str, what: str, way: str
) -> None:
    matrix = parse_matrix(MATRIX.replace("base: debian13}", f"base: debian13{index}}}"), Path("matrix.yaml"))

    def tried(cell: object, texts: list[str], *_: object, alone: bool) -> tuple[SimpleNamespace]:
        assert (texts[0].startswith("torch"), alone) == (True, True)
        if texts[0] not in there:
            raise NoSolutionError(story)
        return (SimpleNamespace(version=there[texts[0]]),)

    monkeypatch.setattr(unsolvable, "_tried", tried)
    error = explained(matrix.cells[0], matrix.additions, NoSolutionError("long"), glibc=(2, 41))
    assert error.message.startswith(f'cuda-2.6 on linux/amd64: torch 2.6.0 (versions["2.6"]) {what}')
    assert str(error.hint).startswith(way)


def test_a_torch_that_is_an_own_wheel_is_not_to_blame(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    matrix = parse_matrix(MATRIX, Path("matrix.yaml"))

    def tried(cell: object, texts: list[str], glibc: object, links: Path | None, *, alone: bool) -> None:
        if links is None:
            raise NoSolutionError("no version of torch==2.6.0")

    monkeypatch.setattr(unsolvable, "_tried", tried)
    error = explained(matrix.cells[0], matrix.additions, NoSolutionError("long"), glibc=(2, 41), links=tmp_path)
    assert "is not on the package index" not in error.message


def test_where_no_package_alone_is_to_blame_uv_tells_its_story(monkeypatch: pytest.MonkeyPatch) -> None:
    message, _ = said(monkeypatch, "fine", alone=None, beside=None)
    assert message == (
        'cuda-2.6 on linux/amd64: what matrix.yaml asks for (versions, packages, images["cuda-*"].packages) cannot be '
        "satisfied: uv found no solution:\nlong"
    )


def test_a_long_story_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unsolvable._short("\n".join("x" * 100)).endswith("... (100 lines)")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("extras: [onnx]", "extras"),
        ('images: {"cuda-*": {extras: [onnx]}}', 'images["cuda-*"].extras'),
        ("", "packages"),
    ],
)
def test_a_package_of_an_extra_is_named_by_the_extra(text: str, key: str) -> None:
    matrix = parse_matrix(f"{MATRIX.partition('images:')[0]}{text}\n", Path("matrix.yaml"))
    assert unsolvable._key(matrix.cells[0], matrix.additions, "ONNXScript") == key
