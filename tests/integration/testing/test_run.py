"""`buildctl run` on an image with this machine's own shell: streams, terminal, signals, exit codes, the folder."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.oci.image import ImageConfig
from buildctl.runtimes.api import ImageRef
from buildctl.runtimes.sandbox.emulation import native_arch
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from tests.conftest import Ran, buildctl
from tests.integration.testing.test_sandbox_runtime import ARM64_PROGRAM, processes
from tests.support.images import file, folder, tar
from tests.support.programs import programs
from tests.support.pythons import put_image, python_config


def config(arch: str | None = None) -> ImageConfig:
    return replace(python_config(arch), entrypoint=("sh",), cmd=("-c", "echo by default"))


@pytest.fixture(scope="module")
def base() -> bytes:
    return tar(*programs("sh", "cat", "id", "ls", "sleep", "stty", "tty"), folder("home/user", mode=0o1777))


@pytest.fixture(scope="module")
def image(base: bytes, tmp_path_factory: pytest.TempPathFactory) -> ImageRef:
    return put_image(tmp_path_factory.mktemp("image"), base, config=config())


@pytest.fixture(scope="module")
def env(image: ImageRef, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("store")
    try:
        with SandboxRuntime(Store(store)).start(image):
            return {"BUILDCTL_CACHE": str(store)}
    except RuntimeUnavailableError as reason:
        pytest.skip(f"NOT RUN: {reason.message}")


def argv(image: ImageRef, *command: str) -> list[str]:
    return ["run", f"{image.layout}:{image.name}", *command]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def ran(image: ImageRef, env: dict[str, str], here: Path, *command: str) -> Ran:
    return buildctl(*argv(image, *command), cwd=here, env=env, timeout=60)


def test_the_folder_is_at_workspace_and_its_owner_is_the_user_inside(
    image: ImageRef, env: dict[str, str], here: Path
) -> None:
    (here / "given").write_text("from outside")
    (here / "given").chmod(0o600)
    code = "pwd; id -u; cat given; echo inside > made; ls /home/user; echo x > /home/user/x"
    for _ in range(2):  # what is written elsewhere is thrown away
        done = ran(image, env, here, "-c", code)
        assert (done.returncode, done.stdout) == (0, "/workspace\n1000\nfrom outside"), done
        assert (here / "made").read_text() == "inside\n"
        assert (here / "made").stat().st_uid == here.stat().st_uid
        assert "only /workspace is kept" in done.stderr


def test_streams_are_passed_on_and_an_own_command_needs_none(image: ImageRef, env: dict[str, str], here: Path) -> None:
    code = "cat; echo said >&2"
    whole = [sys.executable, "-m", "buildctl", *argv(image, "-c", code)]
    done = subprocess.run(
        whole, input="typed", capture_output=True, text=True, cwd=here, env=os.environ | env, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "typed")
    assert done.stderr.endswith("said\n")
    assert ran(image, env, here).stdout == "by default\n"


@pytest.mark.parametrize(("code", "status"), [("exit 7", 7), ("kill -11 $$", 139)])
def test_the_exit_code_is_the_command_s(
    image: ImageRef, env: dict[str, str], here: Path, code: str, status: int
) -> None:
    assert ran(image, env, here, "-c", code).returncode == status


def test_options_are_the_command_s_after_the_image(image: ImageRef, env: dict[str, str], here: Path) -> None:
    given = ["-c", 'id -u; echo "$A $0 $1"', "--arch", "-v"]
    done = buildctl("run", "--user", "0", "-e", "A=b=c", *argv(image)[1:], *given, cwd=here, env=env)
    assert done.stdout == "0\nb=c --arch -v\n", done


@pytest.mark.parametrize(
    ("target", "options", "says"),
    [
        ("{layout}:nothing", (), "has no nothing"),
        ("{layout}:image", ("--arch", "riscv64"), "riscv64"),
        ("{layout}:image", ("-e", "A"), "'A' is not KEY=VALUE"),
        ("{layout}:image", ("--user", "nobody-here"), "user 'nobody-here' is not in"),
    ],
)
def test_what_cannot_run_is_one_error(
    image: ImageRef, env: dict[str, str], here: Path, target: str, options: tuple[str, ...], says: str
) -> None:
    done = buildctl("run", *options, target.format(layout=image.layout), "-c", "1", cwd=here, env=env)
    assert done.returncode not in (0, 1, 70)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def started(here: Path, env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    whole = [sys.executable, "-m", "buildctl", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(whole, stdin=pipe, stdout=pipe, text=True, cwd=here, env=os.environ | env)


# a shell that waits for a program which came after the signal would wait for ever
WAITS = (
    "trap 'echo heard SIGINT; exit 5' INT; trap 'echo heard SIGTERM; exit 5' TERM; echo ready; "
    "while :; do sleep 0.1; done"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_go_to_the_command_which_decides(
    image: ImageRef, env: dict[str, str], here: Path, number: signal.Signals
) -> None:
    running = started(here, env, *argv(image, "-c", WAITS))
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(number)
    assert running.stdout.read() == f"heard {number.name}\n"
    assert running.wait(20) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_it(image: ImageRef, env: dict[str, str], here: Path, number: signal.Signals) -> None:
    marker = f"marker-{time.monotonic_ns()}"
    running = started(here, env, *argv(image, "-c", "(sleep 60; true) & echo ready; exec sleep 60", marker))
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(number)
    assert running.wait(20) == {signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    until = time.monotonic() + 5
    while processes(marker) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes(marker) == []


class Typing:
    """A person at a terminal in which `buildctl run` was started."""

    def __init__(self, command: list[str], env: dict[str, str], here: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(here)
            os.execvpe(command[0], command, os.environ | env | {"TERM": "xterm"})
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", 33, 77, 0, 0))
        self.seen = ""

    def sees(self, pattern: str) -> None:
        until = time.monotonic() + 30
        while not re.search(pattern, self.seen):
            assert time.monotonic() < until, self.seen
            if select.select([self.fd], [], [], 1)[0]:
                self.seen += os.read(self.fd, 65536).decode()
        self.seen = ""

    def types(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def ends(self) -> int:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


def test_at_a_terminal_keys_ctrl_c_and_size_are_the_program_s(image: ImageRef, env: dict[str, str], here: Path) -> None:
    code = """
trap 'echo interrupted' INT
tty; echo $TERM
while ! read name; do :; done
trap - INT
echo "got $name"; stty size
exit 9
"""
    person = Typing([sys.executable, "-m", "buildctl", *argv(image, "-c", code)], env, here)
    person.sees(r"/dev/console\r\nxterm\r\n")
    person.types("\x03")
    person.sees("interrupted")
    person.types("x\n")
    person.sees(r"got x\r\n33 77")
    assert person.ends() == 9


def test_a_foreign_program_runs_too(base: bytes, env: dict[str, str], here: Path, tmp_path: Path) -> None:
    if native_arch() != "amd64":
        pytest.skip("NOT RUN: emulates arm64 on amd64")
    layer = tar(file("usr/bin/foreign", ARM64_PROGRAM, mode=0o755))
    done = ran(put_image(tmp_path, base, layer, config=config("arm64")), env, here, "-c", "exec foreign")
    assert (done.returncode, done.stdout) == (42, "emulated\n")
