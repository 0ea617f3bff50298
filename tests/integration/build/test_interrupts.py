"""However a command is ended, nothing of it is left: no process, no temporary folder."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.processes import left, wait_for_pids

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

os.cpu_count = lambda: 4  # one for each worker and each compiler

if __name__ == "__main__":
    from buildctl.cli import program as cli

    @cli.cli.command("endless")
    def endless():
        recipes = [Recipe(key=n * 64, label=n, weight=1, source=Endless(folder, n), compression=ZSTD) for n in "ab"]
        with open_progress("made") as progress:
            store = Store(Path(folder) / "store")
            make_layers(recipes, store=store, layers=store, jobs=2, progress=progress)

    folder, sys.argv = sys.argv[1], ["buildctl", "endless"]
    cli.main()
"""


def started(tmp_path: Path, text: str, *, wrapper: Sequence[str] = ()) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(text)
    return subprocess.Popen(
        [*wrapper, sys.executable, script, tmp_path],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def temporary(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("buildctl-")]


@pytest.mark.parametrize(("number", "status"), [(INT, 130), (TERM, 143), (HUP, 129)])
def test_a_signal_ends_a_command_cleanly(tmp_path: Path, number: signal.Signals, status: int) -> None:
    process = started(tmp_path, COMMAND)
    pids = wait_for_pids(tmp_path, 2)
    assert len(temporary(tmp_path)) == 1
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr.strip()) == (status, SAID)
    assert left(pids) == []
    assert temporary(tmp_path) == []


@pytest.mark.parametrize("module", ["click", "buildctl.ground.interrupts", "buildctl.cli.program"])
def test_an_interrupt_while_modules_are_imported_is_no_traceback(tmp_path: Path, module: str) -> None:
    script = f"""
import os, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "{module}":
            os.kill(os.getpid(), {INT:d})
sys.meta_path.insert(0, Interrupting())
from buildctl.cli import main
main()
"""
    process = started(tmp_path, script)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "")


@pytest.mark.parametrize(("number", "status"), [(INT, 130), (TERM, 143), (HUP, 129)])
def test_a_signal_while_a_program_starts_leaves_no_program(tmp_path: Path, number: int, status: int) -> None:
    """Popen has started it and not returned yet."""
    slow = f"""
import os, subprocess, time
class Slow(subprocess.Popen):
    def __init__(self, *argv, **how):
        super().__init__(*argv, **how)
        while not (folder / "child.pid").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), {number:d})
        time.sleep(0.1)
subprocess.Popen = Slow
"""
    process = started(tmp_path, COMMAND.replace("\n@cli", f"{slow}\n@cli"))
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr.strip()) == (status, SAID)
    assert left(wait_for_pids(tmp_path, 2)) == []


def test_a_killed_command_leaves_no_program(tmp_path: Path) -> None:
    process = started(tmp_path, COMMAND)
    pids = wait_for_pids(tmp_path, 2)
    time.sleep(0.5)  # the program says who it is an instant before the reaper is told
    process.kill()
    process.communicate(timeout=30)  # which waits for whoever holds our stderr
    assert left(pids) == []


@pytest.mark.parametrize(("number", "status"), [(INT, 130), (TERM, 143), (HUP, 129), (KILL, -9)])
@pytest.mark.parametrize("whole_group", [True, False])
def test_workers_and_their_compilers_end_with_the_build(
    tmp_path: Path, number: signal.Signals, status: int, whole_group: bool
) -> None:
    process = started(tmp_path, BUILD)
    pids = wait_for_pids(tmp_path, 4)
    if whole_group and number != KILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == status
    assert number == KILL or stderr.strip() == SAID
    assert left(pids) == []


@pytest.mark.parametrize(("number", "status"), [(INT, 130), (TERM, 143), (HUP, 129)])
def test_a_signal_while_a_worker_starts_is_no_error_of_the_worker(tmp_path: Path, number: int, status: int) -> None:
    """It has not been told what to do yet, and the kernel gives the signal to a thread that does not block it."""
    early = f"""
    import threading
    from multiprocessing import util
    threading.Thread(target=time.sleep, args=(300,), daemon=True).start()

    def start(*argv, before=util.spawnv_passfds):
        pid = before(*argv)
        if any("spawn_main" in str(arg) for arg in argv[1]):
            os.kill(os.getpid(), {number:d})
            time.sleep(0.1)
        return pid

    util.spawnv_passfds = start
"""
    main = 'if __name__ == "__main__":\n'
    process = started(tmp_path, BUILD.replace(main, main + early))
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr.strip()) == (status, SAID)


def test_nohup_is_heard(tmp_path: Path) -> None:
    process = started(tmp_path, COMMAND, wrapper=["nohup"])
    wait_for_pids(tmp_path, 2)
    process.send_signal(HUP)
    process.send_signal(TERM)
    assert process.wait(30) == 143


def test_a_closed_terminal_is_no_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(COMMAND)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, str(tmp_path / "script.py"), str(tmp_path)])
    pids = wait_for_pids(tmp_path, 2)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    assert left(pids) == []
    assert temporary(tmp_path) == []


@pytest.mark.parametrize("options", ["ro,size=64k", None])
def test_a_build_needs_no_shared_memory(tmp_path: Path, options: str | None) -> None:
    """A read-only /dev/shm, or none at all; and nothing is left there that a kill would leave for good."""
    hide = f"mount -t tmpfs -o {options} none /dev/shm" if options else "mount -t tmpfs none /dev"
    if subprocess.run(["unshare", "-m", "sh", "-c", hide], capture_output=True, check=False).returncode:
        pytest.skip("NOT RUN: mounting in a namespace of our own needs root")
    process = started(tmp_path, BUILD, wrapper=["unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "sh"])
    pids = wait_for_pids(tmp_path, 4)
    process.send_signal(TERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert left(pids) == []
