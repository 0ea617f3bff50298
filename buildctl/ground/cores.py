"""Free processors, for processes that make layers together: bytes in a pipe, as in make's job server."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from multiprocessing import Pipe
from typing import ParamSpec, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Cores:
    """`count` processors, which may be sent to a process that is started."""

    def __init__(self, count: int) -> None:
        self._from, self._to = Pipe(duplex=False)
        os.set_blocking(self._from.fileno(), False)
        for _ in range(count):
            self.give()

    def take(self) -> bool:
        """Whether one was free. Does not wait."""
        try:
            return bool(os.read(self._from.fileno(), 1))
        except BlockingIOError:
            return False

    def give(self) -> None:
        """Give one back."""
        os.write(self._to.fileno(), b"\0")

    def close(self) -> None:
        self._from.close()
        self._to.close()


class Alone:
    """What a process has that shares with nobody: all of them."""

    def take(self) -> bool:
        return True

    def give(self) -> None:
        pass


SHARED: ContextVar[Cores | Alone] = ContextVar("SHARED", default=Alone())  # noqa: B039 - it holds nothing


class Threads:
    """At most `most` threads, each for as long as a processor is free.

    What finds none free is done at once, by who asks for it: data is still in that processor's cache then.
    """

    def __init__(self, most: int) -> None:
        self._pool, self._cores = ThreadPoolExecutor(most), SHARED.get()

    def submit(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As that of an Executor."""
        if not self._cores.take():
            at_once = Future[_T]()
            at_once.set_result(work(*args, **kwargs))
            return at_once
        future = self._pool.submit(work, *args, **kwargs)
        future.add_done_callback(lambda _: self._cores.give())
        return future

    def close(self) -> None:
        """Wait for all."""
        self._pool.shutdown()
