"""What is said: on stderr, in lines that fit a terminal, without a library that takes long to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from buildctl.console import log


@pytest.fixture(autouse=True)
def _as_at_the_start() -> None:
    log.set_level(log.Level.NORMAL)


def test_what_is_said_is_on_stderr_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 40 + "[red]x[/red]"
    log.say(long)
    assert capsys.readouterr() == ("", f"{long}\n")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_level(log.Level.QUIET)
    try:
        log.say("a")
    finally:
        log.set_level(log.Level.NORMAL)
    assert capsys.readouterr() == ("", "")


def test_a_block_can_be_silent_and_the_level_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    with log.unsaid():
        log.say("a")
    log.say("b")
    assert capsys.readouterr() == ("", "b\n")


def test_a_line_costs_no_library() -> None:
    code = "import sys; from buildctl.console import log; log.say('a'); sys.exit('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "a\n")
