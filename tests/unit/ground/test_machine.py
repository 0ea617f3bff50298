from __future__ import annotations

import ast
import sys

import pytest

from buildctl.ground.errors import EngineError, RuntimeUnavailableError
from buildctl.ground.machine import require_linux, system
from tests.support.sources import PACKAGE, nodes


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


def test_no_other_module_asks_which_system_this_is() -> None:
    """Probes run inside images, on their own."""
    asked = {("sys", "platform"), ("platform", "system"), ("platform", "machine")}
    found = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if "inside" not in path.parts and "platform" in path.read_text()  # a third of them, to parse
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in asked
    ]
    assert set(found) == {"machine.py"}
