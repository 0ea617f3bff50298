"""The native runtime: a clean surrounding, a deadline that kills everything, and nothing left behind."""

from __future__ import annotations

import json
import os
import sys
import time
import venv
from pathlib import Path

import pytest

from buildctl.ground.errors import RuntimeUnavailableError, ToolError
from buildctl.runtimes.api import Session
from buildctl.runtimes.native import SHELL, NativeRuntime

ENVIRONMENT = "import json, os, sys; print(json.dumps([dict(os.environ), os.getcwd(), sys.prefix]))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("native") / "environment"
    venv.create(target, with_pip=False)
    return target


@pytest.fixture
def session(folder: Path) -> Session:
    with NativeRuntime().start(folder) as session:
        return session


def test_commands_are_the_environments_and_see_nothing_of_our_shell(
    session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    monkeypatch.setenv("HOME", "/nowhere")
    outcome = session.run(["python", "-c", ENVIRONMENT], timeout=20, env={"ASKED": "yes"})
    env, cwd, prefix = json.loads(outcome.stdout)
    assert Path(prefix).resolve() == folder.resolve()
    assert json.loads(env[SHELL]) == {"PYTORCH_ENABLE_MPS_FALLBACK": "1"}
    assert not {"PYTHONPATH", "PYTORCH_ENABLE_MPS_FALLBACK"} & env.keys()
    assert env["PATH"].startswith(f"{folder}/bin:/usr/bin")
    assert (env["ASKED"], env["HOME"], env["TMPDIR"]) == ("yes", cwd, cwd)
    assert not Path(cwd).exists()


def test_a_deadline_kills_its_children_too(session: Session) -> None:
    outcome = session.run(["sh", "-c", "sleep 600 & echo $!; sleep 600"], timeout=1)
    assert (outcome.timed_out, outcome.returncode) == (True, None)
    assert gone(int(outcome.stdout))


def test_what_a_command_leaves_running_ends_with_it(session: Session) -> None:
    code = (
        "import subprocess, sys\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True)"
    )
    outcome = session.run(["python", "-c", code], timeout=60)
    assert (outcome.timed_out, outcome.returncode) == (False, 0)
    assert gone(int(outcome.stdout))


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":  # dead, and not collected yet
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("code", "returncode"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 11)", -11), ("pass", 0)]
)
def test_it_tells_how_a_command_ended(session: Session, code: str, returncode: int) -> None:
    assert session.run(["python", "-c", code], timeout=20).returncode == returncode


def test_stdin_comes_whole_and_of_output_the_end_is_kept(session: Session) -> None:
    text = "0123456789" * 300_000
    code = "import sys; text = sys.stdin.read(); print(len(text)); print(text)"
    outcome = session.run(["python", "-c", code], timeout=60, stdin=text)
    assert outcome.stdout.endswith("789\n")
    assert 900_000 < len(outcome.stdout) < 1_200_000


def test_a_program_that_is_not_there_is_127(session: Session) -> None:
    outcome = session.run(["no-such-program"], timeout=5)
    assert (outcome.returncode, outcome.stderr) == (127, "no-such-program: No such file or directory")


@pytest.mark.parametrize("what", [{"user": "12345:12345"}, {"through_entrypoint": True}])
def test_what_only_an_image_has_is_refused(session: Session, what: dict[str, str]) -> None:
    with pytest.raises(ToolError, match="no other user or ENTRYPOINT"):
        session.run(["python", "-c", "pass"], timeout=5, **what)  # type: ignore[arg-type]


def test_a_folder_without_python_is_no_environment(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="no environment in"), NativeRuntime().start(tmp_path):
        pass


def test_it_starts_where_there_is_one(folder: Path) -> None:
    with NativeRuntime().start(folder) as session:
        version = session.run(["python", "-c", "import sys; print(sys.version_info[:2])"], timeout=20).stdout
    assert version.strip() == str(sys.version_info[:2])
