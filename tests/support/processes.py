"""Whether processes that a test made another process start are still there."""

from __future__ import annotations

import os
import time
from pathlib import Path


def wait_for_pids(folder: Path, count: int, *, patience: float = 60) -> list[int]:
    """The process ids in the files `*.pid` of `folder`, when there are `count`."""
    until = time.monotonic() + patience
    while True:
        texts = [path.read_text() for path in sorted(folder.glob("*.pid"))]
        if len([text for text in texts if text.endswith("\n")]) >= count:
            return [int(text) for text in texts]
        assert time.monotonic() < until, f"{len(texts)} of {count} processes started"
        time.sleep(0.05)


def left(pids: list[int], *, patience: float = 15) -> list[int]:
    """Those of `pids` that have not ended after `patience` seconds."""
    until = time.monotonic() + patience
    while (alive := [pid for pid in pids if _is_alive(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return alive


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # in a container without an init nobody collects orphans
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()
