"""Portability: what is promised, what counts as the same numbers, and sessions that answer anything. Real images:
tests/integration/testing/test_portability.py.
"""

from __future__ import annotations

import ast
import base64
import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from buildctl.ground.errors import ToolError, UsageError
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.runtimes.api import Outcome
from buildctl.testing import probes
from buildctl.testing.moves import Move, Portability, Result, measured, promised
from buildctl.testing.portability import Peer, check_portability, exported, formats_of, moves_into
from buildctl.testing.probes.portable import ExportedModel, Model, Sample, export_in, load_in, relative_error
from tests.support.command import run_command

SAMPLE = Sample(shape=(1, 2), inputs=(0.5, -0.5), outputs=(1.0, -4.0))
FILE = base64.b64encode(zlib.compress(b"a model")).decode()


def cell(project: Project, name: str, arch: str, *extras: str) -> Cell:
    found = next(c for c in project.matrix.select([name], arch))
    return dataclasses.replace(found, extras=extras)


def lines(answers: Mapping[str, Any], *, doing: str | None = None) -> str:
    whole = {
        name: {"value": None if isinstance(value, str) and value.startswith("!") else value,
               "error": value[1:] if isinstance(value, str) and value.startswith("!") else None, "seconds": 0.1}
        for name, value in answers.items()
    }  # fmt: skip
    return json.dumps({"doing": doing, "answers": whole}) + "\n"


def ended(stdout: str, code: int | None = 0) -> Outcome:
    return Outcome(returncode=code, stdout=stdout, stderr="", timed_out=code is None, seconds=0.1)


class Talking:
    """A session whose exports and loads are functions: of the options, and of the models on stdin."""

    emulated: str | None = None
    gpus, gpus_reason, ownership, at_once = False, "", True, 1

    def __init__(
        self,
        export: Callable[[Any], Outcome] = lambda _: ended(""),
        load: Callable[[dict[str, Any]], Outcome] = lambda _: ended(""),
    ) -> None:
        self.export, self.load = export, load
        self.loads = 0

    def stop(self) -> None:
        pass

    def run(self, argv: Any, *, stdin: str = "", **_: Any) -> Outcome:
        if stdin:
            self.loads += 1
            return self.load(json.loads(stdin))
        return self.export(json.loads(argv[-1]))


def honest(options: Any) -> Outcome:
    return ended(lines({"sample": SAMPLE.to_json(), **dict.fromkeys(options["formats"], FILE)}))


def right(models: dict[str, Any]) -> Outcome:
    return ended(lines({key: [1.0, -4.0] for key in models}))


@pytest.mark.parametrize(
    ("name", "source", "target", "sure"),
    [
        ("torchscript", "2.6.0", "2.6.0+cu124", True),
        ("export", "2.6.0", "2.6.0", True),
        ("torchscript", "2.6.0", "2.10.0", True),
        ("torchscript", "2.10.0", "2.6.0", False),
        ("export", "2.6.0", "2.10.0", False),
        ("export", "2.10.0", "2.6.0", False),
        ("onnx", "2.10.0", "2.6.0", True),
        ("coreml", "2.6.0", "2.10.0", True),
    ],
)
def test_what_is_promised(name: str, source: str, target: str, *, sure: bool) -> None:
    assert promised(name, Version(source), Version(target)) is sure


@pytest.mark.parametrize(
    ("computed", "error"),
    [
        ((1.0, -4.0), 0.0),
        ((1.0, -4.0002), 5e-5),
        ((1.0, 4.0), 2.0),
        ((1.0,), math.inf),
        ((1.0, -4.0, 0.0), math.inf),
        ((1.0, math.nan), math.inf),
        ((math.inf, -4.0), math.inf),
    ],
)
def test_errors_are_relative_to_the_largest_output(computed: tuple[float, ...], error: float) -> None:
    assert relative_error(SAMPLE.outputs, computed) == pytest.approx(error)


@pytest.mark.parametrize(
    ("computed", "sure", "result"),
    [
        ((1.0, -4.0), True, Result.PASSED),
        ((1.0, -4.0), False, Result.WORKED),
        ((1.0, -4.001), True, Result.FAILED),
        ((1.0, -4.001), False, Result.DID_NOT),
        ((1.0, math.nan), True, Result.FAILED),
        ("RuntimeError: version 3", True, Result.FAILED),
        ("RuntimeError: version 3", False, Result.DID_NOT),
    ],
)
def test_only_a_promise_can_be_broken(computed: Any, result: Result, *, sure: bool) -> None:
    assert measured(SAMPLE, computed, sure=sure)[0] is result


def test_an_export_brings_files_and_errors() -> None:
    def partly(_: Any) -> Outcome:
        return ended(lines({"sample": SAMPLE.to_json(), "torchscript": FILE, "export": "!no", "onnx": "not base64"}))

    found = export_in(Talking(partly), ["torchscript", "export", "onnx", "coreml"])
    assert found.files == {"torchscript": b"a model"}
    assert found.errors["export"] == "no"
    assert "unexpected file" in found.errors["onnx"]
    assert "gave no answer" in found.errors["coreml"]


@pytest.mark.parametrize(
    "sample",
    [None, [], {"shape": [1]}, SAMPLE.to_json() | {"shape": [3]}, SAMPLE.to_json() | {"outputs": [0.0, 0.0]}, "!boom"],
)
def test_a_nonsense_sample_proves_nothing(sample: Any) -> None:
    session = Talking(lambda _: ended(lines({"sample": sample, "torchscript": FILE})))
    found = export_in(session, ["torchscript"])
    assert (found.sample, found.files) == (None, {})
    assert found.errors["torchscript"]


def test_a_model_that_ends_the_process_is_told_so_and_the_others_are_asked_again() -> None:
    def crashing(models: dict[str, Any]) -> Outcome:
        if "bad" not in models:
            return right(models)
        before = {key: [1.0, -4.0] for key in list(models)[: list(models).index("bad")]}
        return ended(lines(before, doing="bad"), -11)

    session = Talking(load=crashing)
    model = Model(format="export", data=b"x", sample=SAMPLE)
    found = load_in(session, {"first": model, "bad": model, "last": model})
    assert (found["first"], found["last"]) == ((1.0, -4.0), (1.0, -4.0))
    assert "killed by SIGSEGV" in str(found["bad"])
    assert session.loads == 2


def test_a_session_that_does_not_start_python_is_asked_once() -> None:
    session = Talking(load=lambda _: ended("", 127))
    model = Model(format="export", data=b"x", sample=SAMPLE)
    found = load_in(session, {"one": model, "other": model})
    assert {str(value) for value in found.values()} == {"exit code 127"}
    assert session.loads == 1


def moved(
    project: Project, tmp_path: Path, source: Cell, target: Cell, *, export: Any = honest, load: Any = right
) -> dict[str, Move]:
    formats = formats_of([source, target])
    files = exported(Peer(cell=source, session=Talking(export)), formats, tmp_path / source.id)
    cells = {source.id: source, target.id: target}
    moves = moves_into(Peer(cell=target, session=Talking(load=load)), {source.id: files}, cells, formats)
    return {move.format: move for move in moves}


def test_the_exported_files_lie_in_the_folder(project: Project, tmp_path: Path) -> None:
    source = cell(project, "cuda-2.6", "amd64", "onnx")
    found = moved(project, tmp_path, source, cell(project, "cpu-2.6", "arm64", "onnx"))
    assert {name: move.result for name, move in found.items()} == dict.fromkeys(
        ("torchscript", "export", "onnx"), Result.PASSED
    )
    assert (found["onnx"].error, found["onnx"].size) == (0.0, 7)
    names = {path.name for path in (tmp_path / "cuda-2.6-amd64").iterdir()}
    assert names == {"model.pt", "model.pt2", "model.onnx", "sample.json"}


@pytest.mark.parametrize(("ours", "theirs", "who"), [((), ("onnx",), "cuda-2.6-amd64"), (("onnx",), (), "cpu-2.6-arm")])
def test_without_the_extra_onnx_is_not_run(
    project: Project, tmp_path: Path, ours: tuple[str, ...], theirs: tuple[str, ...], who: str
) -> None:
    found = moved(
        project, tmp_path, cell(project, "cuda-2.6", "amd64", *ours), cell(project, "cpu-2.6", "arm64", *theirs)
    )
    assert found["onnx"].result is Result.NOT_RUN
    assert found["onnx"].detail.startswith(who)
    assert found["onnx"].detail.endswith("has no extra `onnx`")


def test_core_ml_is_converted_here_and_predicts_on_a_mac_only(project: Project, tmp_path: Path) -> None:
    source = cell(project, "cuda-2.6", "amd64", "coreml")
    assert "coreml" not in formats_of([cell(project, "cuda-2.6", "amd64")])
    there = moved(project, tmp_path, source, cell(project, "cpu-2.6", "arm64"))["coreml"]
    assert (there.result, there.detail) == (Result.NOT_RUN, "converted (7 B); Core ML runs models on macOS only")
    on_mac = moved(project, tmp_path, source, cell(project, "mps-2.6", "arm64", "coreml"))["coreml"]
    assert on_mac.result is Result.PASSED
    without = moved(project, tmp_path, source, cell(project, "mps-2.6", "arm64"))["coreml"]
    assert (without.result, without.detail) == (Result.NOT_RUN, "mps-2.6-arm64 has no extra `coreml`")


def test_a_failed_export_fails_once(project: Project, tmp_path: Path) -> None:
    def broken(_: Any) -> Outcome:
        return ended(lines({"sample": SAMPLE.to_json(), "torchscript": FILE, "export": "!RuntimeError: no"}))

    source = cell(project, "cuda-2.6", "amd64")
    own = moved(project, tmp_path, source, source, export=broken)["export"]
    assert (own.result, own.detail) == (Result.FAILED, "the export failed: RuntimeError: no")
    other = moved(project, tmp_path, source, cell(project, "cpu-2.6", "arm64"), export=broken)["export"]
    assert (other.result, other.detail) == (Result.NOT_RUN, "cuda-2.6-amd64 did not export it")


def test_other_numbers_fail(project: Project, tmp_path: Path) -> None:
    def wrong(models: dict[str, Any]) -> Outcome:
        return ended(lines({key: [1.0, -4.1] for key in models}))

    source, target = cell(project, "cuda-2.6", "amd64"), cell(project, "cpu-2.6", "arm64")
    found = moved(project, tmp_path, source, target, load=wrong)
    assert {found[name].result for name in ("torchscript", "export")} == {Result.FAILED}
    assert "they differ by 0.025" in found["export"].detail


def test_a_runtime_that_fails_makes_it_not_run(project: Project, tmp_path: Path) -> None:
    def fail(_: Any) -> Outcome:
        raise ToolError("the sandbox failed")

    source, target = cell(project, "cuda-2.6", "amd64"), cell(project, "cpu-2.6", "arm64")
    found = moved(project, tmp_path, source, target, load=fail)
    assert (found["export"].result, found["export"].detail) == (Result.NOT_RUN, "the sandbox failed")


def move(result: Result, **more: Any) -> Move:
    return Move(source="a", target="b", format="export", result=result, **more)


@pytest.mark.parametrize(
    ("results", "unasked", "code"),
    [
        ([Result.PASSED, Result.WORKED, Result.DID_NOT, Result.NOT_RUN], {}, 0),
        ([Result.PASSED, Result.FAILED], {"c": "not built"}, 1),
        ([Result.PASSED], {"c": "not built"}, 3),
        ([Result.NOT_RUN], {"a": "x", "b": "x"}, 3),
    ],
)
def test_exit_codes(results: list[Result], unasked: dict[str, str], code: int) -> None:
    assert Portability(moves=tuple(move(r) for r in results), unasked=unasked).exit_code == code


def test_the_table_has_numbers_and_each_reason_once() -> None:
    moves = (
        move(Result.FAILED, detail="they differ", error=0.5),
        Move(source="a", target="c", format="export", result=Result.PASSED, error=2.2e-7),
        Move(source="b", target="c", format="export", result=Result.NOT_RUN, detail="no extra"),
        Move(source="c", target="c", format="export", result=Result.NOT_RUN, detail="no extra"),
    )
    found = Portability(moves=moves, unasked={})
    text = found.text()
    assert "a     b   FAILED 5e-01" in text
    assert Move(source="a", target="a", format="export", result=Result.PASSED, error=0.0).cell() == "PASSED 0"
    assert "a     c   PASSED 2e-07" in text
    assert "  a -> b, export: they differ" in text
    assert "  b -> c, export and 1 more: no extra" in text
    assert text.endswith("1 passed, 1 failed, 2 not run; the same numbers means within 0.0001, relative to the largest")
    assert json.loads(json.dumps(found.to_json()))["moves"][0]["error"] == 0.5


def test_one_cell_has_nobody_to_give_it_to(project: Project, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"selected: cuda-2\.6-amd64"):
        check_portability(project, ["cuda-2.6"], arch=None, runtime="sandbox")
    with pytest.raises(UsageError, match="selected: none"):
        check_portability(Project(project.root, tmp_path), [], arch=None, runtime="sandbox")


def test_cells_that_are_not_built_are_not_run(tmp_path: Path) -> None:
    done = run_command("--layout", tmp_path / "dist", "portability", "cuda-2.6", "cpu-2.6", "--json")
    assert done.returncode == 3, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer["unasked"]) == {"cuda-2.6-amd64", "cpu-2.6-arm64"}
    assert {m["result"] for m in answer["moves"]} == {"NOT RUN"}
    assert len(answer["moves"]) == 2 * 2 * 3


@pytest.mark.parametrize("name", ["portable_export", "portable_load", "mps"])
def test_a_probe_is_one_argument_for_old_pythons_too(name: str) -> None:
    folder = Path(probes.__file__).parent / "inside"
    source = "\n".join((folder / f"{part}.py").read_text() for part in ("ask", name))
    assert len(source.encode()) < 100_000  # Linux takes 128 KiB
    ast.parse(source, feature_version=(3, 9))


def test_an_exported_value_keeps_its_shape() -> None:
    assert Sample.from_json(json.loads(json.dumps(SAMPLE.to_json()))) == SAMPLE
    assert ExportedModel(sample=None).files == {}
