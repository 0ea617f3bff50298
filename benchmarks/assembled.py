"""Our engine alone: against the floor, nothing changed, one thing changed, and `import torch` inside."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import floor
from measured import ROOT, Took, buildctl, fresh_store, measured, output, taking_turns, timed_as, warm
from results import Goal, Part, Row, ratio

from buildctl.artifacts.store import Store
from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.project import Project
from buildctl.oci.layout import Layout
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from buildctl.testing.images import image_ref

FLOOR = "floor: the wheels of cuda-2.6 inflated (isal), hashed twice (SHA-256), compressed (zstd)"
CUDA = "cuda-2.6/amd64 from downloaded wheels, with bytecode"
KEPT = "the same with the bytecode of an earlier build in the store"
CPU = "cpu-2.6/arm64 from downloaded wheels, with bytecode"
IMPORT = "import time; t = time.perf_counter(); import torch; print(time.perf_counter() - t)"
OURS, THEIRS = "import torch in the assembled image", "import torch, the same packages compiled by compileall"
NOTES = """\
The floor starts with running processes, makes no bytecode and writes nothing; ours includes the start of the command,
writing 2.6 GB, and the bytecode of 4,700 files (9 s of CPU). `import torch` varies by 0.1 s from run to run.

Measured once, not by the benchmark: where the first commit (0e3a932) took 43 s of CPU for cuda-2.6, the goal was 34 s,
0.79 times that. In turns on this machine it took 64.7 s and e212729 44.0 s, 0.68 times that (medians of 4 turns)."""


def assemble(root: Path, repeat: int) -> Part:
    # whatever has to be downloaded is, before the clock starts
    buildctl("build", "cuda-2.6", "cpu-2.6", "--no-load", env={})
    project, store = Project.find(ROOT), Store.default()
    wheels = [store.artifact(w.digest) for w in read_wheel_lock(project.wheel_lock("cuda-2.6", "amd64")).wheels]
    paths = [w for w in wheels if w is not None]
    warm(paths)
    ways = {
        FLOOR: lambda: _floor(paths),
        CUDA: lambda: _whole(root, "cuda-2.6"),
        KEPT: lambda: _whole(root, "cuda-2.6", "bytecode"),
        CPU: lambda: _whole(root, "cpu-2.6"),
    }
    took = taking_turns(ways, repeat)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    times = ratio(took[CUDA], took[FLOOR])
    unchanged, names = _unchanged()
    verdict, bare = _verdict()
    imports = _imports()
    rows = (
        Row(what=FLOOR, turns=tuple(took[FLOOR])),
        Row(what=CUDA, turns=tuple(took[CUDA]), than=FLOOR),
        Row(what=KEPT, turns=tuple(took[KEPT]), than=FLOOR),
        Row(what="peak resident memory of any process", note=f"{peak:.0f} MiB"),
        Row(what=CPU, turns=tuple(took[CPU]), note="no emulation, no daemon, no root"),
        Row(what=f"build again, nothing changed, {names} image names", turns=unchanged, note="no network"),
        Row(what="can an image run on that machine? `buildctl check cuda-2.6 --host ...`", turns=verdict),
        Row(what="an empty Python", turns=bare),
        *imports,
    )
    goals = (
        Goal(what="assemble cuda-2.6: times the floor", want=1.5, got=times),
        Goal(what="the same without making bytecode: CPU, times the floor", want=1.1, got=_cpu(took, KEPT, FLOOR)),
        Goal(what=f"nothing changed, {names} image names", want=0.3, got=min(t.wall for t in unchanged), unit="s"),
        Goal(
            what="`buildctl check`: CPU besides starting Python", want=0.2, got=_least(verdict) - _least(bare), unit="s"
        ),
    )
    return Part(title="Assemble", rows=rows, notes=NOTES, goals=goals, turns=repeat)


def _floor(paths: list[Path]) -> Took:
    took, found = measured(lambda: floor.measure(paths, processes=os.cpu_count() or 1))
    return timed_as(took, found.seconds)


def _cpu(took: Mapping[str, Sequence[Took]], slow: str, fast: str) -> float:
    return _least(took[slow]) / _least(took[fast])


def _least(turns: Sequence[Took]) -> float:
    return min(t.cpu for t in turns)


def _whole(root: Path, name: str, *kept: str) -> Took:
    """The whole command, from downloads and a base; its layers are removed. `kept` are folders of the turn before."""
    folder = root / f"assemble-{name}"
    env = fresh_store(folder, "receipts")  # which a download leaves, too
    for part in kept:
        (root / part).rename(folder / part)
    buildctl("--layout", folder / "dist", "bases", name, env=env)  # not wheels: not in this row
    took, _ = buildctl("--layout", folder / "dist", "build", name, "--no-load", env=env)
    shutil.rmtree(root / "bytecode", ignore_errors=True)
    (folder / "bytecode").rename(root / "bytecode")
    shutil.rmtree(folder)
    return took


def _unchanged() -> tuple[tuple[Took, ...], int]:
    cells = json.loads(buildctl("matrix", "--json", env={})[1])["cells"]
    images = sorted({c["image"] for c in cells if c["built"]})
    return tuple(buildctl("build", *images, "--no-load", env={})[0] for _ in range(5)), len(images)


def _verdict() -> tuple[tuple[Took, ...], tuple[Took, ...]]:
    """For a machine that was recorded, because this one's Docker and podman would be measured, too; and what a Python
    that does nothing takes of it.
    """
    empty = [sys.executable, "-c", "pass"]
    host = ROOT / "tests" / "support" / "hosts" / "rtx5090.json"
    checks = tuple(buildctl("check", "cuda-2.6", "--host", host, env={})[0] for _ in range(5))
    return checks, tuple(measured(lambda: output(empty))[0] for _ in range(5))


def _imports() -> list[Row]:
    """`import torch` in the assembled image, and the same packages with bytecode as pip leaves it."""
    project = Project.find(ROOT)
    cell = next(c for c in project.matrix.cells if c.id == "cuda-2.6-amd64")
    with SandboxRuntime(Store.default()).start(image_ref(Layout(project.layout), cell)) as session:
        ours = [float(session.run(["python", "-c", IMPORT], timeout=120).stdout) for _ in range(6)]
        # the same packages as an installer leaves them: bytecode by compileall, checked against the source's time
        script = (
            "mkdir /tmp/site && cp -as /usr/local/lib/python3.13/dist-packages/. /tmp/site/"
            " && find /tmp/site -name __pycache__ -prune -exec rm -r {} +"
            " && python -m compileall -q -j 0 /tmp/site; for i in 1 2 3 4 5 6; do"
            f" python -S -c 'import sys; sys.path.insert(0, \"/tmp/site\"); {IMPORT}'; done"
        )
        theirs = [float(x) for x in session.run(["sh", "-c", script], timeout=600, read_only=False).stdout.split()]
    rows = [Row(what=THEIRS, turns=_inside(theirs))]
    return [Row(what=OURS, turns=_inside(ours), than=THEIRS), *rows]


def _inside(seconds: list[float]) -> tuple[Took, ...]:
    """Measured by the process itself, which knows only its wall time; the first one warms up."""
    return tuple(Took(wall=s, user=0, system=0, others=0) for s in seconds[1:])
