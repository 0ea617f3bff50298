"""Real images: what is exported on amd64 runs on arm64 and back, with the same numbers; and a lie is found out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildctl.artifacts.store import Store
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.matrix.project import Project
from buildctl.oci.layout import Layout
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from buildctl.testing.images import image_ref
from buildctl.testing.moves import Portability, Result, measured
from buildctl.testing.portability import Peer, exported, formats_of, moves_into
from buildctl.testing.probes.portable import Model, Sample, load_in
from tests.conftest import ROOT, buildctl

CPU, CUDA = "cpu-2.6-arm64", "cuda-2.6-amd64"


@pytest.fixture(scope="module", params=[[CPU], pytest.param([CUDA, CPU], marks=pytest.mark.big)], ids=len)
def answer(
    built_store: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    layouts: Callable[[str], Path],
    request: pytest.FixtureRequest,
) -> dict[str, Any]:
    cells: list[str] = request.param
    built = layouts(cells[0])
    folder = tmp_path_factory.mktemp("models")
    if cells == [CPU]:
        return {"moves": to_itself(built, built_store, folder), "folder": folder, "cells": cells}
    names = [c.rpartition("-")[0] for c in cells]
    argv = ["portability", *names, "--runtime", "sandbox", "--output", str(folder), "--json"]
    done = buildctl("--layout", built, *argv, env=built_store)
    assert done.stdout, done.stderr
    value = json.loads(done.stdout)
    if value["unasked"]:
        pytest.skip(f"NOT RUN: {value['unasked']}")
    assert done.returncode == 0, done.stdout
    return {**value, "folder": folder, "cells": cells}


def to_itself(built: Path, store: dict[str, str], folder: Path) -> list[dict[str, Any]]:
    """What the command does with each of its cells, of which it wants two: the moves of one cell to itself."""
    cell = next(iter(Project.find(ROOT).matrix.select(["cpu-2.6"])))
    runtime = SandboxRuntime(Store(Path(store["BUILDCTL_CACHE"])))
    try:
        with runtime.start(image_ref(Layout(built), cell)) as session:
            member, formats = Peer(cell=cell, session=session), formats_of([cell])
            exports = {cell.id: exported(member, formats, folder / cell.id)}
            moves = moves_into(member, exports, {cell.id: cell}, formats)
    except RuntimeUnavailableError as reason:
        pytest.skip(f"NOT RUN: {reason.message}")
    found: list[dict[str, Any]] = Portability(moves=tuple(moves), unasked={}).to_json()["moves"]
    return found


def test_torchscript_and_export_give_the_same_numbers_both_ways(answer: dict[str, Any]) -> None:
    found = {(m["from"], m["to"], m["format"]): m for m in answer["moves"]}
    for source in answer["cells"]:
        for target in answer["cells"]:
            for name in ("torchscript", "export"):
                move = found[source, target, name]
                assert move["result"] == "PASSED", move
                assert isinstance(move["error"], float)
                assert move["error"] <= 1e-4
                assert isinstance(move["size"], int)
                assert move["size"] > 1000


def test_an_altered_expectation_fails(answer: dict[str, Any], built: Path, built_store: dict[str, str]) -> None:
    """What arm64 exported, in the amd64 image where that is built: the numbers decide, not that it loads."""
    folder = answer["folder"] / CPU
    true = Sample.from_json(json.loads((folder / "sample.json").read_text()))
    largest = max(range(len(true.outputs)), key=lambda n: abs(true.outputs[n]))
    outputs = [value * (1.001 if n == largest else 1) for n, value in enumerate(true.outputs)]
    lie = dataclasses.replace(true, outputs=tuple(outputs))
    other = dataclasses.replace(true, inputs=tuple(-value for value in true.inputs))
    data = (folder / "model.pt2").read_bytes()
    models = {name: Model(format="export", data=data, sample=sample) for name, sample in (("as", true), ("-x", other))}
    models["not a model"] = Model(format="export", data=data[:2000], sample=true)
    cell = next(iter(Project.find(ROOT).matrix.select([answer["cells"][0].rpartition("-")[0]])))
    runtime = SandboxRuntime(Store(Path(built_store["BUILDCTL_CACHE"])))
    with runtime.start(image_ref(Layout(built), cell)) as session:
        computed = load_in(session, models)
    assert measured(true, computed["as"], sure=True)[0] is Result.PASSED
    result, detail, error = measured(lie, computed["as"], sure=True)
    assert result is Result.FAILED
    assert error == pytest.approx(1e-3, rel=0.01)
    assert detail == "expected the same numbers within 0.0001, but they differ by 0.000999"
    assert measured(true, computed["-x"], sure=True)[0] is Result.FAILED
    assert measured(true, computed["not a model"], sure=True)[0] is Result.FAILED
