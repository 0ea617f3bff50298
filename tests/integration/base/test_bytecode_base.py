"""Bytecode by the real Python of the Debian base: the same bytes whatever was compiled before, in whatever batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from buildctl.artifacts.bytecode import BuildPython
from buildctl.artifacts.debian.python import build_arch, build_python, prepare_python, python_packages
from buildctl.artifacts.store import Store
from buildctl.console.progress import Silent
from buildctl.lock.apt_sources import apt_mirrors
from buildctl.lock.debian import read_base_lock
from buildctl.lock.fetch import fetch_debs
from buildctl.matrix.cells import DebianBase, Flavour
from buildctl.matrix.read import load_matrix
from tests.conftest import ROOT
from tests.unit.artifacts.test_bytecode import ORDERS, TRAPS, Source, compiled

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def python() -> BuildPython:
    store = Store.default()
    matrix = load_matrix(ROOT / "matrix.yaml")
    base = next(b for b in matrix.bases if isinstance(b, DebianBase))
    lock = read_base_lock(ROOT / "images" / "bases" / base.name / f"{Flavour.RUNTIME}.{build_arch()}.packages")
    mirrors = apt_mirrors(matrix.debian_mirror)
    fetch_debs(python_packages(lock), store=store, mirrors=mirrors, progress=Silent())
    prepare_python(lock, store=store)
    return build_python(lock, store=store)


@pytest.mark.parametrize("order", [*ORDERS, [2, 0, 1, 3], [1, 3, 0, 2]])
def test_traps_give_the_same_bytes_in_any_order(python: BuildPython, order: Sequence[int]) -> None:
    alone = [compiled([trap], python)[0] for trap in TRAPS]
    assert compiled([TRAPS[i] for i in order], python) == [alone[i] for i in order]


def test_a_whole_standard_library_gives_the_same_bytes_in_any_batches(python: BuildPython) -> None:
    library = Path(python.env["PYTHONHOME"])
    sources: list[Source] = [(f"/{p.relative_to(library)}", p.read_bytes()) for p in sorted(library.rglob("*.py"))]
    assert len(sources) > 400
    together = compiled(sources, python)
    assert sum(r is None for r in together) < 5
    assert compiled(sources[::-1], python) == together[::-1]
    batches = [compiled(sources[at::7], python) for at in range(7)]
    assert [batches[i % 7][i // 7] for i in range(len(sources))] == together
