from __future__ import annotations

import ast
import contextlib
from pathlib import Path

from buildctl.ground.scratch import scratch
from buildctl.lock.apt import apt
from tests.support.sources import PACKAGE, nodes, that_say


def test_it_is_gone_at_the_end_also_after_an_error(tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), scratch("lock", under=tmp_path) as folder:
        (folder / "a/b").mkdir(parents=True)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_dead_processes_left_is_swept_and_what_living_ones_hold_is_not(tmp_path: Path) -> None:
    (tmp_path / "buildctl-lock.dead" / "deep").mkdir(parents=True)
    (tmp_path / "buildctl-somebody").mkdir()
    with scratch("lock", under=tmp_path) as mine, scratch("apt", under=tmp_path) as other:
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, other.name, "buildctl-somebody"}


# what they leave is in the folder of a `scratch`, or swept by themselves; paths in a native environment must be short
OWN = {"ground/scratch.py", "oci/trees/unpack.py", "runtimes/native.py", "runtimes/recorder/record.py"}


def test_no_other_module_makes_temporary_folders() -> None:
    """A killed command leaves them, and only those that this module makes are swept."""
    makers = [
        str(path.relative_to(PACKAGE))
        for path in that_say("mkdtemp", "TemporaryDirectory")
        if "probes" not in path.parts  # those run inside images
        if any(
            isinstance(node, ast.Attribute) and node.attr in ("mkdtemp", "TemporaryDirectory") for node in nodes(path)
        )
    ]
    assert set(makers) == OWN


def test_apt_leaves_nothing_elsewhere(tmp_path: Path) -> None:
    """What it is killed over would stay in /tmp."""
    assert apt(["sh", "-c", 'echo "$TMPDIR"'], tmp_path).strip() == str(tmp_path)
