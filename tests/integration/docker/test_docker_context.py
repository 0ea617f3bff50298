"""A Docker elsewhere: an engine of our own with a network of its own, over tcp and over ssh on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from buildctl.build.buildkit.buildkit import DockerOptions, build_with_docker
from buildctl.docker.daemon import Client, connected
from buildctl.docker.load import load
from buildctl.dockerfile.bake import BakeTarget
from buildctl.oci.check import check_image
from buildctl.oci.digest import Digest
from buildctl.oci.entry import EPOCH
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import ImageRef
from buildctl.runtimes.docker import LABEL, NO_GPU, DockerRuntime
from tests.conftest import buildctl
from tests.support.engine import Engine, Unavailable, daemon, remote
from tests.support.images import Blobs, config_of, file, image, put, tar
from tests.support.programs import programs

pytestmark = pytest.mark.docker
NAME = f"s{os.getpid()}"
CONTEXT = "elsewhere"


@pytest.fixture(scope="module")
def second() -> Iterator[Engine]:
    """Another engine on this machine, whose loopback is not ours."""
    try:
        with daemon.leased(NAME, network=False, grace=1) as engine:
            yield engine
    except Unavailable as reason:
        pytest.skip(f"NOT RUN: {reason}")
    finally:
        daemon.stop(NAME)
        shutil.rmtree(daemon.state_folder(NAME), ignore_errors=True)


@pytest.fixture
def home(second: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker command with buildx and without contexts, and no DOCKER_HOST."""
    config = tmp_path / "docker"
    shutil.copytree(Path(second.env["DOCKER_CONFIG"]) / "cli-plugins", config / "cli-plugins", symlinks=True)
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    monkeypatch.setenv("PATH", second.env["PATH"])
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return config


@pytest.fixture(params=["tcp", "ssh"])
def context(
    request: pytest.FixtureRequest, second: Engine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The name of a docker context for that engine."""
    assert second.own
    with remote.tcp(NAME) if request.param == "tcp" else over_ssh(monkeypatch) as host:
        create_context(CONTEXT, host)
        yield CONTEXT


@contextmanager
def over_ssh(monkeypatch: pytest.MonkeyPatch, name: str = NAME, **how: str | bool) -> Iterator[str]:
    with remote.ssh(name, **how) as box:  # type: ignore[arg-type]
        monkeypatch.setenv("PATH", remote.with_ssh(box))
        yield "ssh://gpu-box"


def create_context(name: str, host: str) -> None:
    subprocess.run(["docker", "context", "create", name, "--docker", f"host={host}"], check=True, capture_output=True)


def transport(client: Client) -> str:
    return "ssh" if client.tunnel else "tcp"


def salted(tmp_path: Path, size: int = 1000) -> bytes:
    """Content that no earlier test has put into the engine."""
    return (str(tmp_path).encode() * size)[:size]


def test_an_image_arrives_and_only_what_is_missing_moves(context: str, tmp_path: Path) -> None:
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    shared = blobs.add(tar(*programs("cat"), file("shared", os.urandom(3_000_000))))
    own = [blobs.add(tar(file("own", salted(tmp_path) + name))) for name in (b"1", b"2")]
    first = put(layout, blobs, [shared, own[0]], name="one")
    other = put(layout, blobs, [shared, own[1]], name="two")
    with connected(context) as client:
        expected = {"ssh": "pull", "tcp": "load"}[transport(client)]
        loaded = load(layout, first, "buildctl-test-context:1", client=client)
        assert (loaded.how, loaded.moved is not None and loaded.moved > 3_000_000) == (expected, True)
        loaded = load(layout, other, "buildctl-test-context:2", client=client)
        assert loaded.how == expected
        assert loaded.moved is not None
        assert loaded.moved < 10_000
        assert load(layout, other, "buildctl-test-context:2", client=client).how == "present"
        for tag in ("1", "2"):
            said = client.containers.run(f"buildctl-test-context:{tag}", ["cat", "/own"], remove=True)
            assert said == salted(tmp_path) + tag.encode()
            client.images.remove(f"buildctl-test-context:{tag}", force=True)


def test_layers_that_only_seemed_to_be_there_are_sent_after_all(
    second: Engine, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, descriptor = image(tmp_path, tar(*programs("cat")), tar(file("hello", salted(tmp_path))))
    layers = frozenset(layer.digest for layer in layout.manifest(descriptor).layers)

    def all_of_them(*_: object) -> frozenset[Digest]:
        return layers

    monkeypatch.setattr("buildctl.docker.load._held", all_of_them)
    with remote.tcp(NAME) as host, connected(host) as client:
        loaded = load(layout, descriptor, "buildctl-test-context:x", client=client)
        assert (loaded.how, loaded.moved) == ("load", sum(d.size for d in layout.manifest(descriptor).layers))
        assert client.containers.run(loaded.tag, ["cat", "/hello"], remove=True) == salted(tmp_path)
        client.images.remove(loaded.tag, force=True)


def test_an_ssh_server_that_forwards_no_port_gets_a_stream(
    second: Engine, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, descriptor = image(tmp_path, tar(file("a", salted(tmp_path))))
    with over_ssh(monkeypatch, forwarding=False) as host, connected(host) as client:
        loaded = load(layout, descriptor, "buildctl-test-context:x", client=client)
        assert loaded.how == "load"
        client.images.remove(loaded.tag, force=True)


def test_commands_run_there_as_they_do_here(context: str, tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(*programs("sh", "cat", "sleep", "true"), file("salt", salted(tmp_path))))
    ref = ImageRef(
        layout=layout.root, descriptor=descriptor, name="a-amd64", arch="amd64", config=layout.config(descriptor)
    )
    runtime = DockerRuntime(context)
    with connected(context) as client:
        name = client.info()["Name"]
        if client.info()["Architecture"] != "x86_64":
            pytest.skip("NOT RUN: the programs of this machine are for amd64")
        with runtime.start(ref) as session:
            text = "line\n" * 20_000
            assert session.run(["cat"], timeout=30, stdin=text).stdout == text
            outcome = session.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=30)
            assert (outcome.returncode, outcome.stdout, outcome.stderr) == (3, "out\n", "err\n")
            started = time.monotonic()
            outcome = session.run(["sh", "-c", "echo begun; sleep 600"], timeout=2)
            assert time.monotonic() - started < 20
            assert (outcome.timed_out, outcome.stdout) == (True, "begun\n")
        assert runtime.name == f"docker on {name}, context {CONTEXT}"
        assert client.containers.list(all=True, filters={"label": LABEL}) == []
        assert [t for i in client.images.list() for t in i.tags if t.startswith("buildctl-test/")] == []


CDI = """\
cdiVersion: 0.6.0
kind: nvidia.com/gpu
devices:
  - name: all
    containerEdits:
      env: [GPU=passed]
      deviceNodes: [{path: /dev/nvidia0, hostPath: /dev/null}]
"""


def test_gpus_that_the_daemon_has_reach_the_container(second: Engine, home: Path, tmp_path: Path) -> None:
    """A null device in place of a GPU, described to Docker as NVIDIA's toolkit describes a real one."""
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    layers = [blobs.add(tar(*programs("sh", "true", "ls"), file("salt", salted(tmp_path))))]
    refs = {}
    for name, env in {"cuda-amd64": (("NVIDIA_VISIBLE_DEVICES", "all"),), "cpu-amd64": ()}.items():
        config = replace(config_of(layers), env=(("PATH", "/usr/bin"), *env))
        descriptor = layout.put_image(name=name, config=config, layers=layers, blob=blobs.path)
        refs[name] = ImageRef(layout=layout.root, descriptor=descriptor, name=name, arch="amd64", config=config)
    command = ["sh", "-c", "echo $GPU; ls /dev/nvidia0"]
    runtime = DockerRuntime(second.host)
    with runtime.start(refs["cuda-amd64"]) as session:
        assert (session.gpus, session.gpus_reason) == (False, NO_GPU)
    remote.put_file(NAME, "/run/cdi/nvidia.yaml", CDI)
    with runtime.start(refs["cuda-amd64"]) as session:
        assert (session.gpus, session.gpus_reason) == (True, "")
        assert session.run(command, timeout=30).stdout == "passed\n/dev/nvidia0\n"
    with runtime.start(refs["cpu-amd64"]) as session:
        assert not session.gpus
        assert session.run(command, timeout=30).stdout == "\n"
    remote.put_file(NAME, "/run/cdi/nvidia.yaml", CDI.replace("/dev/null", "/dev/gone"))
    with runtime.start(refs["cuda-amd64"]) as session:
        assert not session.gpus
        assert session.gpus_reason.startswith("the Docker daemon cannot pass its GPU through: ")
        assert "/dev/gone" in session.gpus_reason
    remote.put_file(NAME, "/run/cdi/nvidia.yaml", "")


def target(root: Path, base: Layout) -> BakeTarget:
    context = root / "context"
    context.mkdir()
    step = "cat /greeting > /made && cat /run/secrets/word >/dev/null"
    (context / "Dockerfile").write_text(f"FROM base\nCOPY big /big\nRUN --mount=type=secret,id=word {step}\n")
    (context / "big").write_bytes(bytes(range(256)) * 20_000)
    contexts = {"base": f"oci-layout://{base.root}:a-amd64"}
    return BakeTarget(name="x-amd64", arch="amd64", dockerfile="Dockerfile", context=str(context), contexts=contexts)


@pytest.fixture(scope="module")
def built_here(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> tuple[BakeTarget, Path, Descriptor]:
    """A build with a named context, a file and a secret by the engine of this machine."""
    root = tmp_path_factory.mktemp("here")
    base, _ = image(root, tar(*programs("sh", "cat"), file("greeting", b"hello\n")))
    wanted, secret = target(root, base), root / "word"
    secret.write_text("a secret")
    options = DockerOptions(epoch=EPOCH, secrets={"word": secret}, env=dict(docker_engine.env))
    return wanted, secret, build_with_docker([wanted], options, layout=Layout(root / "built"))["x-amd64"]


@pytest.mark.parametrize("by", ["context", "url"])
def test_a_build_there_is_the_same_as_here(
    built_here: tuple[BakeTarget, Path, Descriptor], context: str, by: str, tmp_path: Path
) -> None:
    wanted, secret, here = built_here
    if by == "url":
        inspect = ["docker", "context", "inspect", context, "--format", "{{.Endpoints.docker.Host}}"]
        context = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
    layout = Layout(tmp_path / "dist")
    options = DockerOptions(epoch=EPOCH, secrets={"word": secret}, context=context, cache=False)
    there = build_with_docker([wanted], options, layout=layout)["x-amd64"]
    assert check_image(layout, there) == []
    assert there.digest == here.digest


@pytest.fixture
def there(docker_engine: Engine, docker_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The engine of this machine, as ssh reaches it."""
    if not docker_engine.own:
        pytest.skip("NOT RUN: no ssh server leads to the Docker of this machine")
    with over_ssh(monkeypatch, "default") as host:
        yield host
    for tag in ("cpu-2.6", "cpu-2.6-arm64"):
        with suppress(docker.errors.ImageNotFound):
            docker_client.images.remove(f"pytorch:{tag}", force=True)


@pytest.mark.network
@pytest.mark.big  # small: test_an_image_arrives_and_only_what_is_missing_moves, test_commands_run_there_as_they_do_here
def test_an_image_is_loaded_and_asked_over_ssh(
    there: str, docker_client: docker.DockerClient, built: Path, built_store: dict[str, str]
) -> None:
    """cpu-2.6 on arm64, assembled here: the probes of the docker runtime on a real image."""
    done = buildctl("--layout", built, "build", "cpu-2.6", "--locked", "--context", there, env=built_store)
    assert "in Docker: pytorch:cpu-2.6" in done.stdout, done.stderr
    done = buildctl("--layout", built, "test", "cpu-2.6", "--context", there, "--json", env=built_store)
    (report,) = json.loads(done.stdout)["reports"]
    assert (done.returncode, report["verdict"]) == (0, "PASSED"), done.stdout
    assert report["runtime"] == f"docker on {docker_client.info()['Name']}"


@pytest.mark.network
@pytest.mark.big  # small: test_a_build_there_is_the_same_as_here
def test_the_docker_engine_builds_the_same_over_ssh(
    there: str, built_store: dict[str, str], stores: Path, tmp_path: Path
) -> None:
    """cpu-2.6, through BuildKit here and there."""
    digests, layouts = [], [stores / f"{tmp_path.name}-{n}" for n in ("here", "there")]
    argv = ("build", "cpu-2.6", "--engine", "docker", "--no-load", "--locked", "--json")
    try:
        for layout, where in zip(layouts, ((), ("--context", there)), strict=True):
            done = buildctl("--layout", layout, *argv, *where, env=built_store)
            assert done.returncode == 0, done.stderr
            digests.append(json.loads(done.stdout)["images"][0]["digest"])
    finally:
        for layout in layouts:
            shutil.rmtree(layout, ignore_errors=True)
    assert digests[0] == digests[1]


@contextmanager
def silent() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    """An address where nobody listens, of a port that stays taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], AbstractContextManager[str]], str, str]] = {
    "a refused key": (lambda m: over_ssh(m, key="stranger"), "Permission denied", "ssh-add"),
    "an unknown host": (lambda m: over_ssh(m, known="nothing"), "Host key verification failed", "connect once by hand"),
    "no docker there": (lambda m: over_ssh(m, docker=False), "docker: command not found", "install Docker there"),
}


@pytest.mark.parametrize(("how", "message", "hint"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_ssh_is_one_error_with_the_way_out(
    how: Callable[[pytest.MonkeyPatch], AbstractContextManager[str]],
    message: str,
    hint: str,
    second: Engine,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with how(monkeypatch) as host:
        create_context(CONTEXT, host)
        fails_soon(CONTEXT, message, hint)


@pytest.mark.parametrize(("where", "message"), [(silent, "timed out"), (nobody, "Connection refused")])
@pytest.mark.parametrize("scheme", ["tcp", "ssh"])
@pytest.mark.usefixtures("home")
def test_a_host_that_does_not_answer_is_given_up_soon(
    where: Callable[[], AbstractContextManager[str]], message: str, scheme: str
) -> None:
    with where() as address:
        fails_soon(f"{scheme}://{address}", message, "")


@pytest.mark.usefixtures("home")
def test_an_unknown_context_shows_the_known_ones() -> None:
    create_context("gpu-box", "ssh://gpu-box")
    fails_soon("gpu-bx", "no docker context named gpu-bx (did you mean 'gpu-box'?)", "known contexts: gpu-box")


def fails_soon(context: str, message: str, hint: str) -> None:
    started = time.monotonic()
    done = buildctl("build", "cpu-2.6", "--context", context)
    assert time.monotonic() - started < 15
    assert done.returncode == 10
    assert message in done.stderr, done.stderr
    assert hint in done.stderr.partition("hint: ")[2], done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
