"""What a signal is to this process. Whole commands that are ended: tests/integration/build/test_interrupts.py."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from buildctl.ground import interrupts
from buildctl.ground.interrupts import ENDING, exit_code, listen, without_interrupts

TERM, HUP, INT, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL
SAID = "interrupted; what was whole is kept, run the command again to continue"


@pytest.fixture(autouse=True)
def _undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interrupts, "_leave_terminal", lambda: None)  # the terminal is that of the tests
    monkeypatch.setattr(interrupts, "_received", INT)
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_without_a_signal_it_is_ctrl_c() -> None:
    assert exit_code() == 130


@pytest.mark.parametrize(("number", "status"), [(TERM, 143), (HUP, 129)])
def test_it_interrupts_once_and_is_remembered(number: signal.Signals, status: int) -> None:
    listen()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert exit_code() == status
    for again in ENDING:  # what cleans up is not disturbed
        signal.raise_signal(again)
    assert exit_code() == status


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(HUP, signal.SIG_IGN)
    listen()
    signal.raise_signal(HUP)
    assert signal.getsignal(HUP) is signal.SIG_IGN
    assert signal.getsignal(TERM) is not signal.SIG_DFL


def test_a_signal_waits_until_the_block_is_left() -> None:
    listen()
    reached = False
    with pytest.raises(KeyboardInterrupt), without_interrupts():  # noqa: PT012 - where in the block it comes counts
        signal.raise_signal(TERM)
        reached = True
    assert reached
    assert not {INT, *ENDING} & signal.pthread_sigmask(signal.SIG_BLOCK, [])
