"""The first minute of somebody with an empty folder and nothing but `uv`: install, init, build, test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import uv
from measured import ROOT, measured, output
from results import Goal, Part, Row

NAME = "cpu-2.10"
COMMANDS = (("buildctl", "init", "--cuda", "2.10", "--cpu"), ("buildctl", "build", NAME), ("buildctl", "test", NAME))


def minute(root: Path, _: int) -> Part:
    """Everything is downloaded: the home folder is new, and so are uv's cache and ours."""
    home, folder, programs = root / "home", root / "empty", root / "programs"
    for made in (home, folder, programs):
        made.mkdir()
    (programs / "uv").symlink_to(uv.find_uv_bin())
    output([programs / "uv", "build", "--wheel", "-q", "-o", root, ROOT])
    (wheel,) = root.glob("buildctl-*.whl")
    path = f"{home}/.local/bin:{programs}:/usr/bin:/bin"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("BUILDCTL", "XDG", "VIRTUAL_ENV"))}
    env |= {"HOME": str(home), "PATH": path, "COLUMNS": "80"}
    rows, shown = [], []
    for command in (("uv", "tool", "install", str(wheel)), *COMMANDS):
        took, said = measured(lambda c=command: _run(c, folder, env))
        line = " ".join(command).replace(f"{root}/", "")
        rows.append(Row(what=f"`{line}`", turns=(took,)))
        shown.append(f"$ {line:<50} # {took.wall:.0f} s\n{said}")
    total = sum((took.wall for row in rows for took in row.turns), 0.0)
    notes = f"As it appeared, {total:.0f} s together:\n\n```console\n{''.join(shown)}```"
    goal = Goal(what="from an empty folder to a tested image", want=120, got=total, unit="s")
    return Part(title="The first minute", rows=tuple(rows), notes=notes, goals=(goal,))


def _run(command: Sequence[str], folder: Path, env: dict[str, str]) -> str:
    """Its stdout. `init` ends with what comes next, which is what this does."""
    program = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if program.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{program.stdout}{program.stderr}")
    return re.sub(r"\nnext:\n.*", "", program.stdout, flags=re.DOTALL)
