"""Real registries on loopback (Debian's docker-registry, crane's) and a proxy that counts and fails on demand."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support import engine
from tests.support.servers import Closing, serving
from tests.support.tls import Authority

USER, PASSWORD = "me", "secret"
_HTPASSWD = f"{USER}:$2b$05$m1qx/9KF6AQSB5xKQxtK8.GG8I3PwkkXtnenvGf2LYzOv0Mnkul6.\n"  # PASSWORD, as bcrypt


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
def docker_registry(root: Path, *, authority: Authority | None = None, password: bool = False) -> Iterator[str]:
    """HOST:PORT of a registry that keeps its data under `root`; NOT RUN where the program is missing.

    With an `authority` it speaks TLS, and asks for the client's certificate where that authority has made one; with
    `password` it wants USER and PASSWORD.
    """
    program = registry_program()
    if program is None:
        pytest.skip("NOT RUN: no docker-registry here, and apt cannot download it")
    port = _free_port()
    root.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if authority is not None:
        config["http"]["tls"] = {"certificate": str(authority.certificate), "key": str(authority.key)}
        if authority.client is not None:
            config["http"]["tls"]["clientcas"] = [str(authority.ca)]
    if password:
        (root / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(root / "htpasswd")}}
    (root / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with _running([program, "serve", root / "config.yml"], port, root / "log"):
        yield f"127.0.0.1:{port}"


@contextmanager
def crane_registry(root: Path) -> Iterator[str]:
    """HOST:PORT of another implementation, go-containerregistry's; NOT RUN where it cannot be."""
    try:
        program = engine.program("crane")
    except engine.Unavailable as reason:
        pytest.skip(f"NOT RUN: {reason}")
    port = _free_port()
    (root / "data").mkdir(parents=True, exist_ok=True)  # without it every upload is a 500
    argv: list[str | Path] = [program, "registry", "serve", "--address", f"127.0.0.1:{port}", "--disk", root / "data"]
    with _running(argv, port, root / "log"):
        yield f"127.0.0.1:{port}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def _running(argv: Sequence[str | Path], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request as it came, and the status of the answer (0: none); `sent` and `got` are bytes of bodies."""

    method: str
    path: str
    sent: int
    status: int
    got: int = 0


@dataclass(kw_only=True)
class Fault:
    """What happens to the first request for which `when` is true, `times` times.

    `status`: answered so with `body`, and not passed on. `cut`: the connection closes after so many bytes of the
    request's body. `unread`: of the request's body nothing is read, and the connection stays. `drop`: passed on, but
    the answer never comes. `flip`: the byte at that place of the request's body is changed. `corrupt`: a byte of the
    answer's body is changed. `truncate`: the answer ends after so many bytes; `stall`: and the connection stays.
    `location`: the answer says that the upload goes on there; empty: it does not say where. `relabel`: the answer's
    Content-Type. `drip`: seconds between the bytes of the answer. `endless`: the answer goes on until nobody listens.
    """

    when: Callable[[str, str], bool]
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    unread: bool = False
    drop: bool = False
    flip: int | None = None
    corrupt: bool = False
    truncate: int | None = None
    stall: int | None = None
    location: str | None = None
    relabel: str | None = None
    drip: float = 0
    endless: bool = False
    met: int = 0


class Proxy(Closing):
    """`seen` is every exchange. With `users` (name -> password) it wants a bearer token, or basic with `basic`.

    `referrers`, unless None, is the referrers API that the registry behind it lacks: artifacts by their subject.
    """

    daemon_threads = True

    def __init__(self, upstream: str, authority: Authority | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "http" if authority is None else "https"
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(authority.certificate, authority.key)
            # the handshake belongs to the connection's own thread
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.upstream = upstream
        self.closing = threading.Event()
        self.referrers: dict[str, list[dict[str, Any]]] | None = None
        self.faults: list[Fault] = []
        self.seen: list[Exchange] = []
        self.users: dict[str, str] = {}
        self.basic = False
        self.token_name = "token"  # what the token server calls it
        self.readonly = False
        self.largest = 0  # bytes that a PATCH may have, as at GHCR
        self.forbidding = False  # 403 for manifests that are not there
        self.rewrite: Callable[[str], str] | None = None  # the path that is read in place of another
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

    def bytes_down(self) -> int:
        return sum(e.got for e in self.seen)

    def writes(self) -> list[Exchange]:
        return [e for e in self.seen if e.method not in {"GET", "HEAD"}]

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that end early are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer in two writes waits 40 ms for an acknowledgement
    server: Proxy

    def handle_any(self) -> None:
        proxy, length = self.server, int(self.headers.get("Content-Length") or 0)
        if self.path.startswith("/token"):
            self._token()
            return
        if proxy.referrers is not None and "/referrers/" in self.path:
            self._list_referrers(proxy.referrers)
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
        if fault is not None and fault.unread:
            proxy.closing.wait(30)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if 0 < proxy.largest < length and self.command == "PATCH":
            limit = f"{proxy.largest / 2**20:.2f}MiB"
            said = f"the request body is too large and exceeds the maximum permissible limit of {limit}"
            self._answer(416, {"Content-Type": "application/json"}, _error("REQUESTED_RANGE_NOT_SATISFIABLE", said))
            self._note(length, 416)
            return
        if fault is not None and fault.endless and self.command != "HEAD":
            self._note(len(body), fault.status or 200)
            self._endless(fault.status or 200)
            return
        if fault is not None and fault.status:
            self._answer(fault.status, dict(fault.headers), fault.body)
            self._note(len(body), fault.status)
            return
        if fault is not None and fault.flip is not None:
            body = body[: fault.flip] + bytes([body[fault.flip] ^ 1]) + body[fault.flip + 1 :]
        status, headers, data = self._forward(body)
        if proxy.forbidding and status == 404 and "/manifests/" in self.path:
            status, data = 403, _error("UNAUTHORIZED", "The client does not have permission for manifest")
            headers = {"Content-Type": "application/json"}
        self._note(length, status, len(data))
        if fault is not None and fault.relabel is not None:
            headers = {k: v for k, v in headers.items() if k != "Content-Type"} | {"Content-Type": fault.relabel}
        if fault is not None and fault.drip and self.command != "HEAD":
            self._drip(status, headers, data, fault.drip)
            return
        if fault is not None and fault.drop:
            self._hang_up()
            return
        if fault is not None and fault.corrupt and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if fault is not None and fault.location is not None:
            headers = {k: v for k, v in headers.items() if k != "Location"}
            headers |= {"Location": fault.location} if fault.location else {}
        if proxy.referrers is not None and self.command == "PUT" and status == 201 and "/manifests/" in self.path:
            headers |= self._note_subject(proxy.referrers, headers, body)
        short = None if fault is None else fault.truncate if fault.stall is None else fault.stall
        self._answer(status, headers, data, truncate=short, stall=fault is not None and fault.stall is not None)

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
            path = self.path
            if self.server.rewrite is not None and self.command in {"GET", "HEAD"}:
                path = self.server.rewrite(path)
            upstream.request(self.command, path, body=body or None, headers=headers)
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def _upstream(self) -> tuple[str, int]:
        host, _, port = self.server.upstream.partition(":")
        return host, int(port)

    def _answer(
        self,
        status: int,
        headers: Mapping[str, str],
        data: bytes,
        *,
        truncate: int | None = None,
        stall: bool = False,
    ) -> None:
        self.send_response(status)
        kept = {k: v for k, v in headers.items() if k.lower() not in {"transfer-encoding", "connection", "date"}}
        if "Content-Length" not in kept and status != 204:
            kept["Content-Length"] = str(len(data))
        for key, value in kept.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:truncate])
        if stall:
            self.wfile.flush()
            self.server.closing.wait(30)
        if truncate is not None:
            self._hang_up()

    def _endless(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            for _ in range(10_000):  # 640 MB
                self.wfile.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        self.close_connection = True

    def _drip(self, status: int, headers: Mapping[str, str], data: bytes, pause: float) -> None:
        self.send_response(status)
        self.send_header("Content-Type", headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(OSError):
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.closing.wait(pause):
                    break
        self.close_connection = True

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _note(self, sent: int, status: int, got: int = 0) -> None:
        one = Exchange(method=self.command, path=self.path, sent=sent, status=status, got=got)
        with self.server.mutex:
            self.server.seen.append(one)

    # the referrers API (distribution-spec, "listing referrers")

    def _note_subject(
        self, referrers: dict[str, list[dict[str, Any]]], headers: Mapping[str, str], body: bytes
    ) -> dict[str, str]:
        value = json.loads(body)
        subject = value.get("subject", {}).get("digest")
        if subject is None:
            return {}
        row = {
            "mediaType": value["mediaType"],
            "digest": headers["Docker-Content-Digest"],
            "size": len(body),
            "artifactType": value.get("artifactType") or value["config"]["mediaType"],
            "annotations": value.get("annotations", {}),
        }
        rows = referrers.setdefault(subject, [])
        if row not in rows:
            rows.append(row)
        return {"OCI-Subject": subject}

    def _list_referrers(self, referrers: dict[str, list[dict[str, Any]]]) -> None:
        parts = urlsplit(self.path)
        rows = referrers.get(parts.path.rpartition("/")[2], [])
        wanted = parse_qs(parts.query).get("artifactType", [])
        if wanted:
            rows = [row for row in rows if row["artifactType"] in wanted]
        kind = "application/vnd.oci.image.index.v1+json"
        data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": rows}).encode()
        applied = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
        self._answer(200, {"Content-Type": kind, **applied}, data)
        self._note(0, 200)

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
            challenge = f'Bearer realm="{proxy.scheme}://{proxy.netloc}/token",service="test",scope="repository:x:pull"'
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
        self._answer(200, {"Content-Type": "application/json"}, json.dumps({self.server.token_name: token}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _error(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@contextmanager
def proxy(upstream: str, authority: Authority | None = None) -> Iterator[Proxy]:
    """In front of a registry that speaks plain http; with an `authority` the proxy itself speaks TLS."""
    with serving(Proxy(upstream, authority)) as server:
        yield server
