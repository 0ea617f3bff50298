"""Tasks that processes work on: results come, and nobody waits for an answer that cannot come."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from multiprocessing import connection

import pytest

from buildctl.ground.cores import SHARED, Cores
from buildctl.ground.errors import EngineError
from buildctl.ground.workers import Workers


def double(task: int, told: Callable[[int], None]) -> int:
    told(task)
    return 2 * task


def run(count: int, tasks: list[int]) -> tuple[dict[int, int], int]:
    heard = list[int]()
    workers = Workers[int, int](work=double, count=count)
    return dict(workers.run(tasks, told=lambda _, count: heard.append(count))), sum(heard)


def test_every_task_has_a_result() -> None:
    assert run(2, [1, 2, 3]) == ({1: 2, 2: 4, 3: 6}, 6)


def test_a_task_that_cannot_be_sent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    monkeypatch.setattr(connection.Connection, "send", no_memory)
    with pytest.raises(EngineError, match="a worker process died"):
        run(1, [1])


def cores_left(_: int, __: Callable[[int], None]) -> int:
    cores = SHARED.get()
    assert isinstance(cores, Cores)
    found = 0
    while cores.take():
        found += 1
    for _each in range(found):
        cores.give()
    return found


@pytest.mark.parametrize(("count", "cores", "free"), [(1, 1, 0), (1, 3, 2), (4, 2, 1)])
def test_a_task_may_use_the_cores_that_no_task_is_for(
    count: int, cores: int, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    workers = Workers[int, int](work=cores_left, count=count)
    one_after_the_other = set[int]()

    def ready(task: int) -> bool:
        return len(one_after_the_other) == task

    for task, found in workers.run([0, 1, 2], told=lambda *_: None, ready=ready):
        one_after_the_other.add(task)
        assert found == free
    assert one_after_the_other == {0, 1, 2}
