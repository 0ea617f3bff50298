"""A Docker daemon behind ssh as a socket on this machine, using only the `ssh` program.

Each connection to the socket becomes `ssh HOST docker system dial-stdio`, as `docker` itself does it: all that the user
has configured for ssh holds, and a key that may run nothing else is enough. The first connection carries the others.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from buildctl.console import log
from buildctl.ground.errors import RuntimeUnavailableError, ToolError
from buildctl.ground.run import kill_group, run, shown, which
from buildctl.ground.scratch import scratch

CONNECT = 8  # seconds for a connection to the host and the exchange of keys
ENDING = 5.0  # seconds until what does not end by itself is killed
DIAL = "docker system dial-stdio"
# Anything that would prompt, hang or outlive us is off; the rest is as the user configured it.
_OPTIONS = (
    "BatchMode=yes",
    f"ConnectTimeout={CONNECT}",
    "ConnectionAttempts=1",
    "ControlMaster=auto",
    "ControlPersist=no",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "RemoteCommand=none",
    "RequestTTY=no",
)
_HINTS = (
    ("connect to host", "is it up, and can `ssh {host}` reach it from here?"),
    ("Host key verification failed", "connect once by hand and compare the key: ssh {host}"),
    ("REMOTE HOST IDENTIFICATION", "its host key changed; if that is expected: ssh-keygen -R {host}"),
    ("Permission denied", "`ssh {host}` must work without a prompt: ssh-add, or IdentityFile in ~/.ssh/config"),
    ("not found", "install Docker there; `ssh {host} docker version` must work"),
    ("permission denied while trying to connect", "on that machine: sudo usermod -aG docker USER, then log in again"),
    ("Cannot connect to the Docker daemon", "on that machine: sudo systemctl start docker"),
    ("Could not resolve", "unknown host name; ~/.ssh/config can give it a HostName"),
)


class Tunnel:
    """`path` is a socket on which the daemon at `url` (ssh://[USER@]HOST[:PORT]) answers, until `close`."""

    def __init__(self, url: str) -> None:
        """Connects nowhere yet. Raises RuntimeUnavailableError without the program ssh or for a malformed `url`."""
        self.host, destination = _destination(url)
        program = which("ssh")
        if program is None:
            raise RuntimeUnavailableError(
                f"{without_user(url)} needs the program ssh", hint="install it: apt-get install openssh-client"
            )
        # the path of a socket has at most 104 bytes, and ssh appends 17 to its own
        roomy = len(tempfile.gettempdir()) < 60
        self._held = ExitStack()
        self.folder = self._held.enter_context(scratch("ssh", under=None if roomy else Path("/tmp")))  # noqa: S108
        self.path = self.folder / "docker.sock"
        options = [word for option in _OPTIONS for word in ("-o", option)]
        self._ssh = [str(program), "-T", "-x", "-a", "-S", str(self.folder / "ssh"), *options]
        self._destination = destination
        self._processes: list[subprocess.Popen[bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(32)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def said(self) -> str:
        """What ssh or the other side complained about, without user names; empty if nothing."""
        with suppress(OSError):
            lines = (self.folder / "said").read_text(errors="replace").splitlines()
            return re.sub(r"[^\s@]+@", "", "; ".join(dict.fromkeys(s for line in lines[-6:] if (s := line.strip()))))
        return ""

    def hint(self) -> str | None:
        """What to do about that complaint."""
        said = self.said()
        found = [hint for words, hint in _HINTS if words in said]
        return found[-1].format(host=self.host) if found else None

    @contextmanager
    def brought_back(self, port: int) -> Iterator[int | None]:
        """A port of the host's own loopback that leads to `port` of ours; None if its ssh server does not allow one."""
        there: int | None = None
        spec = f"127.0.0.1:{{}}:127.0.0.1:{port}"
        with suppress(ToolError):
            done = self._control("forward", spec.format(0))
            there = int(done) if done.isdecimal() else None
        try:
            yield there
        finally:
            if there is not None:
                with suppress(ToolError):
                    self._control("cancel", spec.format(there))

    def close(self) -> None:
        """End all connections, and kill those that do not end within seconds."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.terminate()
        for process in self._processes:
            try:
                process.wait(ENDING)
            except subprocess.TimeoutExpired:
                kill_group(process)
                process.wait()
        self._held.close()

    def _serve(self) -> None:
        argv = [*self._ssh, *self._destination, DIAL]
        log.detail(f"$ {shown(argv)}")
        environment = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "SSL_CERT_FILE")}
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # ssh reads from and writes to the connection itself; Ctrl-C is for us, who then end what runs there
            with connection, (self.folder / "said").open("ab") as said:
                end = connection.fileno()
                process = subprocess.Popen(
                    argv, stdin=end, stdout=end, stderr=said, env=environment, start_new_session=True
                )
            self._processes = [*(p for p in self._processes if p.poll() is None), process]

    def _control(self, command: str, forward: str) -> str:
        argv = [*self._ssh, "-O", command, "-R", forward, *self._destination]
        return run(argv, timeout=CONNECT).stdout.strip()


def without_user(url: str) -> str:
    """For messages and reports: ssh://me@box -> ssh://box."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def _destination(url: str) -> tuple[str, list[str]]:
    """The host, and the words that lead ssh to it."""
    try:
        parts = urlsplit(url)
        host, user, port = parts.hostname, parts.username, parts.port
    except ValueError:
        host = user = port = None
    if not host or host.startswith("-") or (user or "").startswith("-") or parts.path.strip("/"):
        raise RuntimeUnavailableError(f"{without_user(url)} is not an ssh address", hint="ssh://[USER@]HOST[:PORT]")
    return host, [*(["-l", user] if user else []), *(["-p", str(port)] if port else []), "--", host]
