"""The scripts run where people are: macOS has bash 3.2 and BSD's tools."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.bsd import mac_like

# what a Mac runs; the others are for hosted runners and releases, which are Linux
SCRIPTS = [ROOT / "scripts" / name for name in ("pipeline", "propose", "setup")]

NEWER = {
    "bash 4: declare -A": r"\b(?:declare|local|typeset) -\w*[An]",
    "bash 4: mapfile": r"\b(?:mapfile|readarray|coproc)\b",
    "bash 4: ${x,,}": r"\$\{\w+(?:,,?|\^\^?)[^}]*\}",
    "bash 4: ${x@Q}": r"\$\{\w+@\w\}",
    "bash 4: |& and &>>": r"\|&|&>>",
    "bash 4: ;& and ;;&": r";;?&",
    "bash 4: [[ -v": r"\[\[ -v\b",
    "bash 4: globstar": r"\bshopt\b",
    "bash 4: printf %(": r"%\(",
    "bash 4: negative offsets": r"\$\{\w+: ?-\d",
    "an array, which bash 3.2 cannot expand where it is empty": r"\w=\((?!.*\))|\w\+=\(|\$\{\w+\[@\]\}",
    "GNU: sed -i": r"\bsed -i\b",
    "GNU: sed -r": r"\bsed -\w*r\b",
    "GNU: readlink -f": r"\breadlink -f\b|\brealpath\b",
    "GNU: grep -P": r"\bgrep -\w*P",
    "GNU: sort -V, xargs -r, date -d, stat -c": r"\bsort -\w*V|\bxargs -\w*r|\bdate -d|\bstat -c",
    "GNU: long options": r"\b(?:sed|grep|sort|cut|tr|cp|mv|rm|mkdir|ln|tail|head|xargs|mktemp) --[a-z]",
}


def code(path: Path) -> str:
    """Without comments, and without what another program reads."""
    text = re.sub(r"<<'?END'?.*?\nEND\n", "\n", path.read_text(), flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_nothing_is_newer_than_what_a_mac_has(path: Path) -> None:
    assert [what for what, pattern in NEWER.items() if re.search(pattern, code(path))] == []


@pytest.mark.parametrize(
    "line",
    ["local -n x=y", "mapfile -t x", 'echo "${name,,}"', "a=(1", 'f "${a[@]}"', "sed -i s/a/b/ x", "readlink -f x"],
)
def test_what_is_newer_would_be_seen(line: str) -> None:
    assert any(re.search(pattern, line) for pattern in NEWER.values())


@pytest.mark.parametrize("path", sorted(p for p in (ROOT / "scripts").iterdir() if p.is_file()), ids=lambda p: p.name)
def test_every_script_says_what_it_is_for(path: Path) -> None:
    """In its first lines, which it prints when it is called wrongly."""
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("#!")
    assert second.startswith(("# ", '"""'))
    assert path.stat().st_mode & 0o111


ON_A_MAC = [
    ("sed -nE p x", True), ("sed -i s/a/b/ x", False), ("sed -z p x", False), ("date -u +%s", True),
    ("date -d now", False),
    ("readlink x", True), ("readlink -f x", False), ("stat -c %s x", False), ("sort -u x", True), ("sort -V x", False),
    ("grep -Eqx a x", True), ("grep -P a x", False), ("mktemp -d", True), ("mktemp -p .", False), ("cp -t . x", False),
    ("find x -printf y", False), ("xargs -r true", False), ("head -n1 x", True), ("cut -d: -f1 x", True),
    ("realpath x", False), ("sha256sum x", False), ("sort --unique x", False),
]  # fmt: skip


@pytest.mark.parametrize(("line", "taken"), ON_A_MAC, ids=[line for line, _ in ON_A_MAC])
def test_programs_as_a_mac_has_them_take_nothing_that_is_gnus(line: str, taken: bool, tmp_path: Path) -> None:
    """Those that scripts/pipeline is walked with in tests/integration/publish/test_own_repository.py."""
    (tmp_path / "bin").mkdir()
    mac_like(tmp_path / "bin")
    (tmp_path / "x").write_text("x\n")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        line.split(), cwd=tmp_path, env={"PATH": path}, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (done.returncode in {0, 1}) is taken
