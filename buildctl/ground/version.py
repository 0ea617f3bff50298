"""What this program is: its release, and the commit where that is known."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from buildctl import __version__
from buildctl.ground.errors import ToolError
from buildctl.ground.net import redact
from buildctl.ground.run import run

PACKAGE = Path(__file__).parents[1]
COMMIT = "commit.txt"  # written into the wheel when it is built


def described() -> str:
    """`buildctl 0.1.0 for PyTorch images (commit 0123456789ab)`; BuildKit's client of the same name says otherwise."""
    found = commit()
    return f"buildctl {__version__} for PyTorch images" + (f" (commit {found})" if found else "")


def source() -> str:
    """What installs this program again, as pip understands it: its repository at its commit, else its release."""
    noted = _noted()
    revision = str(noted.get("vcs_info", {}).get("commit_id", ""))
    if revision and "url" in noted:
        return f"{noted['vcs_info'].get('vcs', 'git')}+{redact(str(noted['url']))}@{revision}"
    return f"buildctl=={__version__}"


def commit(package: Path = PACKAGE) -> str | None:
    """From the wheel, from what the installer noted of a repository, or from the checkout that runs."""
    return _built_in(package) or _installed_from() or _checked_out(package)


def _built_in(package: Path) -> str | None:
    path = package / COMMIT
    return path.read_text("utf-8").strip()[:80] or None if path.is_file() else None


def _installed_from() -> str | None:
    noted = _noted().get("vcs_info", {}).get("commit_id")
    return str(noted)[:12] if noted else None


def _noted() -> dict[str, Any]:
    """PEP 610: what `pip install git+https://...` writes down."""
    try:
        value: dict[str, Any] = json.loads(metadata.distribution("buildctl").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    return value


def _checked_out(package: Path) -> str | None:
    root = package.parent
    if not (root / ".git").exists():
        return None
    try:
        head = run(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"], timeout=10).stdout.strip()
        changed = run(["git", "-C", str(root), "status", "--porcelain", "--", package.name], timeout=10).stdout
    except ToolError:
        return None
    return f"{head}, modified" if changed.strip() else head
