"""Many builders of one store and one layout at once, while others prune and check."""

from __future__ import annotations

import argparse
import json

from tests.chaos.world import NAME, PATIENCE, Tally, World


def crowd(world: World, options: argparse.Namespace) -> Tally:
    tally = Tally()
    world.forget()
    builders = [world.start("build", NAME, "--no-load", "--json", "--jobs", "1") for _ in range(options.builders)]
    others = [world.start(*argv) for argv in (("prune",), ("fsck", "--store"), ("prune",), ("fsck", "--store"))]
    for number, builder in enumerate(builders):
        stdout, stderr = builder.communicate(timeout=PATIENCE)
        wrong = [stderr.strip()[-300:]] if builder.returncode else []
        if not wrong and json.loads(stdout)["images"][0]["digest"] != world.expected:
            wrong.append("another image")
        tally.note(f"builder {number}", wrong=wrong)
    for other in others:
        _, stderr = other.communicate(timeout=PATIENCE)
        tally.note("prune or fsck", wrong=[stderr.strip()[-300:]] if "Traceback" in stderr else [])
    tally.note("after all", wrong=[*world.half_made(), *world.rebuilt()], left=world.left())
    return tally
