"""A first build behind a slow package index, and its two halves: the download alone and the assembly alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from measured import RATES, ROOT, SMALL, Took, buildctl, fresh_store
from results import Goal, Part, Row
from throttled import throttled

from buildctl.artifacts.store import Store
from buildctl.lock.wheels import LockedWheel, read_wheel_lock
from buildctl.matrix.project import Project

sys.path.insert(0, str(ROOT))  # the tests' index

from tests.support.wheelhouse import wheelhouse

NAME, ARCH = ("cpu-2.6", "arm64") if SMALL else ("cuda-2.6", "amd64")
NOTES = """\
The locked wheels come from an index on loopback, behind a proxy that lets so many bytes a second through; the base's
Debian packages are there. The goal: a build that does both takes little longer than the longer of its halves."""


def slow_index(root: Path, _: int) -> Part:
    wheels = read_wheel_lock(Project.find(ROOT).wheel_lock(NAME, ARCH)).wheels
    rows: list[Row] = []
    goals = []
    for rate in RATES:
        chart = f"first build of {NAME} behind {rate} MB/s, seconds"
        found = _halves_and_both(root, wheels, rate)
        rows += [Row(what=f"{rate} MB/s: {what}", turns=(took,), chart=chart) for what, took in found.items()]
        download, assembly, both = (took.wall for took in found.values())
        what = f"first build behind {rate} MB/s: times the longer half"
        goals.append(Goal(what=what, want=1.15, got=both / max(download, assembly)))
    return Part(title="A first build", rows=tuple(rows), notes=NOTES, goals=tuple(goals))


def _halves_and_both(root: Path, wheels: tuple[LockedWheel, ...], rate: float) -> dict[str, Took]:
    build = ("build", NAME, "--arch", ARCH, "--no-load")
    with wheelhouse(wheels, Store.default()) as url:
        place = urlsplit(url)
        with throttled(str(place.hostname), place.port or 80, rate * 1e6) as wire:
            index = f"http://{wire.netloc}{place.path}"
            halves, both = root / "halves", root / "both"
            env = _without_wheels(halves, wheels, index)
            download, _ = buildctl("fetch", NAME, "--arch", ARCH, env=env)
            assembly, _ = buildctl("--layout", halves / "dist", *build, env=env)
            env = _without_wheels(both, wheels, index)
            together, _ = buildctl("--layout", both / "dist", *build, env=env)
            shutil.rmtree(halves)
            shutil.rmtree(both)
    return {"download alone": download, "assembly alone": assembly, "our build, both at once": together}


def _without_wheels(root: Path, wheels: tuple[LockedWheel, ...], index: str) -> dict[str, str]:
    """A store with everything downloaded but these wheels."""
    env = fresh_store(root)
    for wheel in wheels:
        Store(root).artifact_path(wheel.digest).unlink()
    return env | {"UV_DEFAULT_INDEX": index, "UV_NO_CACHE": "1", "NO_PROXY": "127.0.0.1"}
