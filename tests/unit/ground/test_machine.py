from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

from buildctl.ground import machine
from buildctl.ground.errors import EngineError, RuntimeUnavailableError
from buildctl.ground.machine import require_linux, system
from tests.support.sources import nodes, that_say


@pytest.mark.parametrize(("python", "name"), [("linux", "linux"), ("darwin", "macos"), ("win32", "windows")])
def test_systems(monkeypatch: pytest.MonkeyPatch, python: str, name: str) -> None:
    monkeypatch.setattr(sys, "platform", python)
    assert system() == name


def test_what_needs_linux_says_so_with_the_name_of_this_system(monkeypatch: pytest.MonkeyPatch) -> None:
    require_linux("`buildctl build`", "why")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(EngineError, match="`buildctl build` needs Linux, and this is macOS: why"):
        require_linux("`buildctl build`", "why")
    with pytest.raises(RuntimeUnavailableError):
        require_linux("a sandbox", "why", error=RuntimeUnavailableError)


@pytest.mark.parametrize(("limit", "least"), [("max\n", 1 << 40), ("1000000\n", 1_000_000), (None, 1 << 40)])
def test_memory_is_the_least_of_machine_and_container(
    limit: str | None, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(machine, "_LIMITS", (str(tmp_path / "memory.max"), "/nonexistent"))
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 1 << 28, "SC_PAGE_SIZE": 1 << 12}[name])
    assert machine.memory.__wrapped__() == least


def test_no_other_module_asks_which_system_this_is() -> None:
    """Probes run inside images, on their own."""
    asked = {("sys", "platform"), ("platform", "system"), ("platform", "machine")}
    found = [
        path.name
        for path in that_say("platform")
        if "inside" not in path.parts
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in asked
    ]
    assert set(found) == {"machine.py"}
