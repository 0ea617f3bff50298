"""An installed Python (an executable, a virtual environment, a conda environment), and where it imports from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildctl.ground.errors import RuntimeUnavailableError, ToolError
from buildctl.ground.jsontext import parse_json
from buildctl.ground.run import run

OLDEST = (3, 9)  # what the probes run on
_PATIENCE = 60.0  # seconds; a cold network file system is slow
_HINT = "env:PATH takes a Python executable, or the folder of a virtual or conda environment"
# The Python we query is not ours: our environment must not redirect it.
_DROPPED = frozenset({"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "VIRTUAL_ENV", "CONDA_PREFIX"})
# `find_spec` of a top-level name looks for it and imports nothing.
_ASK = """
import importlib.util, json, platform, site, sys
spec = importlib.util.find_spec("torch")
print("BUILDCTL", json.dumps({
    "version": list(sys.version_info[:3]), "prefix": sys.prefix, "system": platform.system(),
    "machine": platform.machine(), "path": sys.path, "torch": spec.origin if spec else None,
    "user_base": site.getuserbase() if site.ENABLE_USER_SITE else None,
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """`python` is the executable as it was named (a link in a virtual environment must not be followed).

    `path` are the folders that it imports from, in order; `torch` is the folder of its torch package, None without
    one. `user_base` is where `pip install --user` puts things, None where this Python does not look there. `system` and
    `machine` are `platform`'s words, `version` is (major, minor, micro).
    """

    python: Path
    prefix: Path
    version: tuple[int, int, int]
    system: str
    machine: str
    path: tuple[Path, ...]
    torch: Path | None
    user_base: Path | None = None

    @property
    def conda(self) -> bool:
        return (self.prefix / "conda-meta").is_dir()

    @property
    def scripts(self) -> tuple[Path, ...]:
        """Folders of its console scripts, the environment's own first."""
        folders = [self.python.parent, self.prefix / "bin"]
        folders += [self.user_base / "bin"] if self.user_base else []
        return tuple(dict.fromkeys(folders))


def find_interpreter(text: str) -> Interpreter:
    """Start the Python at a path and ask where it imports from, without importing any of its packages.

    Raises RuntimeUnavailableError for a path that does not exist, is not a Python, or is too old for the probes.
    """
    python = _executable(text)
    environment = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    try:
        done = run([python, "-c", _ASK], timeout=_PATIENCE, env=environment, cwd=Path("/"), check=False)
    except (ToolError, OSError) as error:  # not executable for this machine: ENOEXEC
        raise RuntimeUnavailableError(f"{python} cannot be started: {error}", hint=_HINT) from error
    if done.timed_out:
        raise RuntimeUnavailableError(f"{python} did not answer within {_PATIENCE:g} s", hint=_HINT)
    answers = [line for line in done.stdout.splitlines() if line.startswith("BUILDCTL ")]
    if done.returncode or not answers:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise RuntimeUnavailableError(f"{python} is not a working Python: {said[:300]}", hint=_HINT)
    found = _parsed(python, parse_json(answers[-1].removeprefix("BUILDCTL ")))
    if found.version < OLDEST:
        version = ".".join(map(str, found.version))
        oldest = ".".join(map(str, OLDEST))
        raise RuntimeUnavailableError(
            f"{python} is Python {version}; the probes need {oldest}", hint="give an environment with a newer Python"
        )
    return found


def _executable(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.exists():
        raise RuntimeUnavailableError(f"env:{text}: {path} does not exist", hint=_HINT)
    if not path.is_dir():
        if not os.access(path, os.X_OK):
            raise RuntimeUnavailableError(f"env:{text}: {path} is not an executable file", hint=_HINT)
        return path
    tried = [path / folder / name for folder in ("bin", ".") for name in ("python", "python3")]
    for python in tried:
        if python.is_file() and os.access(python, os.X_OK):
            return python
    raise RuntimeUnavailableError(f"env:{text}: no Python in {path} (no bin/python)", hint=_HINT)


def _parsed(python: Path, said: Mapping[str, Any]) -> Interpreter:
    major, minor, micro = said["version"]
    return Interpreter(
        python=python,
        prefix=Path(said["prefix"]),
        version=(major, minor, micro),
        system=said["system"],
        machine=said["machine"],
        path=tuple(Path(p) for p in said["path"] if p and Path(p).is_dir()),
        torch=Path(said["torch"]).parent if said["torch"] else None,
        user_base=Path(said["user_base"]) if said["user_base"] else None,
    )
