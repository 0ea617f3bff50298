"""A small real web server on loopback: a package index, and a file server that fails on demand."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar
from urllib.parse import unquote

from packaging.utils import parse_wheel_filename


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How one request is answered instead of the right way. `status` 0 stands for the usual one."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None  # these bytes instead of the file's
    cut: int | None = None  # the connection closes after so many bytes
    stall: int | None = None  # nothing more comes after so many bytes
    ranges: bool = True


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    path: str
    range: str | None
    headers: Mapping[str, str]


class Closing(ThreadingHTTPServer):
    """`closing` is set when the server is about to end."""

    closing: threading.Event


Server = TypeVar("Server", bound=Closing)


class Site(Closing):
    """`files` by path. `faults[path]` are used up, one a request; `always[path]` stays. `seen` is every request.
    `before` is called with the path of one that is about to be answered, and may keep it waiting.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, tuple[str, bytes]] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.seen: list[Request] = []
        self.password: str | None = None
        self.before: Callable[[str], object] = lambda _: None
        self.closing = threading.Event()
        self.mutex = threading.Lock()
        self.busy: dict[str, int] = {}
        self.busiest: dict[str, int] = {}

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.netloc}"

    def put(self, path: str, data: bytes, kind: str = "application/octet-stream") -> str:
        self.files[path] = (kind, data)
        return self.url + path

    def fault(self, path: str) -> Fault:
        with self.mutex:
            waiting = self.faults.get(path)
            return waiting.pop(0) if waiting else self.always.get(path, Fault())

    def publish(
        self, index: str, wheels: Mapping[str, bytes], *, sizes: bool = True, hashes: bool = True, json_api: bool = True
    ) -> str:
        """Add an index under the path `index` that holds these wheels; returns its URL."""
        projects: dict[str, list[str]] = {}
        for filename in wheels:
            projects.setdefault(parse_wheel_filename(filename)[0], []).append(filename)
        for project, filenames in projects.items():
            for filename in filenames:
                self.put(f"/{index}/files/{filename}", wheels[filename])
            page = _json_page if json_api else _html_page
            kind = "application/vnd.pypi.simple.v1+json" if json_api else "text/html"
            files = {name: wheels[name] for name in filenames}
            self.put(f"/{index}/simple/{project}/", page(project, files, sizes=sizes, hashes=hashes).encode(), kind)
        return f"{self.url}/{index}/simple/"


def _json_page(project: str, files: Mapping[str, bytes], *, sizes: bool, hashes: bool) -> str:
    rows = [
        {
            "filename": name,
            "url": f"../../files/{name}",
            "hashes": {"sha256": hashlib.sha256(data).hexdigest()} if hashes else {},
            **({"size": len(data)} if sizes else {}),
        }
        for name, data in files.items()
    ]
    versions = sorted({str(parse_wheel_filename(name)[1]) for name in files})
    meta = {"api-version": "1.1" if sizes else "1.0"}
    return json.dumps({"meta": meta, "name": project, "versions": versions, "files": rows})


def _html_page(project: str, files: Mapping[str, bytes], *, sizes: bool, hashes: bool) -> str:
    links = [
        f'<a href="../../files/{name}'
        + (f"#sha256={hashlib.sha256(data).hexdigest()}" if hashes else "")
        + f'">{name}</a>'
        for name, data in files.items()
    ]
    return "<!DOCTYPE html><html><body>" + "<br>".join(links) + "</body></html>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer in two writes waits 40 ms for an acknowledgement
    server: Site

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        site = self.server
        with site.mutex:
            site.busy[path] = site.busy.get(path, 0) + 1
            site.busiest[path] = max(site.busiest.get(path, 0), site.busy[path])
        try:
            self._answer(send_body=True)
        finally:
            with site.mutex:
                site.busy[path] -= 1

    def _answer(self, *, send_body: bool) -> None:
        site, path, wanted = self.server, unquote(self.path.partition("?")[0]), self.headers.get("Range")
        with site.mutex:
            site.seen.append(Request(method=self.command, path=path, range=wanted, headers=dict(self.headers.items())))
        if site.password is not None and not self._knows(site.password):
            self._send(401, {"WWW-Authenticate": 'Basic realm="index"'}, b"", send_body=send_body)
            return
        site.before(path)
        fault = site.fault(path)
        kind, data = site.files.get(path, ("text/plain", b""))
        status = fault.status or (200 if path in site.files else 404)
        headers = {"Content-Type": kind, **fault.headers}
        body = data if fault.body is None else fault.body
        if status >= 400:
            body = b"no"
        elif wanted and fault.ranges:
            first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
            headers.setdefault("Content-Range", f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}")
            status, body = (206, body[first : last + 1]) if first < len(body) else (416, b"")
        self._send(status, headers, body, send_body=send_body, fault=fault)

    def _send(
        self, status: int, headers: Mapping[str, str], body: bytes, *, send_body: bool, fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if not send_body:
            return
        fault = fault or Fault()
        short = fault.cut if fault.cut is not None else fault.stall
        try:
            self.wfile.write(body[:short])
            self.wfile.flush()
        except OSError:
            self.close_connection = True
            return
        if fault.stall is not None:
            self.server.closing.wait(60)
        if short is not None:
            self.close_connection = True

    def _knows(self, password: str) -> bool:
        expected = "Basic " + base64.b64encode(password.encode()).decode()
        return self.headers.get("Authorization") == expected

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def site() -> Iterator[Site]:
    with serving(Site()) as server:
        yield server


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """In a thread of its own; what waits for `closing` is let go at the end."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def wheel(
    filename: str,
    *,
    requires: Sequence[str] = (),
    content: str = "",
    more: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> bytes:
    """A tiny valid wheel; `content` makes two of the same name differ, `more` and `files` are added to its module."""
    name, version, _, tags = parse_wheel_filename(filename)
    module, info = name.replace("-", "_"), "-".join(filename.split("-")[:2]) + ".dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    members: dict[str, str | bytes] = {
        f"{module}/__init__.py": f"# {content}\n",
        **(more or {}),
        **(files or {}),
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        + "".join(f"Tag: {tag}\n" for tag in sorted(map(str, tags))),
    }
    data = {path: text.encode() if isinstance(text, str) else text for path, text in members.items()}
    record = "".join(f"{path},sha256={_hash(part)},{len(part)}\n" for path, part in data.items())
    data[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, part in data.items():
            archive.writestr(zipfile.ZipInfo(path), part)
    return buffer.getvalue()


def torch_wheel(
    filename: str,
    *,
    requires: Sequence[str] = (),
    cuda: str | None = None,
    hip: str | None = None,
    xpu: str | None = None,
    files: Mapping[str, bytes] | None = None,
) -> bytes:
    """A torch that is nothing but what is read from its wheel: what it is built for, and GPU architectures if CUDA."""
    version = parse_wheel_filename(filename)[1]
    said = {"cuda": cuda, "hip": hip, "xpu": xpu}
    lines = [f"__version__ = '{version}'", *(f"{name}: Optional[str] = {text!r}" for name, text in said.items())]
    library = "\x7fELF\0sm_80 sm_90 compute_90\0" if cuda else "\x7fELF\0"
    more = {"torch/version.py": "\n".join(lines) + "\n", "torch/lib/libtorch_python.so": library}
    return wheel(filename, requires=requires, more=more, files=files)


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
