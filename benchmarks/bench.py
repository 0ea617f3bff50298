"""What is claimed about speed, measured on one machine, as ratios: docs/benchmarks.json, from which page.py makes
docs/benchmarks.md, its charts and the one in the README.

make bench, or some parts, which leave the others as they were: benchmarks/bench.py assemble docker
With BENCH_SMALL=1 and --results elsewhere, some parts measure only the small image: to try the benchmark itself.
BENCH_RATES=100 leaves out the slower network of `first` and `pull`, which takes ten minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from measured import ROOT, SMALL, scratch
from page import machine, write
from results import Part, load, save


def parts() -> dict[str, Callable[[Path, int], Part]]:
    from assembled import assemble  # noqa: PLC0415 - each part loads what it needs
    from changes import change  # noqa: PLC0415
    from minute import minute  # noqa: PLC0415
    from shared import cache  # noqa: PLC0415
    from slow_index import slow_index  # noqa: PLC0415

    def docker(root: Path, repeat: int) -> Part:
        import plain  # noqa: PLC0415 - needs a Docker Engine

        return plain.measure(root, repeat)

    def pull(root: Path, repeat: int) -> Part:
        import pulls  # noqa: PLC0415 - needs a Docker Engine

        return pulls.measure(root, repeat)

    return {
        "minute": minute,
        "assemble": assemble,
        "first": slow_index,
        "cache": cache,
        "change": change,
        "docker": docker,
        "pull": pull,
    }


def others(part: Part) -> float:
    """How much of the machine other processes used while the rows of `part` were measured: 0 to 1."""
    turns = [turn for row in part.rows for turn in row.turns]
    wall = sum(turn.wall for turn in turns)
    return sum(turn.others for turn in turns) / wall / (os.cpu_count() or 1) if wall else 0.0


# free disk in GB: a run that fills it is lost after a quarter of an hour
ROOM = {"docker": 30, "pull": 20}


def main() -> None:
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", choices=[*known, []], help="which parts (default: all)")
    parser.add_argument("--repeat", type=int, default=2, help="turns of each row (default 2)")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "benchmarks.json")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is in the scratch folder goes
    results = load(arguments.results)
    wanted, free = arguments.part or list(known), shutil.disk_usage(Path.home()).free // 10**9
    if not SMALL and (short := [f"{part} needs {ROOM[part]} GB" for part in wanted if ROOM.get(part, 0) > free]):
        sys.exit(f"error: {', '.join(short)} of free disk in {Path.home()}, there are {free}")
    for name in wanted:
        start = time.monotonic()
        with scratch() as root:
            part = known[name](root, arguments.repeat)
        busy = f"{others(part):.0%}"
        results[name] = replace(part, machine=machine(), busy=busy)
        save(arguments.results, {key: results[key] for key in known if key in results})
        print(f"{name}: {time.monotonic() - start:.0f} s, others used {busy} of the machine", flush=True)
    write(load(arguments.results), arguments.results)


if __name__ == "__main__":
    main()
