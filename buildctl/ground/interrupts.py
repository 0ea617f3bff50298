"""SIGTERM (a cancelled job, `docker stop`, `timeout`) and SIGHUP (a closed terminal) end a command as Ctrl-C does."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
_received = signal.SIGINT


def listen() -> None:
    """Raise KeyboardInterrupt at these signals too, except at those that whoever started us ignores (nohup)."""
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def exit_code() -> int:
    """What a shell calls the death by the signal that interrupted this process."""
    return 128 + _received


def _interrupt(number: int, _: FrameType | None) -> None:
    global _received  # noqa: PLW0603 - click passes no exception on as it was
    _received = signal.Signals(number)
    for other in ENDING:  # the first is enough, and what it cleans up is not to be disturbed
        if signal.getsignal(other) is _interrupt:
            signal.signal(other, _once_more)
    if number == signal.SIGHUP:
        _leave_terminal()
    raise KeyboardInterrupt


def _once_more(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which programs that are started for cleaning up would inherit."""


def _leave_terminal() -> None:
    """What is said to a terminal that is gone would end in an error of its own."""
    for fd in (1, 2):
        try:
            os.write(fd, b"")
        except OSError:
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, fd)
                os.close(null)


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """For processes that are started in the block: a terminal sends its signals to the whole group, and they are not to
    answer them, not even while they start; who started them ends them. What comes for this process waits until the
    block is left; if it has other threads, the kernel gives it to one of those, and `later` is needed as well.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def later() -> Iterator[None]:
    """What interrupts this process waits until the block is left; a program started in it hears signals as usual.

    An interrupt inside of `Popen()` would lose the program that has just been started.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are handled in the main thread only
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda *event: came.append(event))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for event in came[:1]:
            handlers[signal.Signals(event[0])](*event)
