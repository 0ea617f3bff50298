"""Processes that make layers at the same time. They talk through pipes: a pool of the standard library would need named
semaphores, which a kill leaves in /dev/shm and which not every container has.
"""

from __future__ import annotations

import contextlib
import gc
import os
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

from buildctl.ground.cores import SHARED, Cores
from buildctl.ground.errors import BuildctlError, EngineError
from buildctl.ground.interrupts import later, without_interrupts
from buildctl.ground.parent import end_with_parent

_TICK = 0.1  # seconds between looks at what workers say, so that Ctrl-C is heard

Task = TypeVar("Task")
Result = TypeVar("Result")
Told = Callable[[int], None]  # bytes that were done


@dataclass(slots=True)
class _Worker(Generic[Task]):
    process: SpawnProcess
    pipe: connection.Connection
    task: Task | None = None
    has_core: bool = False


@dataclass(slots=True, kw_only=True)
class Workers(Generic[Task, Result]):
    """`count` processes that run `work(task, told)`, one task at a time: always the first of `tasks` that is ready.
    Processors that no task is for are left to the threads of the others (`cores.Threads`).
    """

    work: Callable[[Task, Told], Result]
    count: int
    _cores: Cores = field(default_factory=lambda: Cores(os.cpu_count() or 1))
    _workers: list[_Worker[Task]] = field(default_factory=list)

    def run(
        self,
        tasks: Sequence[Task],
        *,
        told: Callable[[Task, int], None],
        ready: Callable[[Task], bool] = lambda _: True,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Generator[tuple[Task, Result]]:
        """Yields results as they come. A task starts once `ready` returns true for it. `meanwhile` is called repeatedly
        while tasks wait or run. The first failure, also one in `ready` or `meanwhile`, kills all workers and is raised.
        Raises EngineError if a worker dies.
        """
        waiting = list(tasks)
        try:
            self._start(min(self.count, len(waiting)))
            while True:
                self._give_out(waiting, ready)
                busy = [worker for worker in self._workers if worker.task is not None]
                if not busy and not waiting:
                    return
                meanwhile()
                for worker in self._heard(busy):
                    yield from self._read(worker, told)
        finally:
            self._end()

    def _give_out(self, waiting: list[Task], ready: Callable[[Task], bool]) -> None:
        for worker in self._workers:
            if worker.task is None and (task := next(filter(ready, waiting), None)) is not None:
                waiting.remove(task)
                self._give(worker, task)

    def _start(self, count: int) -> None:
        context = get_context("spawn")  # a forked child would inherit the locks of our progress thread
        with later(), without_interrupts():
            resource_tracker.ensure_running()  # it takes the mask off at its end
        with later(), without_interrupts():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, self.work, self._cores), daemon=True)
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, ours))

    def _give(self, worker: _Worker[Task], task: Task) -> None:
        worker.task, worker.has_core = task, self._cores.take()
        try:
            worker.pipe.send(task)
        except OSError:  # it has died, or there was no memory to send: once killed, reading fails instead of waiting
            worker.process.kill()

    def _heard(self, busy: Sequence[_Worker[Task]]) -> list[_Worker[Task]]:
        ready = connection.wait([worker.pipe for worker in busy], timeout=_TICK)
        return [worker for worker in busy if worker.pipe in ready]

    def _read(self, worker: _Worker[Task], told: Callable[[Task, int], None]) -> Iterator[tuple[Task, Result]]:
        assert worker.task is not None  # noqa: S101 - only the busy are read from
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError) as error:
            raise EngineError(
                "a worker process died while making a layer (killed, or out of memory)",
                hint="run the command again: finished layers are kept; --jobs 1 needs the least memory",
            ) from error
        if kind == "told":
            told(worker.task, value)
        elif kind == "failed":
            raise value
        else:
            task, worker.task = worker.task, None
            if worker.has_core:
                self._cores.give()
            yield task, value

    def _end(self) -> None:
        """What a busy worker was writing is a temporary file that nobody reads."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._cores.close()


def _serve(pipe: connection.Connection, work: Callable[[Any, Told], Any], cores: Cores) -> None:
    """Ends quietly when the pipe does not work: the process at its other end says so."""
    end_with_parent()
    gc.set_threshold(100_000)  # as in `cli`
    SHARED.set(cores)

    def told(count: int) -> None:
        with contextlib.suppress(OSError):
            pipe.send(("told", count))

    with contextlib.suppress(OSError, EOFError):
        while True:
            task = pipe.recv()
            try:
                answer = ("made", work(task, told))
            except BaseException as error:  # noqa: BLE001 - it is raised in the process that asked
                answer = ("failed", _portable(error))
            pipe.send(answer)


def _portable(error: BaseException) -> BaseException:
    """It crosses processes: as it is if it is ours, else with the traceback in a note, else as text."""
    if not isinstance(error, BuildctlError):
        error.add_note("".join(traceback.format_exception(error)))
    return error
