from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from buildctl.artifacts.store import Store
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.oci.image import History, ImageConfig, Platform
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import ImageRef, Session
from buildctl.runtimes.docker import LABEL, DockerRuntime
from buildctl.runtimes.sandbox.emulation import native_arch
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from buildctl.testing import probes
from buildctl.testing.probes.expected import Expected
from buildctl.testing.report import Status
from tests.support.images import ARM64_ELF, Blobs, file, image, tar
from tests.support.programs import programs
from tests.support.pythons import base_python, put_image, python_members, torch_layer

pytestmark = pytest.mark.docker
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
PROGRAMS = ("sh", "cat", "sleep", "id", "touch", "ls", "true", "env")
ENTRYPOINT = file("entry", b'#!/bin/sh\nset -- "entry:" "$@"\necho "$@"\n', mode=0o755)


def reference(layout: Layout) -> ImageRef:
    descriptor = layout.resolve("a-amd64")
    return ImageRef(
        layout=layout.root, descriptor=descriptor, name="a-amd64", arch="amd64", config=layout.config(descriptor)
    )


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    root = tmp_path_factory.mktemp("image")
    layout, blobs = Layout(root / "dist"), Blobs(root / "blobs")
    config = ImageConfig(
        platform=Platform(architecture="amd64"),
        history=(History(created_by="programs"),),
        user="1000:1000",
        env=(("PATH", "/usr/bin:/bin"), ("FROM_IMAGE", "yes")),
        entrypoint=("/entry",),
        cmd=("by", "default"),
        working_dir="/workspace",
    )
    layout.put_image(
        name="a-amd64", config=config, layers=[blobs.add(tar(*programs(*PROGRAMS), ENTRYPOINT))], blob=blobs.path
    )
    return layout


@pytest.fixture
def session(docker_client: docker.DockerClient, layout: Layout) -> Iterator[Session]:
    if docker_client.info()["Architecture"] != "x86_64":
        pytest.skip("NOT RUN: the programs of this machine are for amd64")
    with DockerRuntime().start(reference(layout)) as session:
        yield session


def test_a_command_runs_as_the_image_says(session: Session) -> None:
    outcome = session.run(
        ["sh", "-c", "id -u; pwd; echo $FROM_IMAGE $EXTRA; echo oops >&2; exit 3"], timeout=30, env={"EXTRA": "e"}
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (3, "1000\n/workspace\nyes e\n", "oops\n")
    assert not outcome.timed_out
    assert (session.emulated, session.gpus, session.ownership) == (None, False, True)


def test_standard_input_arrives_and_ends(session: Session) -> None:
    text = "ä line\n" * 20_000
    assert session.run(["cat"], timeout=30, stdin=text).stdout == text


def test_no_input_is_the_end_of_input(session: Session) -> None:
    assert session.run(["cat"], timeout=30).returncode == 0


@pytest.mark.parametrize("user", ["0:0", "4321", "user"])
def test_the_user_can_be_another(session: Session, user: str) -> None:
    uid = {"user": "1000"}.get(user, user.partition(":")[0])
    assert session.run(["id", "-u"], timeout=30, user=user).stdout.strip() == uid


def test_the_entrypoint_is_used_only_when_asked_for(session: Session) -> None:
    assert session.run([], timeout=30, through_entrypoint=True).stdout == "entry: by default\n"
    assert session.run(["x"], timeout=30, through_entrypoint=True).stdout == "entry: x\n"


def test_a_deadline_kills_the_container(session: Session, docker_client: docker.DockerClient) -> None:
    started = time.monotonic()
    outcome = session.run(["sh", "-c", "trap '' TERM; echo begun; sleep 600 & sleep 600"], timeout=2)
    assert time.monotonic() - started < 20
    assert (outcome.timed_out, outcome.returncode, outcome.stdout) == (True, None, "begun\n")
    assert docker_client.containers.list(all=True, filters={"label": LABEL}) == []


def test_a_death_by_signal_is_told_apart(session: Session) -> None:
    assert session.run(["sh", "-c", "kill -SEGV $$"], timeout=30).returncode == -11


def test_a_missing_program_is_the_commands_failure(session: Session) -> None:
    outcome = session.run(["no-such-program"], timeout=30)
    assert outcome.returncode == 127
    assert "no-such-program" in outcome.stderr


def test_the_root_is_read_only_but_tmp_is_not(session: Session) -> None:
    outcome = session.run(["sh", "-c", "touch /workspace/x; touch /tmp/x && ls /tmp"], timeout=30, user="0:0")
    assert outcome.stdout == "x\n"
    assert "Read-only" in outcome.stderr


def test_what_one_command_writes_the_next_does_not_see(session: Session) -> None:
    for _ in range(2):
        outcome = session.run(
            ["sh", "-c", "ls /workspace; touch /workspace/x"], timeout=30, user="0:0", read_only=False
        )
        assert (outcome.returncode, outcome.stdout) == (0, "")


def test_there_is_no_network_unless_asked_for(session: Session) -> None:
    def interfaces(*, network: bool) -> str:
        return session.run(["cat", "/proc/net/dev"], timeout=30, network=network).stdout

    assert "eth0" not in interfaces(network=False)
    assert "eth0" in interfaces(network=True)


def test_output_without_end_is_cut(session: Session) -> None:
    outcome = session.run(["sh", "-c", "while :; do echo 0123456789012345678901234567890123456789; done"], timeout=3)
    assert outcome.timed_out
    assert 0 < len(outcome.stdout) <= 4 << 20


def test_nothing_is_left_in_the_daemon(docker_client: docker.DockerClient, layout: Layout) -> None:
    with DockerRuntime().start(reference(layout)) as session:
        session.run(["true"], timeout=30)
        inside = {tag for found in docker_client.images.list() for tag in found.tags}
    left = {tag for found in docker_client.images.list() for tag in found.tags}
    assert any(tag.startswith("buildctl-test/a-amd64:") for tag in inside)
    assert not any(tag.startswith("buildctl-test/") for tag in left)
    assert docker_client.containers.list(all=True, filters={"label": LABEL}) == []


def test_containers_of_a_killed_buildctl_are_removed(docker_client: docker.DockerClient, layout: Layout) -> None:
    with DockerRuntime().start(reference(layout)):
        tag = next(t for f in docker_client.images.list() for t in f.tags if t.startswith("buildctl-test/a-amd64:"))
        old = docker_client.containers.create(tag, labels={LABEL: "1"})
        current = docker_client.containers.create(tag, labels={LABEL: str(int(time.time() + 600))})
        with DockerRuntime().start(reference(layout)):
            left = {c.id for c in docker_client.containers.list(all=True, filters={"label": LABEL})}
        current.remove()
    assert left == {current.id}
    assert old.id not in left


def test_an_image_that_docker_cannot_run_is_unavailable_with_the_reason(
    docker_client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program for arm64 that no emulator can start stands for a daemon without one."""
    layout, descriptor = image(tmp_path, tar(file("bin/true", ARM64_ELF, mode=0o755)), arch="arm64")
    config = layout.config(descriptor)
    ref = ImageRef(layout=layout.root, descriptor=descriptor, name="a-arm64", arch="arm64", config=config)
    if docker_client.info()["Architecture"] == "aarch64":
        pytest.skip("NOT RUN: arm64 is this machine's own architecture")
    with pytest.raises(RuntimeUnavailableError, match="linux/arm64") as caught, DockerRuntime().start(ref):
        pytest.fail("started")
    assert "qemu-user-static" in str(caught.value.hint)


def test_the_probes_find_out_in_docker_what_they_do_in_the_sandbox(
    docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    """An image of this machine's Python with a torch that only answers: what FAILED there, FAILED here."""
    if docker_client.info()["Architecture"] != MACHINES[native_arch()]:
        pytest.skip("NOT RUN: this Docker Engine is on another kind of machine")
    host = base_python()
    found = put_image(tmp_path, tar(*python_members(host)), torch_layer(host))
    expected = Expected(
        torch="2.6.0",
        python=host.version,
        arch=native_arch(),
        accelerator="cpu",
        never=("cuda", "mps"),
        distributions={"torch": "2.6.0"},
    )
    here, there = (
        probes.test_image(found, expected, runtime) for runtime in (SandboxRuntime(Store(tmp_path)), DockerRuntime())
    )
    if here.verdict is Status.NOT_RUN:
        pytest.skip(f"NOT RUN: {here.findings[0].detail}")
    assert there.runtime.startswith("docker")
    assert {f.name: f.status for f in there.findings} == {f.name: f.status for f in here.findings}
    assert {f.status for f in there.findings} == {Status.PASSED, Status.FAILED, Status.NOT_RUN}
