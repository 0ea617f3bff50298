"""What people do with the images in Docker, by testcontainers: as they are, for other users, read-only, with additions.

cpu-2.6 on arm64, as either engine made it; under the engine's own emulation where the machine is another.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.conftest import buildctl
from tests.support.engine import Engine
from tests.support.wheels import wheel_contents, zipped

pytestmark = [pytest.mark.docker, pytest.mark.network]
ARM64 = "linux/arm64"
VERSION = "import torch; print(torch.__version__)"
INSTALLED = "from importlib.metadata import version; print(version('torch'))"  # in a moment, under emulation too


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    status: int
    stdout: str
    stderr: str


Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def environment(docker_engine: Engine) -> Iterator[Mapping[str, str]]:
    """What leads docker, buildctl and testcontainers to the engine; no reaper, whose image would have to be pulled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testcontainers_config, "ryuk_disabled", True)
        for key in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH"):
            if key in docker_engine.env:
                patch.setenv(key, docker_engine.env[key])
        yield docker_engine.env


@pytest.fixture(scope="module")
def assembled(
    environment: Mapping[str, str], built: Path, built_store: dict[str, str], docker_engine: Engine
) -> Iterator[str]:
    yield from loaded(docker_engine, built, built_store, "assemble")


@pytest.fixture(scope="module")
def by_buildkit(
    environment: Mapping[str, str], stores: Path, built_store: dict[str, str], docker_engine: Engine
) -> Iterator[str]:
    layout = stores / "by-buildkit"
    try:
        yield from loaded(docker_engine, layout, built_store, "docker")
    finally:
        shutil.rmtree(layout, ignore_errors=True)


def loaded(docker_engine: Engine, layout: Path, store: dict[str, str], how: str) -> Iterator[str]:
    """What `buildctl build --engine HOW` puts into Docker, under a name of its own."""
    done = buildctl("--layout", layout, "build", "cpu-2.6", "--engine", how, "--load", "--locked", env=store)
    assert done.returncode == 0, done.stderr
    client, name = docker_engine.client(), f"buildctl-test-containers:{how}"
    try:
        client.images.get("pytorch:cpu-2.6").tag(name)
        for tag in ("cpu-2.6", "cpu-2.6-arm64"):
            client.images.remove(f"pytorch:{tag}")
        yield name
    finally:
        client.images.remove(name, force=True)
        client.close()


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    """`docker run IMAGE COMMAND...` with arguments of docker-py, to its end; files go in before it starts."""

    def start(
        image: str, *command: str, files: Mapping[str, bytes] | None = None, tmpfs: Sequence[str] = (), **arguments: Any
    ) -> Ended:
        container = DockerContainer(image).with_kwargs(platform=ARM64, **arguments)
        request.addfinalizer(container.stop)
        if command:
            container.with_command(list(command))
        for path, data in (files or {}).items():
            container.with_copy_into_container(data, path)
        for path in tmpfs:
            container.with_tmpfs_mount(path)
        container.start()
        status = container.get_wrapped_container().wait(timeout=600)["StatusCode"]
        stdout, stderr = container.get_logs()
        return Ended(status=status, stdout=stdout.decode(), stderr=stderr.decode())

    return start


@pytest.mark.parametrize(
    ("image", "code", "says"),
    [("assembled", INSTALLED, "2.6.0"), pytest.param("by_buildkit", VERSION, "2.6.0+cpu", marks=pytest.mark.big)],
    ids=["assembled", "by_buildkit"],
)
def test_both_engines_images_say_their_version(
    run: Run, image: str, code: str, says: str, request: pytest.FixtureRequest
) -> None:
    """That torch is imported from the first: test_any_user_can_compute."""
    ended = run(request.getfixturevalue(image), "python", "-c", code)
    assert (ended.status, ended.stdout.strip()) == (0, says), ended.stderr


def test_the_user_has_no_rights_and_a_home(run: Run, assembled: str) -> None:
    ended = run(
        assembled, "bash", "-c", "id -u; id -un; echo $HOME; pwd; touch ~/a /workspace/b && echo ok; touch /usr/c"
    )
    assert ended.stdout.split() == ["1000", "torch", "/home/torch", "/workspace", "ok"]
    assert "/usr/c" in ended.stderr
    assert ended.status == 1


# importing torch takes a quarter of a minute under emulation
@pytest.mark.parametrize(
    "read_only", [pytest.param(False, id="writable", marks=pytest.mark.big), pytest.param(True, id="read-only")]
)
def test_any_user_can_compute(run: Run, assembled: str, read_only: bool) -> None:
    """As Kubernetes runs it: a number that nobody knows, and a root that cannot be written to."""
    script = "import getpass, os, tempfile, torch; tempfile.TemporaryFile(); print(os.getuid(), getpass.getuser())"
    script += "; print(torch.ones(3).sum())"
    tmpfs = ["/tmp"] if read_only else []
    ended = run(assembled, "python", "-c", script, user="4321:4321", read_only=read_only, tmpfs=tmpfs)
    assert (ended.status, ended.stdout.strip()) == (0, "4321 torch\ntensor(3.)"), ended.stderr


def test_a_wheel_of_ones_own_can_be_installed(run: Run, assembled: str) -> None:
    members = wheel_contents(
        {"demo.py": b"def main():\n    print('from the wheel')\n"}, entry_points="[console_scripts]\ndemo = demo:main\n"
    )
    wheel = "/workspace/demo-1.0-py3-none-any.whl"
    code = 'import demo; from importlib.util import find_spec; assert find_spec("torch"); print(demo.__file__)'
    command = f"pip install --no-index --quiet {wheel} && demo && python -c '{code}'"
    ended = run(assembled, "bash", "-c", command, files={wheel: zipped(members)}, network_mode="none")
    assert ended.status == 0, ended.stderr
    said, where = ended.stdout.splitlines()
    assert said == "from the wheel"
    assert where.startswith("/home/torch/.local/lib/python3.13/")


SCRIPT = b"import sys; print('script', sys.argv[1:])\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("train.py", "--epochs", "3"), "script ['--epochs', '3']"),
        (("python", "-c", "print('python')"), "python"),
        (("-c", "print('option')"), "option"),
        (("bash", "-c", "echo bash"), "bash"),
        (("pip", "--version"), "pip "),
    ],
    ids=["script", "python", "option", "bash", "program"],
)
def test_what_the_entrypoint_starts(run: Run, assembled: str, command: tuple[str, ...], said: str) -> None:
    ended = run(assembled, *command, files={"/workspace/train.py": SCRIPT})
    assert (ended.status, ended.stdout[: len(said)]) == (0, said), ended.stderr


def test_without_a_command_it_is_python(run: Run, assembled: str) -> None:
    ended = run(assembled)  # whose input is at its end
    assert (ended.status, ended.stdout) == (0, "")


def test_the_status_of_a_script_is_the_containers(run: Run, assembled: str) -> None:
    assert run(assembled, "train.py", files={"/workspace/train.py": b"raise SystemExit(7)\n"}).status == 7


@pytest.mark.big  # small: the probes `no cuda` and `backends`, testing/test_main_job.py
def test_no_gpu_is_visible_and_none_is_claimed(run: Run, assembled: str) -> None:
    script = """
import json, os, torch
names = [name for name in os.environ if name.startswith(("NVIDIA", "CUDA"))]
print(json.dumps([torch.cuda.is_available(), torch.cuda.device_count(), torch.version.cuda, names]))
print(json.dumps(torch.backends.mps.is_available()))
"""
    ended = run(assembled, "python", "-c", script)
    assert ended.stdout.splitlines() == ["[false, 0, null, []]", "false"], ended.stderr
