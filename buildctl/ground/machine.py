"""Which system this is. The one place that asks, so that a test can walk a Mac's road on Linux."""

from __future__ import annotations

import functools
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

from buildctl.ground.errors import BuildctlError, EngineError

_SYSTEMS = {"darwin": "macos", "win32": "windows"}
_SHOWN = {"linux": "Linux", "macos": "macOS", "windows": "Windows"}
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # cgroup v2 and v1
NEEDED = "the base's own Python makes the bytecode, and Debian has that for Linux"
IN_LINUX = "build on Linux, or in a Linux virtual machine or container on this machine"


def system() -> str:
    """linux, macos or windows; a system that Python names otherwise is treated as Linux."""
    return _SYSTEMS.get(sys.platform, "linux")


def machine() -> str:
    """The processor in the kernel's words: x86_64, aarch64, arm64."""
    return platform.machine()


@functools.cache
def memory() -> int:
    """Bytes that this process may have at most: the machine's, or less in a container."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max": no limit
            found.append(int(Path(limit).read_text("ascii")))
    return min(found)


def shown() -> str:
    return _SHOWN[system()]


def require_linux(what: str, why: str, *, hint: str = IN_LINUX, error: type[BuildctlError] = EngineError) -> None:
    """Raises `error` where this is not Linux. `what` begins the sentence: `buildctl build`."""
    if system() != "linux":
        raise error(f"{what} needs Linux, and this is {shown()}: {why}", hint=hint)
