"""Debian's own apt and dpkg against what buildctl says that maintainer scripts do: the recorder as the oracle of the
interpreter, and a package that only the recorder can do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildctl.artifacts.debian.base import base_entries, check_scripts
from buildctl.artifacts.debian.package import BaseLock
from buildctl.artifacts.debian.recorded import format_recorded, parse_recorded
from buildctl.artifacts.debian.scripts.commands import UnknownScriptError
from buildctl.artifacts.store import Store
from buildctl.lock.apt import resolve_base
from buildctl.lock.apt_sources import apt_mirrors
from buildctl.lock.debian_added import Wanted, resolve_added, settle
from buildctl.lock.inside.assembly import Debs
from buildctl.matrix.cells import DebianBase, Flavour
from buildctl.matrix.project import Project
from buildctl.runtimes.recorder.record import Recorder, open_recorder
from buildctl.runtimes.sandbox.ids import find_ids

pytestmark = [
    pytest.mark.big,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("apt-get") or find_ids() is None, reason="NOT RUN: needs root and apt"
    ),
]
ROOT = Path(__file__).parents[3]
ACCEPTED = ("nano", "git", "openmpi-bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Packages of today on top of the default base of today, and a recorder."""

    wanted: Wanted
    debs: Debs
    recorder: Recorder

    def lock(self, name: str) -> tuple[Wanted, BaseLock]:
        wanted = replace(self.wanted, cell=replace(self.wanted.cell, apt=(name,)))
        (lock,) = resolve_added([wanted], mirrors=self.debs.mirrors, control=self.debs.control)
        self.debs.fetch(lock.packages)
        return wanted, lock


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    project = Project.find(ROOT)
    cell = next(c for c in project.matrix.cells if isinstance(c.base, DebianBase) and c.arch == "amd64")
    assert isinstance(cell.base, DebianBase)
    debs = Debs(store=Store.default(), mirrors=dict(apt_mirrors(project.matrix.debian_mirror)))
    base = resolve_base(cell.base, cell.arch, mirrors=debs.mirrors)[Flavour.RUNTIME]
    debs.fetch(base.packages)
    with open_recorder(debs.store) as recorder:
        yield World(wanted=Wanted(cell=cell, below=(base,), key="images"), debs=debs, recorder=recorder)


def layer(lock: BaseLock, world: World) -> dict[str, tuple[object, bytes]]:
    entries = base_entries(lock, world.debs.path, below=world.wanted.below, added=True)
    return {e.path: (replace(e, body=None), b"".join(e.body.chunks()) if e.body else b"") for e in entries}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_the_interpreter_accepts_is_what_dpkg_does(world: World, name: str) -> None:
    _, lock = world.lock(name)
    recorded = world.recorder.record(lock, world.wanted.below, world.debs.path)
    followed, ran = layer(lock, world), layer(replace(lock, recorded=recorded), world)
    assert {path for path in followed.keys() | ran.keys() if followed.get(path) != ran.get(path)} == set()


def test_what_it_refuses_is_recorded_and_reads_back(world: World) -> None:
    wanted, lock = world.lock("redis-tools")
    with pytest.raises(UnknownScriptError):
        check_scripts(lock, world.debs.path, below=wanted.below)
    (settled,), _ = settle([wanted], [lock], world.debs, record=world.recorder.record)
    assert settled.recorded is not None
    assert parse_recorded(format_recorded(settled), "x.recorded", lock) == settled.recorded
    made = layer(settled, world)
    assert b"\nredis:x:" in made["etc/passwd"][1]
    again, _ = settle([wanted], [lock], world.debs, olds=[settled])  # nothing is run, and nothing is refused
    assert again == [settled]
