"""Starting init.py, feeding it, reading it, and killing everything in it when its time is up."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildctl.console import log
from buildctl.ground.interrupts import without_interrupts
from buildctl.ground.run import kill_group, shown
from buildctl.runtimes.api import Outcome
from buildctl.runtimes.sandbox.terminal import at_a_terminal, join, open_terminal
from buildctl.runtimes.tail import PIECE, Tail

INIT = Path(__file__).with_name("init.py")
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
PATIENCE = 10.0  # seconds that a command has to end after SIGTERM, as `docker stop` gives it
_launched_now: set[subprocess.Popen[bytes]] = set()  # by `launch`, in whatever thread
LAST_WORD = 5.0  # seconds between asking the launcher to end everything and killing it


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The command's outcome, or at which step the sandbox could not be made and why."""

    outcome: Outcome | None
    step: str = ""
    error: str = ""


def launch(spec: Mapping[str, Any], *, timeout: float, stdin: str) -> Launched:
    """Run one sandbox to its end or for `timeout` seconds. No process of it is left when this returns or raises."""
    if spec.get("argv"):
        log.detail(f"in a sandbox: $ {shown(spec['argv'])}")
    started = time.monotonic()
    with _status() as (status_read, status_write):
        stdin_fd = memory_file(stdin)
        try:
            files = (stdin_fd, subprocess.PIPE, subprocess.PIPE)
            process = _start({**spec, "passed_on": (), "terminal": ""}, files, status_write)
        finally:
            os.close(stdin_fd)
        _launched_now.add(process)
        try:
            timed_out, stdout, stderr = communicate(process, timeout)
        finally:
            _launched_now.discard(process)
        status = json.loads(os.read(status_read, PIECE) or b"{}")
    outcome = Outcome(
        returncode=_code(status), stdout=stdout, stderr=stderr, timed_out=timed_out, seconds=time.monotonic() - started
    )
    return _launched(replace(outcome, returncode=None) if timed_out else outcome, status)


def end_launched() -> None:
    """Ask what `launch` has started in other threads to end, which then returns there."""
    for process in tuple(_launched_now):
        process.send_signal(signal.SIGTERM)


def attach(spec: Mapping[str, Any], *, owner: int) -> Launched:
    """Run one sandbox to its end with this process's own input and output; at a terminal, in a terminal of its own,
    which belongs to `owner`, an id of this machine.

    Signals go to the command. No process of it is left when this returns or raises.
    """
    started = time.monotonic()
    with _status() as (status_read, status_write), ExitStack() as stack:
        terminal = stack.enter_context(open_terminal(owner)) if at_a_terminal() else None
        files = (terminal.inner,) * 3 if terminal else (None, None, None)
        with without_interrupts():  # until there is something to pass them on to
            name = terminal.name if terminal else ""
            process = _start({**spec, "passed_on": PASSED_ON, "terminal": name}, files, status_write)
            stack.enter_context(passing_on(process))
        try:
            if terminal:
                join(terminal)
            wait(process)
        finally:
            end(process)
        status = json.loads(os.read(status_read, PIECE) or b"{}")
    seconds = time.monotonic() - started
    outcome = Outcome(returncode=_code(status), stdout="", stderr="", timed_out=False, seconds=seconds)
    return _launched(outcome, status)


@contextmanager
def passing_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Signals for this process go to the sandbox. What asks it to end is given `PATIENCE` seconds, then it is ended."""

    def handle(number: int, _: object) -> None:
        process.send_signal(number)
        if number != signal.SIGINT:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    before = {number: signal.signal(number, handle) for number in PASSED_ON}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: process.kill())
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(process: subprocess.Popen[bytes]) -> None:
    """Until it has ended. Unlike in `process.wait()`, a signal that comes just before it waits is handled at once."""
    ended = os.pidfd_open(process.pid)
    heard, bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
    try:
        while ended not in select.select([ended, heard], [], [])[0]:
            with suppress(BlockingIOError):
                os.read(heard, PIECE)
        process.wait()
    finally:
        signal.set_wakeup_fd(before)
        for fd in (ended, heard, bell):
            os.close(fd)


@contextmanager
def _status() -> Iterator[tuple[int, int]]:
    """What the sandbox tells us through; the other end of it is closed once it has started."""
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)


def _start(spec: Mapping[str, Any], files: tuple[int | None, ...], status_write: int) -> subprocess.Popen[bytes]:
    """`files` are its input, output and errors. Closes `status_write` here."""
    spec_fd = memory_file(json.dumps({**spec, "parent": os.getpid(), "status_fd": status_write}))
    try:
        return subprocess.Popen(
            # not as an argument: what runs inside can read the command line of process 1
            [sys.executable, "-I", "-S", "-B", str(INIT), str(spec_fd)],
            stdin=files[0],
            stdout=files[1],
            stderr=files[2],
            pass_fds=(spec_fd, status_write),
            env={k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"},  # a Python may need this one
            start_new_session=True,
        )
    finally:
        for fd in (spec_fd, status_write):
            os.close(fd)


def _code(status: Mapping[str, Any]) -> int | None:
    if "signal" in status:
        return -int(status["signal"])
    return int(status["exit"]) if "exit" in status else None


def _launched(outcome: Outcome, status: Mapping[str, Any]) -> Launched:
    if "error" in status:
        return Launched(outcome=None, step=status["step"], error=status["error"])
    if outcome.returncode is None and not outcome.timed_out:
        return Launched(
            outcome=None, step="launcher", error=f"it died without answering\n{outcome.stderr[-2000:]}".strip()
        )
    return Launched(outcome=outcome)


def memory_file(text: str) -> int:
    """A file descriptor to read `text` from: no writer thread, no broken pipe, no name."""
    fd = os.memfd_create("buildctl")
    with open(fd, "wb", closefd=False) as file:
        file.write(text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def communicate(process: subprocess.Popen[bytes], timeout: float) -> tuple[bool, str, str]:
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    tails = [Tail(process.stdout), Tail(process.stderr)]
    timed_out = False
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        timed_out = True
        end(process)
    except BaseException:  # Ctrl-C: nothing may outlive us
        end(process)
        raise
    return timed_out, tails[0].text(), tails[1].text()


def end(process: subprocess.Popen[bytes]) -> None:
    """The launcher kills process 1 and waits until the kernel has ended the rest; if it cannot, its death does it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(LAST_WORD)
    except subprocess.TimeoutExpired:
        kill_group(process)
        process.wait()
