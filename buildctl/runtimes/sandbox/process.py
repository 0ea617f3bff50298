"""Starting init.py, feeding it, reading it, and killing everything in it when its time is up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildctl.console import log
from buildctl.ground.run import kill_group, shown
from buildctl.runtimes.api import Outcome
from buildctl.runtimes.tail import PIECE, Tail

INIT = Path(__file__).with_name("init.py")
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
    status_read, status_write = os.pipe()
    try:
        spec_fd = memory_file(json.dumps({**spec, "parent": os.getpid(), "status_fd": status_write}))
        stdin_fd = memory_file(stdin)
        try:
            process = subprocess.Popen(
                # not as an argument: what runs inside can read the command line of process 1
                [sys.executable, "-I", "-S", "-B", str(INIT), str(spec_fd)],
                stdin=stdin_fd,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(spec_fd, status_write),
                env={k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"},  # a Python may need this one
                start_new_session=True,
            )
        finally:
            for fd in (spec_fd, stdin_fd, status_write):
                os.close(fd)
        timed_out, stdout, stderr = communicate(process, timeout)
        status = json.loads(os.read(status_read, PIECE) or b"{}")
    finally:
        os.close(status_read)
    if "error" in status:
        return Launched(outcome=None, step=status["step"], error=status["error"])
    code = status.get("exit", -status["signal"] if "signal" in status else None)
    if code is None and not timed_out:
        return Launched(outcome=None, step="launcher", error=f"it died without answering\n{stderr[-2000:]}".strip())
    return Launched(
        outcome=Outcome(
            returncode=None if timed_out else code,
            stdout=stdout,
            stderr=stderr,
            timed_out=timed_out,
            seconds=time.monotonic() - started,
        )
    )


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
