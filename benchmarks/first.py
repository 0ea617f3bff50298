"""A first build behind a throttled package index on loopback, next to its two halves: download and assembly alone.

benchmarks/first.py [--name cuda-2.6 --arch amd64] [--rate 25 --rate 100]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from measured import ROOT, fresh_store, scratch

from buildctl.artifacts.store import Store
from buildctl.lock.wheels import LockedWheel, read_wheel_lock
from buildctl.matrix.project import Project

sys.path.insert(0, str(ROOT))

from tests.support.wheelhouse import wheelhouse

RATES = (25, 100)  # MB/s
GOAL = 1.15


def seconds(*args: str | Path, env: Mapping[str, str]) -> float:
    start = time.perf_counter()
    usual = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-m", "buildctl", *args], cwd=ROOT, env={**usual, **env}, check=True)
    return time.perf_counter() - start


def without_wheels(root: Path, wheels: tuple[LockedWheel, ...], url: str) -> dict[str, str]:
    """A store that has everything downloaded but these wheels."""
    env = fresh_store(root)
    for wheel in wheels:
        Store(root).artifact_path(wheel.digest).unlink()
    return env | {"UV_DEFAULT_INDEX": url, "UV_NO_CACHE": "1", "NO_PROXY": "127.0.0.1"}


def measure(root: Path, name: str, arch: str, rate: float) -> tuple[float, float, float]:
    """Seconds of the download, of the assembly, and of a build that does both."""
    wheels = read_wheel_lock(Project.find(ROOT).wheel_lock(name, arch)).wheels
    build = ("build", name, "--arch", arch, "--no-load")
    with wheelhouse(wheels, Store.default(), rate=rate * 1e6) as url:
        env = without_wheels(root / "halves", wheels, url)
        download = seconds("fetch", name, "--arch", arch, env=env)
        assembly = seconds("--layout", root / "halves/dist", *build, env=env)
        shutil.rmtree(root / "halves")
        env = without_wheels(root / "both", wheels, url)
        both = seconds("--layout", root / "both/dist", *build, env=env)
        shutil.rmtree(root / "both")
    return download, assembly, both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="cuda-2.6")
    parser.add_argument("--arch", default="amd64")
    parser.add_argument("--rate", type=float, action="append", help="MB/s, may be repeated (default: 25 and 100)")
    arguments = parser.parse_args()
    with scratch() as root:
        for rate in arguments.rate or RATES:
            download, assembly, both = measure(root, arguments.name, arguments.arch, rate)
            ratio = both / max(download, assembly)
            print(f"first build of {arguments.name}/{arguments.arch} behind {rate:g} MB/s: {both:.1f} s")
            print(f"  download alone {download:.1f} s, assembly alone {assembly:.1f} s")
            print(f"  {ratio:.2f} times the longer of the two (goal: {GOAL})", flush=True)


if __name__ == "__main__":
    main()
