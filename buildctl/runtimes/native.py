"""Running commands in an environment on this machine, ours (`buildctl native`) or anyone's (`buildctl test
env:PATH`): a clean environment and a deadline, no container.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from buildctl.console import log
from buildctl.ground.errors import RuntimeUnavailableError, ToolError
from buildctl.ground.machine import system
from buildctl.ground.run import kill_group, program, shown
from buildctl.runtimes.api import Outcome
from buildctl.runtimes.interpreter import Interpreter
from buildctl.runtimes.sandbox.gpu import NO_DEVICE
from buildctl.runtimes.tail import Tail

SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
# Variables that change how MPS works are hidden from the probes, and reported to them in SHELL.
SHELL_VARIABLES = ("PYTORCH_ENABLE_MPS_FALLBACK", "PYTORCH_MPS_")
SHELL = "BUILDCTL_SHELL"
# What configures driver libraries, the scheduler's choice of GPUs and NCCL's network, mostly on clusters: an
# environment that is not ours needs them to work as it does for its user.
PASSED_ON = ("LD_LIBRARY_PATH", "CUDA_", "NVIDIA_", "NCCL_", "ROCR_", "HIP_", "HSA_", "ZE_", "ONEAPI_")
LAST_WORDS = 5.0  # seconds that output may still come after the end, from what left the process group


class NativeRuntime:
    """The counterpart of an image's runtimes: it starts the same kind of session, on the folder of an environment."""

    name = "native"

    @contextmanager
    def start(self, folder: Path) -> Iterator[NativeSession]:
        """Raises RuntimeUnavailableError if there is no environment in `folder`."""
        python = folder / "bin" / "python"
        if not os.access(python, os.X_OK):
            raise RuntimeUnavailableError(f"no environment in {folder}: cannot run {python}")
        folder = folder.absolute()
        yield NativeSession(folder=folder, python=folder / "bin" / "python", scripts=(folder / "bin",))

    @contextmanager
    def enter(self, interpreter: Interpreter) -> Iterator[NativeSession]:
        """Somebody else's environment, with the GPUs that its user would see."""
        passed = {name: value for name, value in sorted(os.environ.items()) if name.startswith(PASSED_ON)}
        if interpreter.user_base:
            passed["PYTHONUSERBASE"] = str(interpreter.user_base)
        if interpreter.conda:
            passed["CONDA_PREFIX"] = str(interpreter.prefix)
        reason = no_gpus(os.environ)
        yield NativeSession(
            folder=interpreter.prefix,
            python=interpreter.python,
            scripts=interpreter.scripts,
            passed=passed,
            gpus=not reason,
            gpus_reason=reason,
        )


def no_gpus(environ: Mapping[str, str], dev: Path = Path("/dev")) -> str:
    """Why a process here sees no NVIDIA GPU; empty if the driver's device files exist."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1", "NoDevFiles"}:
        return f"CUDA_VISIBLE_DEVICES={visible} hides every GPU"
    return "" if any(dev.glob("nvidia[0-9]*")) or (dev / "dxg").exists() else NO_DEVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeSession:
    """Its commands run as whoever runs buildctl, see the whole machine and its network, and may write to it.

    `python` is what the command `python` starts, `scripts` are the folders before the system's on PATH, `passed` are
    variables on top of those every session has.
    """

    folder: Path
    python: Path
    scripts: tuple[Path, ...]
    passed: Mapping[str, str] = field(default_factory=dict)
    emulated: str | None = None
    gpus: bool = False
    gpus_reason: str = "NVIDIA GPUs are used by images only"
    ownership: bool = True
    at_once: int = 1

    def stop(self) -> None:
        """Nothing runs in another thread."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: str = "",
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        read_only: bool = True,  # noqa: ARG002 - nothing can be closed here
        tmp: bool = True,  # noqa: ARG002
        network: bool = False,  # noqa: ARG002
        through_entrypoint: bool = False,
    ) -> Outcome:
        """See `Session.run`. HOME, TMPDIR and the working directory are a fresh folder, removed at the end.

        Raises ToolError for what only images have: another user, an ENTRYPOINT.
        """
        if user is not None or through_entrypoint:
            raise ToolError("a native environment has no other user or ENTRYPOINT")
        # a short name: torch's workers put sockets in here, and macOS takes paths of 104 bytes
        with tempfile.TemporaryDirectory(prefix="b-", ignore_cleanup_errors=True) as scratch:
            surroundings = {**self._environment(scratch), **(env or {})}
            command = [str(self.python), *argv[1:]] if argv[0] == "python" else list(argv)
            return _run(command, env=surroundings, cwd=scratch, stdin=stdin, timeout=timeout)

    def _environment(self, scratch: str) -> dict[str, str]:
        user = getpass.getuser()
        shell = {name: value for name, value in sorted(os.environ.items()) if name.startswith(SHELL_VARIABLES)}
        return {
            **self.passed,
            "PATH": ":".join([*map(str, self.scripts), SYSTEM_PATH]),
            "VIRTUAL_ENV": str(self.folder),
            "HOME": scratch,
            "TMPDIR": scratch,
            "USER": user,
            "LOGNAME": user,
            "LANG": "en_US.UTF-8" if system() == "macos" else "C.UTF-8",
            SHELL: json.dumps(shell),
        }


def _run(argv: list[str], *, env: dict[str, str], cwd: str, stdin: str, timeout: float) -> Outcome:
    """To its end or for `timeout` seconds; when this returns or raises, nothing of its process group is left."""
    log.detail(f"$ {shown(argv)}")
    started = time.monotonic()
    with tempfile.TemporaryFile() as source:
        source.write(stdin.encode())
        source.seek(0)
        command = [shutil.which(argv[0], path=env["PATH"]) or argv[0], *argv[1:]]
        pipe = subprocess.PIPE
        timed_out = False
        try:
            with program(command, stdin=source, stdout=pipe, stderr=pipe, env=env, cwd=cwd) as process:
                assert process.stdout is not None  # noqa: S101
                assert process.stderr is not None  # noqa: S101
                tails = [Tail(process.stdout), Tail(process.stderr)]
                try:
                    process.wait(timeout)
                except subprocess.TimeoutExpired:
                    timed_out = True
                kill_group(process)  # its children too
                process.wait()
        except OSError as error:  # the exit codes that shells and Docker give
            code = 127 if isinstance(error, FileNotFoundError) else 126
            text = f"{argv[0]}: {error.strerror}"
            return Outcome(returncode=code, stdout="", stderr=text, timed_out=False, seconds=0.0)
    seconds = time.monotonic() - started
    stdout, stderr = (tail.text(LAST_WORDS) for tail in tails)
    returncode = None if timed_out else process.returncode
    return Outcome(returncode=returncode, stdout=stdout, stderr=stderr, timed_out=timed_out, seconds=seconds)
