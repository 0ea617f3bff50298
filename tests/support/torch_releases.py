"""What torch's CUDA wheels on PyPI say inside, release by release: torch_releases.json, made by

    python -m tests.support.torch_releases 2.5.1 2.6.0 ...

from the index that pip is configured for; integration/test_torch_releases.py compares.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from buildctl.ground.errors import LockError
from buildctl.lock.torch_wheel import facts_from_index
from buildctl.lock.uv import resolve
from buildctl.lock.wheels import LockedWheel
from buildctl.matrix.project import Project
from tests.conftest import ROOT

TABLE = Path(__file__).with_suffix(".json")


def read_table() -> dict[str, dict[str, Any]]:
    """By release and platform: `2.8.0 linux/amd64`."""
    value: dict[str, dict[str, Any]] = json.loads(TABLE.read_bytes())
    return value


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


def main(releases: list[str]) -> None:
    table = {}
    for release in releases:
        for platform in ("linux/amd64", "linux/arm64"):
            try:
                table[f"{release} {platform}"] = look(release, platform)
            except LockError as error:
                print(release, platform, error.message, file=sys.stderr)  # noqa: T201
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
