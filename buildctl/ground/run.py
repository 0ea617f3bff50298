"""The one door to subprocesses: argv lists only, a deadline on each, a kill of the whole process group behind it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildctl.console import log
from buildctl.ground.errors import ToolError
from buildctl.ground.interrupts import later
from buildctl.ground.reaper import reaped


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    timed_out: bool = False


def which(program: str) -> Path | None:
    """Full path of `program`; the sbin folders count although an ordinary user's PATH leaves them out."""
    found = shutil.which(program, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    return Path(found) if found else None


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    check: bool = True,
    missing_hint: str | None = None,
    on_line: Callable[[str], object] | None = None,
) -> Completed:
    """Run `argv` to its end or to `timeout` seconds, then SIGKILL its whole process group; also when this process dies.

    `env` replaces the environment when given. With `check`, a non-zero exit or a missed deadline raises ToolError with
    the end of its stderr. A program that does not exist always raises ToolError, with `missing_hint`. `on_line` gets
    each line of stderr as it comes, in a thread.
    """
    args = tuple(os.fspath(a) for a in argv)
    log.detail(f"$ {shown(args)}")
    how = {
        "stdin": subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": dict(env) if env is not None else None,
        "cwd": cwd,
        "text": True,
        "errors": "replace",
    }
    timed_out = False
    try:
        with program(args, **how) as process:
            listening = _Listening(process, on_line) if on_line else None
            try:
                stdout, stderr = process.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
                kill_group(process)
                stdout, stderr = process.communicate()
    except FileNotFoundError as error:
        raise ToolError(f"program not found: {args[0]}", hint=missing_hint or f"install {args[0]}") from error
    except PermissionError as error:
        raise ToolError(f"program cannot be executed: {args[0]}: {error.strerror}") from error
    stderr = listening.all() if listening else stderr
    done = Completed(argv=args, returncode=process.returncode, stdout=stdout, stderr=stderr, timed_out=timed_out)
    if check and (timed_out or done.returncode != 0):
        what = f"did not finish within {timeout:g} s" if timed_out else f"exited with {done.returncode}"
        tail = "\n".join(done.stderr.strip().splitlines()[-20:])
        raise ToolError(f"{Path(args[0]).name} {what}: {shown(args)}" + (f"\n{tail}" if tail else ""))
    return done


def pour(argv: Sequence[str | os.PathLike[str]], chunks: Iterable[bytes], *, last: float) -> None:
    """Run `argv` with `chunks` as its standard input and nothing of our environment but PATH. It has `last` seconds for
    what it does after the last byte. Raises ToolError as `run` does; what `chunks` raises ends it.
    """
    args = tuple(os.fspath(a) for a in argv)
    log.detail(f"$ {shown(args)}")
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    with tempfile.TemporaryFile() as said:
        with program(args, stdin=subprocess.PIPE, stdout=said, stderr=said, env=env) as process:
            assert process.stdin is not None  # noqa: S101 - it was asked for
            with suppress(BrokenPipeError), process.stdin as pipe:  # its exit status says why
                for chunk in chunks:
                    pipe.write(chunk)
            process.wait(last)
        said.seek(0)
        tail = "\n".join(said.read().decode(errors="replace").strip().splitlines()[-20:])
    if process.returncode != 0:
        raise ToolError(f"{Path(args[0]).name} exited with {process.returncode}: {shown(args)}\n{tail}".strip())


@contextmanager
def program(argv: Sequence[str], **how: Any) -> Iterator[subprocess.Popen[Any]]:
    """`argv` as the leader of a process group, which is killed if the block is left by an exception, among them an
    interrupt from the first moment on, or if this process dies. Raises OSError if it cannot be started.
    """
    process = None
    try:
        with later():
            process = subprocess.Popen(argv, start_new_session=True, **how)
        with reaped(process.pid):
            yield process
    except BaseException:
        if process is not None:
            kill_group(process)
            process.wait()
        raise


def shown(argv: Sequence[str]) -> str:
    """A command for people: cut, on one line, without user names and passwords in URLs."""
    from buildctl.ground.net import redact  # noqa: PLC0415 - HTTP, only for this

    return redact(" ".join(argv))[:400].replace("\n", " ")


class _Listening:
    """Takes stderr away from `communicate`, to read it line by line."""

    def __init__(self, process: subprocess.Popen[str], on_line: Callable[[str], object]) -> None:
        self.stream, process.stderr = process.stderr, None
        self.on_line, self.lines = on_line, list[str]()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        for line in self.stream or ():
            self.lines.append(line)
            self.on_line(line.rstrip("\n"))

    def all(self) -> str:
        self.thread.join()
        if self.stream:
            self.stream.close()
        return "".join(self.lines)


def kill_group(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
