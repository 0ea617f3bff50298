"""Build hook: the commit of the checkout goes into the wheel, where `buildctl --version` reads it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "commit.txt"


class CommitHook(BuildHookInterface):  # type: ignore[misc] # hatchling is only there while it builds
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """An sdist carries the file at its root, since a wheel is built from it without the repository."""
        if version == "editable":
            return
        own = Path(self.root) / NAME
        text = own.read_text("utf-8") if own.is_file() else _head(Path(self.root))
        if text is None:
            return
        folder = Path(tempfile.mkdtemp())
        (folder / NAME).write_text(text, "utf-8")
        build_data["force_include"][str(folder / NAME)] = NAME if self.target_name == "sdist" else f"buildctl/{NAME}"


def _head(root: Path) -> str | None:
    if not (root / ".git").exists():
        return None
    argv = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
