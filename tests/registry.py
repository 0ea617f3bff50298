"""A real registry on loopback (Debian's docker-registry) and a proxy in front of it that counts and fails on demand."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: "{root}"}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def registry_program() -> str | None:
    """Installed, or unpacked from its package without root: installing it would start a service on the machine."""
    found = shutil.which("docker-registry")
    if found is not None:
        return found
    target = Path.home() / ".cache" / "buildctl-tests" / "docker-registry"
    program = target / "usr" / "bin" / "docker-registry"
    if not program.exists() and shutil.which("apt-get"):
        target.mkdir(parents=True, exist_ok=True)
        with suppress(subprocess.CalledProcessError, ValueError):
            subprocess.run(
                ["apt-get", "download", "-q", "docker-registry"], cwd=target, check=True, capture_output=True
            )
            package = max(target.glob("docker-registry_*.deb"))
            subprocess.run(["dpkg-deb", "-x", package, target], check=True)
            package.unlink()
    return str(program) if program.exists() else None


@contextmanager
def docker_registry(root: Path) -> Iterator[str]:
    """HOST:PORT of a registry that keeps its data under `root`; NOT RUN where the program is missing."""
    program = registry_program()
    if program is None:
        pytest.skip("NOT RUN: no docker-registry here, and apt cannot download it")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    root.mkdir(parents=True, exist_ok=True)
    config = root / "config.yml"
    config.write_text(CONFIG.format(root=root / "data", port=port))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", config], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, (root / "log").read_text()
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request as it came, and the status of the answer (0: none)."""

    method: str
    path: str
    sent: int
    status: int


@dataclass(kw_only=True)
class Fault:
    """What happens to the first request for which `when` is true, `times` times.

    `status`: answered so, and not passed on. `cut`: the connection closes after so many bytes of the request's body.
    `drop`: passed on, but the answer never comes. `flip`: the byte at that place of the request's body is changed.
    `corrupt`: a byte of the answer's body is changed. `truncate`: the answer ends after so many bytes.
    """

    when: Callable[[str, str], bool]
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    drop: bool = False
    flip: int | None = None
    corrupt: bool = False
    truncate: int | None = None
    met: int = 0


class Proxy(ThreadingHTTPServer):
    """`seen` is every exchange. With `users` (name -> password) it wants a bearer token, or basic with `basic`."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.seen: list[Exchange] = []
        self.users: dict[str, str] = {}
        self.basic = False
        self.readonly = False
        self.tokens: dict[str, str] = {}
        self.mutex = threading.Lock()

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def fault(self, method: str, path: str) -> Fault | None:
        with self.mutex:
            for fault in self.faults:
                if fault.met < fault.times and fault.when(method, path):
                    fault.met += 1
                    return fault
        return None

    def blob_bytes(self) -> int:
        """Bytes of request bodies that were not manifests."""
        return sum(e.sent for e in self.seen if "/blobs/uploads/" in e.path)

    def writes(self) -> list[Exchange]:
        return [e for e in self.seen if e.method not in {"GET", "HEAD"}]

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that end early are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_any(self) -> None:
        proxy, length = self.server, int(self.headers.get("Content-Length") or 0)
        if self.path.startswith("/token"):
            self._token()
            return
        if (refusal := self._refusal()) is not None:
            self.rfile.read(length)
            self._answer(*refusal)
            return
        fault = proxy.fault(self.command, self.path)
        if fault is not None and fault.cut is not None:
            got = self.rfile.read(min(fault.cut, length))
            self._partly(got, length)
            self._note(len(got), 0)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if fault is not None and fault.status:
            self._answer(fault.status, dict(fault.headers), b"")
            self._note(len(body), fault.status)
            return
        if fault is not None and fault.flip is not None:
            body = body[: fault.flip] + bytes([body[fault.flip] ^ 1]) + body[fault.flip + 1 :]
        status, headers, data = self._forward(body)
        self._note(length, status)
        if fault is not None and fault.drop:
            self._hang_up()
            return
        if fault is not None and fault.corrupt and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._answer(status, headers, data, truncate=fault.truncate if fault else None)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def _partly(self, body: bytes, length: int) -> None:
        """Pass on the beginning of a body, then close: the registry sees what a cut connection looks like."""
        with suppress(OSError), socket.create_connection(self._upstream(), 10) as out:
            lines = [f"{self.command} {self.path} HTTP/1.1", f"Host: {self.server.netloc}", f"Content-Length: {length}"]
            lines += [f"{k}: {v}" for k, v in self.headers.items() if k.lower() in {"content-type", "content-range"}]
            out.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(*self._upstream(), timeout=60)
        headers = {
            k: ", ".join(self.headers.get_all(k) or ())  # skopeo sends several Accept headers
            for k in self.headers
            if k.lower() not in {"authorization", "connection"}
        }
        try:
            upstream.request(self.command, self.path, body=body or None, headers=headers)
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def _upstream(self) -> tuple[str, int]:
        host, _, port = self.server.upstream.partition(":")
        return host, int(port)

    def _answer(self, status: int, headers: Mapping[str, str], data: bytes, *, truncate: int | None = None) -> None:
        self.send_response(status)
        kept = {k: v for k, v in headers.items() if k.lower() not in {"transfer-encoding", "connection", "date"}}
        if "Content-Length" not in kept and status != 204:
            kept["Content-Length"] = str(len(data))
        for key, value in kept.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:truncate])
        if truncate is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _note(self, sent: int, status: int) -> None:
        with self.server.mutex:
            self.server.seen.append(Exchange(method=self.command, path=self.path, sent=sent, status=status))

    # who may

    def _refusal(self) -> tuple[int, dict[str, str], bytes] | None:
        proxy, given = self.server, self.headers.get("Authorization", "")
        if proxy.readonly and self.command not in {"GET", "HEAD"}:
            return 403, {"Content-Type": "application/json"}, _error("DENIED", "read only")
        if not proxy.users:
            return None
        if proxy.basic:
            challenge, known = 'Basic realm="test"', self._user(given) is not None
        else:
            challenge = f'Bearer realm="http://{proxy.netloc}/token",service="test",scope="repository:x:pull"'
            scope = proxy.tokens.get(given.removeprefix("Bearer "), "")
            known = bool(scope) and ("push" in scope or self.command in {"GET", "HEAD"})
        return None if known else (401, {"WWW-Authenticate": challenge}, _error("UNAUTHORIZED", "who are you"))

    def _user(self, given: str) -> str | None:
        name, _, password = base64.b64decode(given.removeprefix("Basic ") or b"").decode().partition(":")
        return name if name and self.server.users.get(name) == password else None

    def _token(self) -> None:
        if self._user(self.headers.get("Authorization", "")) is None:
            self._answer(401, {}, b"")
            return
        scope = " ".join(parse_qs(urlsplit(self.path).query).get("scope", []))
        token = f"token-{len(self.server.tokens)}"
        self.server.tokens[token] = scope
        self._answer(200, {"Content-Type": "application/json"}, json.dumps({"token": token}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _error(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    server = Proxy(upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
