"""Processors that processes share: what finds none free is done at once."""

from __future__ import annotations

import threading

from buildctl.ground.cores import Threads
from tests.support.cores import free_cores


def test_each_is_taken_once() -> None:
    with free_cores(2) as cores:
        assert [cores.take() for _ in range(3)] == [True, True, False]
        cores.give()
        assert [cores.take() for _ in range(2)] == [True, False]


def test_without_a_free_one_work_is_done_at_once() -> None:
    with free_cores(0):
        future = Threads(4).submit(threading.get_ident)
    assert future.done()
    assert future.result() == threading.get_ident()


def test_a_thread_has_a_processor_until_it_is_done() -> None:
    let_go = threading.Event()
    with free_cores(1) as cores:
        threads = Threads(4)
        elsewhere = threads.submit(let_go.wait, 60)
        here = threads.submit(threading.get_ident)
        assert not elsewhere.done()
        assert here.result() == threading.get_ident()
        let_go.set()
        threads.close()
        assert elsewhere.result()
        assert [cores.take(), cores.take()] == [True, False]


def test_work_that_fails_gives_its_processor_back() -> None:
    with free_cores(1) as cores:
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
