"""Commands as a user runs them: wall and CPU seconds, in stores that are as warm as is said."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from buildctl.artifacts.store import Store

ROOT = Path(__file__).parents[1]
SMALL = "BENCH_SMALL" in os.environ  # only the small image, to try the benchmark itself
RATES = tuple(map(int, os.environ.get("BENCH_RATES", "100,25").split(",")))  # MB/s of a slow network
# what a store keeps besides downloads
MADE = ("blobs", "layers", "receipts", "checked", "contents", "libraries", "bytecode")
_TICK = os.sysconf("SC_CLK_TCK")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Seconds of one turn. `user` and `system` are CPU time of all its processes, those of a Docker Engine included;
    `others` is CPU time that the rest of the machine used meanwhile, and that its host took away.
    """

    wall: float
    user: float
    system: float
    others: float

    @property
    def cpu(self) -> float:
        return self.user + self.system

    def plus(self, other: Took) -> Took:
        return Took(
            wall=self.wall + other.wall,
            user=self.user + other.user,
            system=self.system + other.system,
            others=self.others + other.others,
        )


def measured(action: Callable[[], _T]) -> tuple[Took, _T]:
    """What an action took. Its processes have ended when it returns, except those of a Docker Engine."""
    os.sync()  # what was written before is not this turn's to wait for
    clock, own, machine = time.perf_counter(), _own(), _machine()
    result = action()
    wall = time.perf_counter() - clock
    user, system = (after - before for before, after in zip(own, _own(), strict=True))
    others = max(_machine() - machine - user - system, 0.0)
    return Took(wall=wall, user=user, system=system, others=others), result


def _own() -> tuple[float, float]:
    """(user, system) seconds of this process, of what it has waited for, and of a Docker Engine."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    user, system = _engine()
    return user + sum(u.ru_utime for u in used), system + sum(u.ru_stime for u in used)


def _engine() -> tuple[float, float]:
    """Of every process in a PID namespace with a dockerd, and of what ended there: somebody waited for it."""
    spaces = {space for pid, name, space, _ in _processes() if name == "dockerd"} - {_space("self")}
    times = [spent for _, _, space, spent in _processes() if space in spaces]
    return sum(t[0] + t[2] for t in times) / _TICK, sum(t[1] + t[3] for t in times) / _TICK


def _processes() -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """(pid, name, PID namespace, ticks: user, system, and of children that ended)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                yield entry.name, name, _space(entry.name), tuple(map(int, rest.split()[11:15]))


def _space(pid: str) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


def _machine() -> float:
    """Busy seconds of all processors together, stolen ones included."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) / _TICK


def taking_turns(ways: Mapping[str, Callable[[], Took]], repeat: int) -> dict[str, list[Took]]:
    """So many turns of each, one after the other: a slow minute of the machine meets all of them."""
    turns = [{name: way() for name, way in ways.items()} for _ in range(repeat)]
    return {name: [turn[name] for turn in turns] for name in ways}


def buildctl(*args: str | Path, env: Mapping[str, str], cwd: Path = ROOT) -> tuple[Took, str]:
    """Of a command that must succeed, with its stdout."""
    # as on most machines, Python keeps the bytecode of what it has imported once
    usual = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    argv = [sys.executable, "-m", "buildctl", *map(str, args)]
    return measured(lambda: output(argv, env={**usual, **env}, cwd=cwd))


def output(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, argv))} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def fresh_store(root: Path, *folders: str) -> dict[str, str]:
    """Downloads without layers, on the same file system as the user's store; other folders of it if they are named."""
    root.mkdir(parents=True)
    for folder in ("artifacts", *folders):
        if (Store.default().root / folder).exists():
            subprocess.run(["cp", "-al", Store.default().root / folder, root / folder], check=True)
    return {"BUILDCTL_CACHE": str(root)}


@contextmanager
def scratch() -> Iterator[Path]:
    """On the file system of the user's store, so that downloads can be linked; always removed."""
    base = Store.default().root.parent
    base.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="buildctl-bench-", dir=base))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def warm(paths: list[Path]) -> None:
    """Into the page cache, for every row alike: the disk is not what is compared."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(1 << 22):
                pass


def timed_as(took: Took, wall: float) -> Took:
    """With a wall time that was measured inside, where what came before is not counted."""
    return replace(took, wall=wall)
