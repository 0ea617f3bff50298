"""Ends the programs that this process started when it dies without a chance to: SIGKILL, out of memory.

A small process of its own reads from a pipe which programs run. The pipe closes with this process, whatever ended it,
and then SIGKILL goes to each process group that is left. It works on every Unix and reaches a program's children, which
Linux's PR_SET_PDEATHSIG does not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_pipes: dict[int, int] = {}  # by the process that opened it: a fork must not speak for its parent


@contextlib.contextmanager
def reaped(pid: int) -> Iterator[None]:
    """While the block runs, `pid`, the leader of its process group, does not outlive this process."""
    pipe = _pipe()
    _tell(pipe, f"+{pid}\n")
    try:
        yield
    finally:
        _tell(pipe, f"-{pid}\n")


def _tell(pipe: int | None, line: str) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):  # somebody killed the reaper: then it is as if there were none
            os.write(pipe, line.encode())


def _pipe() -> int | None:
    with _lock:
        me = os.getpid()
        if me not in _pipes:
            reading, writing = os.pipe()
            try:
                os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-I", "-S", "-B", __file__],
                    {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"},  # a Python may need this one
                    file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)],
                    setpgroup=0,  # Ctrl-C and a closed terminal are not for it
                )
            except OSError:
                os.close(writing)
                return None
            finally:
                os.close(reading)
            _pipes[me] = writing
        return _pipes[me]


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (1, 2):  # whoever reads these waits for their end
        os.dup2(null, fd)
    alive: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        alive = alive | {pid} if line.startswith("+") else alive - {pid}
    for pid in alive:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
