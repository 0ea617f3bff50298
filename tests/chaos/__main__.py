"""python -m tests.chaos [--kills N] [--every N] [--seed N] [ATTACK...]"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos import crowd, kills, rot, system
from tests.chaos.world import NotRunError, Tally, World

ATTACKS: dict[str, Callable[[World, argparse.Namespace], Tally]] = {
    **{f"kill {name}": kills.attack(name) for name in kills.COMMANDS},
    "strace build": system.strace_build,
    "strace publish": system.strace_publish,
    "full disk": system.full_disks,
    "crowd": crowd.crowd,
    "rot": rot.rot,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"default: all of {', '.join(ATTACKS)}")
    parser.add_argument("--kills", type=int, default=300, help="altogether")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="inject an error at every n-th system call")
    parser.add_argument("--builders", type=int, default=16)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    if not set(options.attacks) <= set(ATTACKS):
        parser.error(f"attacks are: {', '.join(ATTACKS)}")
    print(f"seed {options.seed}", flush=True)
    total, started = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=os.environ.get("CHAOS_DIR")) as folder:
        world = World.make(Path(folder), random.Random(options.seed))
        for name in options.attacks or ATTACKS:
            begun = time.monotonic()
            try:
                tally = ATTACKS[name](world, options)
            except NotRunError as reason:
                print(f"{name:16} NOT RUN: {reason}", flush=True)
                continue
            print(f"{name:16} {tally}, {time.monotonic() - begun:.0f} s", flush=True)
            total.add(tally)
    print(f"{'all':16} {total}, {time.monotonic() - started:.0f} s", flush=True)
    return int(not total.good)


if __name__ == "__main__":
    sys.exit(main())
