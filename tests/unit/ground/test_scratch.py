from __future__ import annotations

import contextlib
from pathlib import Path

from buildctl.ground.scratch import scratch


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
