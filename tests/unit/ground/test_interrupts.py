"""What a signal is to this process. Whole commands that are ended: tests/integration/build/test_interrupts.py."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from buildctl.ground import interrupts
from buildctl.ground.interrupts import ENDING, exit_code, listen, without_interrupts

TERM, HUP, INT, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL
SAID = "interrupted; what was whole is kept, run the command again to continue"

# a command that runs a program, which has a child
COMMAND = """
import sys, tempfile
from pathlib import Path
from buildctl.cli.program import cli, main
from buildctl.ground.run import run

PROGRAM = "sleep 300 & echo $! >child.pid; echo $$ >program.pid; wait"
folder, sys.argv = Path(sys.argv[1]), ["buildctl", "wait"]

@cli.command("wait")
def wait():
    with tempfile.TemporaryDirectory(prefix="buildctl-wait-", dir=folder):
        run(["sh", "-c", PROGRAM], timeout=300, cwd=folder)

main()
"""

# a build of two layers, with a compiler in each worker
BUILD = """
import os, sys
from dataclasses import dataclass
from pathlib import Path
from buildctl.artifacts.bytecode import BuildPython
from buildctl.build.assemble import Recipe, make_layers
from buildctl.oci.compression import ZSTD
from buildctl.console.progress import open_progress
from buildctl.artifacts.store import Store
import time

@dataclass(frozen=True)
class Endless:
    folder: str
    name: str

    def entries(self, store):
        python = BuildPython(argv=(sys.executable,), tag="x")
        with python.open() as compilation:
            compilation.add("/a.py", b"x = 1")
            (Path(self.folder) / f"worker-{self.name}.pid").write_text(f"{os.getpid()}\\n")
            for process in compilation._processes:
                (Path(self.folder) / f"compiler-{self.name}.pid").write_text(f"{process._process.pid}\\n")
            time.sleep(300)
            yield None

if __name__ == "__main__":
    from buildctl.cli import program as cli

    @cli.cli.command("endless")
    def endless():
        recipes = [Recipe(key=n * 64, label=n, weight=1, source=Endless(folder, n)) for n in "ab"]
        with open_progress("made") as progress:
            store = Store(Path(folder) / "store")
            make_layers(recipes, store=store, layers=store, compression=ZSTD, jobs=2, progress=progress)

    folder, sys.argv = sys.argv[1], ["buildctl", "endless"]
    cli.main()
"""


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
