"""System calls for the processes that become a sandbox. Like them it imports the standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
# linux/sched.h, sys/mount.h, linux/prctl.h
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE, DETACH = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18, 2
SET_PDEATHSIG, SET_SECCOMP, CAPBSET_DROP, SET_NO_NEW_PRIVS = 1, 22, 24, 38
SECCOMP_FILTER = 2  # linux/seccomp.h
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
# linux/mount.h; the numbers of these calls are the same on every architecture (asm-generic/unistd.h)
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, OPEN_TREE_CLONE, MOVE_EMPTY_PATH = -100, 0x1000, 0x8000, 1, 4
ATTR_NOSUID, ATTR_NODEV, ATTR_IDMAP = 2, 4, 0x100000
Spec = dict[str, Any]


class StepError(Exception):
    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step, self.reason = step, reason


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StepError(name, reason) from error


def call(name: str, *args: int | bytes | ctypes.Array[Any] | ctypes.c_ulong | None) -> None:
    if getattr(LIBC, name)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def mount(source: str, target: str, kind: str | None, flags: int = 0, options: str = "") -> None:
    call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        os.fsencode(options) if options else None,
    )


def system_call(number: int, *args: int | bytes | ctypes.Array[Any] | ctypes.c_ulong) -> int:
    """For calls that the C library has no function for; raises OSError."""
    result: int = LIBC.syscall(ctypes.c_long(number), *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def die_with_parent(parent: int | None = None) -> None:
    call("prctl", SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if parent is not None and os.getppid() != parent:  # it died before we asked to be told
        os._exit(1)


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode("latin-1"))
    finally:
        os.close(fd)


def kept_flags(path: str) -> int:
    """Flags that a less privileged namespace may not clear when it remounts; ST_ and MS_ bits agree, all but one."""
    flags = os.statvfs(path).f_flag
    return flags & (NOSUID | NODEV | NOEXEC | 1024 | 2048) | ((1 << 21) if flags & 4096 else 0)
