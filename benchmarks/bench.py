"""What is claimed about speed, measured in one run on one machine, as ratios; writes docs/benchmarks.md.

make bench, or one part of it, which leaves the rest of the page as it is: benchmarks/bench.py assemble|docker
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
from pathlib import Path

import floor
from measured import ROOT, buildctl, fresh_store, scratch, warm
from page import Row, section, update

from buildctl.artifacts.store import Store
from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.project import Project
from buildctl.oci.layout import Layout
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from buildctl.testing.images import image_ref

IMPORT = "import time; t = time.perf_counter(); import torch; print(time.perf_counter() - t)"


def assemble_rows(root: Path, repeat: int) -> list[Row]:
    project, store = Project.find(ROOT), Store.default()
    wheels = [store.artifact(w.digest) for w in read_wheel_lock(project.wheel_lock("cuda-2.6", "amd64")).wheels]
    paths = [w for w in wheels if w is not None]
    warm(paths)
    floors, builds, peaks = [], [], []
    for turn in range(repeat):
        floors.append(floor.measure(paths, processes=os.cpu_count() or 1).seconds)
        env = fresh_store(root / f"cuda{turn}")
        buildctl("--layout", root / f"cuda{turn}/dist", "bases", "cuda-2.6", env=env)  # not wheels: not in this row
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        seconds, _ = buildctl("--layout", root / f"cuda{turn}/dist", "build", "cuda-2.6", "--no-load", env=env)
        builds.append(seconds)
        peaks.append(max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
        if turn + 1 < repeat:
            shutil.rmtree(root / f"cuda{turn}")
    best_floor, best = min(floors), min(builds)
    return [
        Row("floor: inflate, two hashes, zstd-3 of the same bytes", best_floor, "1.00"),
        Row(
            "assemble cuda-2.6/amd64 from downloaded wheels, with bytecode",
            best,
            f"{best / best_floor:.2f} times the floor",
        ),
        Row("peak resident memory of any process", 0, f"{max(peaks) / 1024:.0f} MiB"),
    ]


def cpu_rows(root: Path, repeat: int) -> list[Row]:
    times = []
    for turn in range(repeat):
        env = fresh_store(root / f"cpu{turn}")
        buildctl("--layout", root / f"cpu{turn}/dist", "bases", "cpu-2.6", env=env)
        seconds, _ = buildctl("--layout", root / f"cpu{turn}/dist", "build", "cpu-2.6", "--no-load", env=env)
        times.append(seconds)
        shutil.rmtree(root / f"cpu{turn}")
    return [
        Row(
            "assemble cpu-2.6/arm64 from downloaded wheels, with bytecode",
            min(times),
            "no emulation, no daemon, no root",
        )
    ]


def unchanged_rows() -> list[Row]:
    names = json.loads(buildctl("matrix", "--json", env={})[1])["cells"]
    images = sorted({c["image"] for c in names if c["built"]})
    times = [buildctl("build", *images, "--no-load", env={})[0] for _ in range(5)]
    return [Row(f"build again, nothing changed, {len(images)} image names", min(times), "no network")]


def import_rows() -> list[Row]:
    """`import torch` in the assembled image, beside the same packages with bytecode as pip leaves it."""
    project = Project.find(ROOT)
    cell = next(c for c in project.matrix.cells if c.id == "cuda-2.6-amd64")
    ours: list[float] = []
    with SandboxRuntime(Store.default()).start(image_ref(Layout(project.layout), cell)) as session:
        for _ in range(6):
            outcome = session.run(["python", "-c", IMPORT], timeout=120)
            ours.append(float(outcome.stdout))
        # the same packages as an installer leaves them: bytecode by compileall, checked against the source's time
        script = (
            "mkdir /tmp/site && cp -as /usr/local/lib/python3.13/dist-packages/. /tmp/site/"
            " && find /tmp/site -name __pycache__ -prune -exec rm -r {} +"
            " && python -m compileall -q -j 0 /tmp/site; for i in 1 2 3 4 5 6; do"
            f" python -S -c 'import sys; sys.path.insert(0, \"/tmp/site\"); {IMPORT}'; done"
        )
        theirs = [float(x) for x in session.run(["sh", "-c", script], timeout=600, read_only=False).stdout.split()]
    return [
        Row(
            "import torch in the assembled image",
            min(ours[1:]),
            f"{min(ours[1:]) / min(theirs[1:]):.2f} times the next row",
        ),
        Row("import torch, the same packages compiled by compileall", min(theirs[1:]), "1.00"),
    ]


FLOOR = """\
The goal for the second row is 1.5 times the floor. The floor starts with running processes and makes no bytecode; the
row includes the start of the command (about 0.6 s) and the bytecode of 5,900 files (about 9 s of CPU). `import torch`
varies by 0.1 s from run to run."""


def assemble(root: Path, repeat: int) -> str:
    # whatever has to be downloaded is, before the clock starts
    buildctl("build", "cuda-2.6", "cpu-2.6", "--no-load", env={})
    rows = [*assemble_rows(root, repeat), *cpu_rows(root, repeat), *unchanged_rows(), *import_rows()]
    return section("Assemble", rows, FLOOR)


def beside_docker(root: Path, repeat: int) -> str:
    import plain  # noqa: PLC0415 - needs a Docker Engine, which the other part does not

    rows, notes = plain.measure(root, repeat)
    return section("Compared with Docker", rows, notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", choices=["assemble", "docker", []], help="which part (default: both)")
    parser.add_argument("--repeat", type=int, default=2, help="best of N for what takes long (default 2)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md")
    arguments = parser.parse_args()
    parts = arguments.part or ["assemble", "docker"]
    with scratch() as root:
        if "assemble" in parts:
            update(arguments.output, assemble(root, arguments.repeat))
        if "docker" in parts:
            update(arguments.output, beside_docker(root, arguments.repeat))
    print(arguments.output.read_text())


if __name__ == "__main__":
    main()
