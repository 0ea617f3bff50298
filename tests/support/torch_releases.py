"""What torch's CUDA wheels on PyPI say inside, release by release: torch_releases.json, made by

    python -m tests.support.torch_releases [RELEASE ...]

from the index that pip is configured for; integration/test_torch_releases.py compares. Without a release it adds those
that the index has and the table does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from packaging.version import Version

from buildctl.ground.errors import LockError
from buildctl.lock.torch_wheel import facts_from_index
from buildctl.lock.uv import NoSolutionError, resolve
from buildctl.lock.wheels import LockedWheel
from buildctl.matrix.project import Project
from tests.conftest import ROOT

PLATFORMS = ("linux/amd64", "linux/arm64")
TABLE = Path(__file__).with_suffix(".json")


def read_table() -> dict[str, dict[str, Any]]:
    """By release and platform: `2.8.0 linux/amd64`."""
    value: dict[str, dict[str, Any]] = json.loads(TABLE.read_bytes())
    return value


def releases(platform: str) -> list[str]:
    """Every release since 2.5 that has a wheel for Python 3.13 there, the newest first, as uv finds them."""
    found: list[str] = []
    below = ""
    with contextlib.suppress(NoSolutionError):
        while True:
            (one,) = resolve([f"torch>=2.5{below}"], python="3.13", platform=platform, alone=True)
            found.append(one.version)
            below = f",<{one.version}"
    return found


def on_the_index() -> set[str]:
    return {f"{release} {platform}" for platform in PLATFORMS for release in releases(platform)}


def look(release: str, platform: str) -> dict[str, Any]:
    """A few ranged reads of the wheel for Python 3.13, some 12 MB. Raises LockError where there is none."""
    found = next(f for f in resolve([f"torch=={release}"], python="3.13", platform=platform) if f.name == "torch")
    assert found.size is not None
    assert found.digest is not None
    wheel = LockedWheel(
        name=found.name, version=found.version, filename=found.filename, size=found.size, digest=found.digest
    )
    cells = Project.find(ROOT).matrix.cells
    cell = next(c for c in cells if c.accelerator.name == "cuda" and c.platform == platform)
    facts = facts_from_index(cell, wheel)
    return {"file": found.filename, **dataclasses.asdict(facts)}


def main(wanted: list[str]) -> None:
    table = read_table()
    names = {f"{release} {platform}" for release in wanted for platform in PLATFORMS}
    for name in names or on_the_index() - table.keys():
        release, platform = name.split(" ")
        try:
            table[name] = look(release, platform)
        except LockError as error:
            print(name, error.message, file=sys.stderr)  # noqa: T201
    ordered = dict(sorted(table.items(), key=lambda item: (Version(item[0].split(" ")[0]), item[0])))
    TABLE.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
