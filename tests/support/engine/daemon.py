"""One shared engine per machine: who needs it holds a lease, a supervisor ends it when nobody does.

A lease is a shared flock on a file, so a killed pytest gives it back whatever happens. The supervisor holds another
flock for as long as it lives, ends the engine when no lease is left for some seconds or its life time is over, and
everything inside dies with its PID namespace.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException

from buildctl.ground.run import run
from tests.support.engine import rootfs
from tests.support.engine.rootfs import Unavailable

LIFETIME = 2 * 3600.0
GRACE = 10.0
HERE = Path(__file__).parent
RUN = Path("/run/buildctl-tests")
NETWORK = RUN / "network.lock"  # held by the one engine that has the machine's bridge: its end removes the bridge


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine that answers. `own` when it is ours; `env` is what a subprocess needs to reach it."""

    host: str
    own: bool
    env: Mapping[str, str]

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.host, timeout=300)


@contextmanager
def engine() -> Iterator[Engine]:
    """The engine that answers (DOCKER_HOST or the default socket), else our own under a lease. Raises Unavailable."""
    found = _answering()
    if found is not None:
        yield found
        return
    with leased() as own:
        yield own


@contextmanager
def leased(name: str = "default", *, network: bool = True, grace: float = GRACE) -> Iterator[Engine]:
    """Our own engine, whatever else answers, which stays until `grace` seconds after the last lease."""
    with _lease(name):
        yield start(name, network=network, grace=grace)


def start(name: str = "default", *, keep: float = 0, network: bool = True, grace: float = GRACE) -> Engine:
    """Start our own engine if it is not running; with `keep` it stays that many seconds without a lease.

    Only one engine of a machine can have the `network` of the machine, with its bridge and firewall rules; a second
    one is Unavailable, or without `network` gets a network namespace, from which nothing leads out.
    """
    state = state_folder(name)
    state.mkdir(parents=True, exist_ok=True)
    if keep:
        (state / "keep").write_text(str(time.time() + keep))
    with (state / "starting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _supervised(state):
            if network and _held(NETWORK):
                raise Unavailable("another engine of the tests has this machine's network; share it, or do without")
            _spawn(name, rootfs.prepare(), network=network, grace=grace)
        return _own(name)


def stop(name: str = "default") -> bool:
    """End our own engine and wait until it is gone; False when there was none."""
    state = state_folder(name)
    if not _supervised(state):
        return False
    os.kill(int((state / "pid").read_text()), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while _supervised(state) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not _supervised(state)


def running(name: str = "default") -> bool:
    return _supervised(state_folder(name)) and _answers(_socket(name))


def state_folder(name: str) -> Path:
    """Short, because a socket's path has at most 107 bytes."""
    return RUN / name


def serve(name: str, root: Path, *, network: bool, grace: float, lifetime: float = LIFETIME) -> None:
    """The supervisor: runs dockerd in its namespaces until SIGTERM, no lease, or the end of `lifetime` seconds."""
    state = state_folder(name)
    with (state / "supervisor").open("w") as alive, NETWORK.open("w") as bridge:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if network:
            fcntl.flock(bridge, fcntl.LOCK_EX)  # free, but for somebody who looks at it
        (state / "pid").write_text(str(os.getpid()))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        data = rootfs.cache() / f"data-{name}"
        undo = _undo(state, root) if network else None
        _set_aside(data)  # of one that was killed
        data.mkdir(parents=True)
        process = _dockerd(name, root, state, data, network=network)
        try:
            _watch(state, process, deadline=time.monotonic() + lifetime, grace=grace)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _end(process)
            _after(name, root, undo)
            _set_aside(data)
            for leftover in ("docker.sock", "keep", "pid", "undo"):
                (state / leftover).unlink(missing_ok=True)
            bridge.close()
            alive.close()  # the next one may start
            for trash in rootfs.cache().glob("removing-*"):  # takes minutes on a file system with `discard`
                shutil.rmtree(trash, ignore_errors=True)


def _set_aside(folder: Path) -> None:
    with suppress(FileNotFoundError):
        folder.rename(folder.with_name(f"removing-{os.getpid()}-{time.time_ns()}"))


def _dockerd(name: str, root: Path, state: Path, data: Path, *, network: bool) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ENGINE_ROOT": str(root), "ENGINE_STATE": str(state), "ENGINE_DATA": str(data)}
    environment["ENGINE_BINFMT"] = _binfmt(root)
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
    argv += [] if network else ["--net"]
    argv += ["--propagation", "private", "/bin/sh", str(HERE / "enter.sh"), "--cgroup-parent", _cgroup(name)]
    with (state / "log").open("wb") as log:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def _watch(state: Path, process: subprocess.Popen[bytes], *, deadline: float, grace: float) -> None:
    free_since: float | None = None
    with (state / "lease").open("w") as lease:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
            if _kept(state) or not _lock(lease):
                free_since = None
                continue
            free_since = free_since or time.monotonic()
            if time.monotonic() - free_since > grace:
                return  # with the lock held: who comes now waits until this process is gone, then starts another
            fcntl.flock(lease, fcntl.LOCK_UN)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to tini, which is the only child of unshare; then the whole PID namespace."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGTERM)
        process.wait(timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()


def _undo(state: Path, root: Path) -> tuple[str, str]:
    """The host's FORWARD policy and ip_forward from before dockerd, kept on disk for the case that this is killed."""
    noted = state / "undo"
    if not noted.exists():
        said = run(["chroot", root, "iptables", "-S", "FORWARD"], timeout=30, check=False).stdout.split()
        forward = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
        noted.write_text(f"{said[2] if len(said) > 2 else 'ACCEPT'} {forward}")
    policy, forward = noted.read_text().split()
    return policy, forward


def _after(name: str, root: Path, undo: tuple[str, str] | None) -> None:
    if undo is not None:
        script = (HERE / "network.sh").read_text()
        mounts = f'mount -t proc proc {root}/proc; exec chroot {root} /bin/sh -c "$0" sh "$@"'
        rule = _binfmt(root).split(":")[1] if _binfmt(root) else ""
        run(["unshare", "--mount", "/bin/sh", "-c", mounts, script, *undo, rule], timeout=60, check=False)
    groups = Path("/sys/fs/cgroup").glob(f"**{_cgroup(name)}") if Path("/sys/fs/cgroup").is_dir() else ()
    for top in list(groups):
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()


def _binfmt(root: Path) -> str:
    """The kernel's rule that runs the other architecture through qemu, under a name of our own; "" where unknown."""
    foreign = {"x86_64": "aarch64", "aarch64": "x86_64"}.get(platform.machine())
    rules = root / f"usr/lib/binfmt.d/qemu-{foreign}.conf"
    if not rules.exists():
        return ""
    fields = rules.read_text().strip().split(":")  # :name:type:offset:magic:mask:interpreter:flags
    fields[1], fields[6] = f"buildctl-{foreign}", str(root / f"usr/bin/qemu-{foreign}")
    return ":".join(fields)


def _spawn(name: str, root: Path, *, network: bool, grace: float) -> None:
    state = state_folder(name)
    argv = [sys.executable, "-m", "tests.support.engine", "serve", "--name", name, "--root", str(root)]
    argv += ["--grace", str(grace), "--network" if network else "--no-network"]
    supervisor = subprocess.Popen(
        argv,
        cwd=HERE.parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(state / "supervisor.log").open("wb"),
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if _answers(_socket(name)):
            return
        if supervisor.poll() is not None:
            break
    supervisor.terminate()
    tail = "\n".join((state / "log").read_text(errors="replace").splitlines()[-8:]) if (state / "log").exists() else ""
    raise Unavailable(f"a Docker Engine of our own does not come up here:\n{tail}")


@contextmanager
def _lease(name: str) -> Iterator[None]:
    rootfs.refuse_where_impossible()
    state = state_folder(name)
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lease").open("w") as lease:
        deadline = time.monotonic() + 90
        while not _lock(lease, fcntl.LOCK_SH):  # one that is just ending
            if time.monotonic() > deadline:
                raise Unavailable("the Docker Engine of an earlier run does not end")
            time.sleep(0.2)
        yield


def _lock(file: object, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)  # type: ignore[arg-type]
    except OSError:
        return False
    return True


def _supervised(state: Path) -> bool:
    return _held(state / "supervisor")


def _held(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("a") as file:
        return not _lock(file)


def _kept(state: Path) -> bool:
    try:
        return time.time() < float((state / "keep").read_text())
    except (OSError, ValueError):
        return False


def _answering() -> Engine | None:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not _answers(host):
        return None
    return Engine(host=host, own=False, env={**os.environ, "DOCKER_HOST": host})


def _answers(host: str) -> bool:
    try:
        client = docker.DockerClient(base_url=host, timeout=5)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (DockerException, OSError):
        return False


def _own(name: str) -> Engine:
    """Our engine, with a folder that holds its own `docker` and buildx for machines that have neither."""
    root = rootfs.prepare()
    tools = state_folder(name) / "client"
    plugins = tools / "config" / "cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    (tools / "bin").mkdir(exist_ok=True)
    _link(plugins / "docker-buildx", root / "usr/libexec/docker/cli-plugins/docker-buildx")
    _link(tools / "bin" / "docker", root / "usr/bin/docker")
    own_path = os.pathsep.join([str(tools / "bin"), os.environ.get("PATH", os.defpath)])
    env = {"DOCKER_HOST": _socket(name), "DOCKER_CONFIG": str(tools / "config"), "PATH": own_path}
    return Engine(host=_socket(name), own=True, env={**os.environ, **env})


def _link(path: Path, target: Path) -> None:
    if not path.is_symlink() or path.readlink() != target:
        path.unlink(missing_ok=True)
        path.symlink_to(target)


def _socket(name: str) -> str:
    return f"unix://{state_folder(name)}/docker.sock"


def _cgroup(name: str) -> str:
    return f"/buildctl-tests-{name}"


def describe(found: Engine) -> str:
    """What `eval` in a shell needs."""
    return "\n".join(
        f"export {key}={found.env[key]!r}" for key in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH") if key in found.env
    )
