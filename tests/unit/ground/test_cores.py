"""Processors that processes share: what finds none free is done at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from buildctl.ground.cores import SHARED, Cores, Threads


@pytest.fixture
def cores(request: pytest.FixtureRequest) -> Iterator[Cores]:
    shared = Cores(request.param)
    token = SHARED.set(shared)
    yield shared
    SHARED.reset(token)
    shared.close()


@pytest.mark.parametrize("cores", [2], indirect=True)
def test_each_is_taken_once(cores: Cores) -> None:
    assert [cores.take() for _ in range(3)] == [True, True, False]
    cores.give()
    assert [cores.take() for _ in range(2)] == [True, False]


@pytest.mark.parametrize("cores", [0], indirect=True)
@pytest.mark.usefixtures("cores")
def test_without_a_free_one_work_is_done_at_once() -> None:
    future = Threads(4).submit(threading.get_ident)
    assert future.done()
    assert future.result() == threading.get_ident()


@pytest.mark.parametrize("cores", [1], indirect=True)
def test_a_thread_has_a_processor_until_it_is_done(cores: Cores) -> None:
    threads, let_go = Threads(4), threading.Event()
    elsewhere = threads.submit(let_go.wait, 60)
    here = threads.submit(threading.get_ident)
    assert not elsewhere.done()
    assert here.result() == threading.get_ident()
    let_go.set()
    threads.close()
    assert elsewhere.result()
    assert [cores.take(), cores.take()] == [True, False]


@pytest.mark.parametrize("cores", [1], indirect=True)
def test_work_that_fails_gives_its_processor_back(cores: Cores) -> None:
    threads = Threads(4)
    future = threads.submit(int, "x")
    threads.close()
    assert isinstance(future.exception(), ValueError)
    assert cores.take()


def test_a_process_that_shares_with_nobody_has_all() -> None:
    threads = Threads(1)
    future = threads.submit(threading.get_ident)
    threads.close()
    assert future.result() != threading.get_ident()
