"""The tests' own engine as a machine elsewhere: over tcp, and over ssh, on loopback ports of this machine.

Its ssh server runs in the engine's own namespaces, so its loopback is not ours, as on a real machine. It is started for
each connection, as inetd would do it, and ends with the connection or with the namespaces.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from buildctl.ground.run import run, which
from tests.support.engine import daemon
from tests.support.engine.rootfs import Unavailable, program

SSHD_CONFIG = """\
HostKey /run/engine/ssh/host
AuthorizedKeysFile /run/engine/ssh/authorized
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
AllowTcpForwarding {forwarding}
SetEnv DOCKER_HOST=unix:///run/engine/docker.sock PATH={path}
"""
SSH_CONFIG = """\
Host gpu-box
    HostName 127.0.0.1
    Port {port}
    User root
    IdentityFile {folder}/{key}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/{known}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
"""
IN_THE_ENGINE = "mkdir -p /run/sshd && exec /usr/sbin/sshd -i -f /run/engine/ssh/{config} -E /run/engine/ssh/log"


@contextmanager
def tcp(name: str) -> Iterator[str]:
    """tcp://127.0.0.1:PORT that leads to the engine's socket."""
    path = str(daemon.state_folder(name) / "docker.sock")

    def connect(connection: socket.socket) -> None:
        with connection, socket.socket(socket.AF_UNIX) as there:
            there.connect(path)
            back = threading.Thread(target=_copy, args=(there, connection), daemon=True)
            back.start()
            _copy(connection, there)
            back.join()

    with _listening(connect) as port:
        yield f"tcp://127.0.0.1:{port}"


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 18):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """`path` is a folder with an `ssh` that knows the host gpu-box; it goes in front of PATH."""

    path: Path
    port: int


@contextmanager
def ssh(
    name: str, *, key: str = "user", known: str = "known", docker: bool = True, forwarding: bool = True
) -> Iterator[Box]:
    """An ssh server beside the engine. `key` "stranger" is one it refuses, `known` "nothing" a file without its key;
    without `docker` that program is not found there.
    """
    folder = daemon.state_folder(name) / "ssh"
    _keys(folder)
    config = f"sshd_config-{docker}-{forwarding}"
    path = "/usr/bin:/usr/sbin" if docker else "/nowhere"
    (folder / config).write_text(SSHD_CONFIG.format(path=path, forwarding="yes" if forwarding else "no"))
    inside = _enter(name)
    processes: list[subprocess.Popen[bytes]] = []

    def connect(connection: socket.socket) -> None:
        with connection:
            end = connection.fileno()
            argv = [*inside, IN_THE_ENGINE.format(config=config)]
            processes.append(
                subprocess.Popen(argv, stdin=end, stdout=end, stderr=subprocess.DEVNULL, start_new_session=True)
            )

    with _listening(connect) as port:
        host_key = (folder / "host.pub").read_text()
        (folder / "known").write_text(f"[127.0.0.1]:{port} {host_key}")
        try:
            yield Box(path=_client(folder / f"bin-{key}-{known}", folder, port, key=key, known=known), port=port)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _client(path: Path, folder: Path, port: int, *, key: str, known: str) -> Path:
    """An `ssh` that reads a configuration of its own: the real one finds the user's by the account, not by HOME."""
    path.mkdir(exist_ok=True)
    config = path / "config"
    config.write_text(SSH_CONFIG.format(port=port, folder=folder, key=key, known=known))
    (path / "ssh").write_text(f'#!/bin/sh\nexec {which("ssh") or program("ssh")} -F {config} "$@"\n')
    (path / "ssh").chmod(0o755)
    return path


def _keys(folder: Path) -> None:
    if folder.exists():
        return
    folder.mkdir(mode=0o700)
    keygen = which("ssh-keygen") or program("ssh-keygen")
    for key in ("host", "user", "stranger"):
        run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", folder / key], timeout=30)
    shutil.copy(folder / "user.pub", folder / "authorized")


def put_file(name: str, path: str, text: str) -> None:
    """A file of the machine that the engine runs on, which goes with the engine; below /run or /etc/docker."""
    run([*_enter(name), f"mkdir -p {Path(path).parent} && cat >{path}"], timeout=30, stdin=text)


def _enter(name: str) -> list[str]:
    """What runs a line of shell on that machine."""
    return ["nsenter", "--target", str(_inside(name)), "--mount", "--net", "--pid", "--", "/bin/sh", "-c"]


def _inside(name: str) -> int:
    """A process in the namespaces of the engine: the child of the supervisor's `unshare`."""
    supervisor = int((daemon.state_folder(name) / "pid").read_text())
    return _child(_child(supervisor, name, command="unshare"), name)


def _child(pid: int, name: str, *, command: str = "") -> int:
    """Of that `command`, or any. The kernel may leave children out while others come and go (proc(5)), so it is asked
    again.
    """
    for _ in range(50):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):  # it has ended
                if command in {"", Path(f"/proc/{child}/comm").read_text().strip()}:
                    return int(child)
        time.sleep(0.1)
    raise Unavailable(f"the engine {name} has no process")


@contextmanager
def _listening(connect: Callable[[socket.socket], None]) -> Iterator[int]:
    """Calls `connect` in a thread of its own for each connection to a port of loopback."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=connect, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def with_ssh(box: Box) -> str:
    """PATH with that ssh in front."""
    return os.pathsep.join([str(box.path), os.environ.get("PATH", os.defpath)])
