"""Commands as a user runs them, timed, in stores that are as warm as is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from buildctl.artifacts.store import Store

ROOT = Path(__file__).parents[1]


def buildctl(*args: str | Path, env: Mapping[str, str]) -> tuple[float, str]:
    """Wall seconds and stdout of a command that must succeed."""
    # as on most machines, Python keeps the bytecode of what it has imported once
    usual = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "buildctl", *map(str, args)],
        cwd=ROOT,
        env={**usual, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"buildctl {' '.join(map(str, args))} failed:\n{done.stderr}")
    return time.perf_counter() - start, done.stdout


def fresh_store(root: Path) -> dict[str, str]:
    """Downloads without layers, on the same file system as the user's store."""
    root.mkdir(parents=True)
    subprocess.run(["cp", "-al", Store.default().root / "artifacts", root / "artifacts"], check=True)
    return {"BUILDCTL_CACHE": str(root)}


@contextmanager
def scratch() -> Iterator[Path]:
    """Beside the user's store, so that downloads can be linked; always removed."""
    base = Store.default().root.parent
    base.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="buildctl-bench-", dir=base))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def warm(paths: list[Path]) -> None:
    """Into the page cache, for the floor and for assemble alike: the disk is not what is compared."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(1 << 22):
                pass
