"""Which skips are failures: those without a reason, and on a machine with a list those that are not on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, refused_skip

LISTS = sorted((ROOT / ".github" / "skips").iterdir())


def globs(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def skipped(reason: str) -> str:
    """As pytest puts it."""
    return f"('tests/unit/x.py', 12, 'Skipped: {reason}')"


def test_a_skip_needs_a_reason() -> None:
    assert refused_skip(skipped("slow"), None) == "skipped without `NOT RUN: reason`"
    assert refused_skip(skipped("NOT RUN: no network"), None) == ""


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.name)
def test_what_is_not_on_the_list_fails(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    assert refused_skip(skipped("NOT RUN: 15 minutes under emulation"), name) == ""
    assert refused_skip(skipped("NOT RUN: no user namespaces here"), name) == f"not one of the skips in {name}"
    assert refused_skip(skipped("slow"), name) == "skipped without `NOT RUN: reason`"


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.name)
def test_every_line_is_a_reason_that_a_test_gives(path: Path) -> None:
    source = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("*.py"))
    reasons = re.findall(r"NOT RUN: ([^\"\n]+)", source)
    for glob in globs(path):
        known = re.sub(r"^(\w+) is not installed \(apt-get install \1\)$", "{name} is not installed", glob)
        wanted = known.removeprefix("* ")
        assert any(wanted in reason for reason in reasons), glob


def test_the_two_lists_leave_no_test_out() -> None:
    """What an ordinary user cannot do, root does, and the other way round; the rest nobody does on such a machine."""
    user, root = (set(globs(ROOT / ".github" / "skips" / name)) for name in ("user", "root"))
    assert {glob for glob in user & root if "root" in glob or "user" in glob} == set()
