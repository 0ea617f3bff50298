"""A package index on loopback that holds exactly the wheels of one lock, served from the store: nothing is downloaded.

BuildKit's steps reach it where they run in the machine's network (`--network host`).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from buildctl.artifacts.store import Store
from buildctl.lock.wheels import LockedWheel

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@contextmanager
def wheelhouse(wheels: Sequence[LockedWheel], store: Store) -> Iterator[str]:
    """The URL of a simple index (PEP 503, as JSON) of `wheels`, which must all be in `store`."""
    files: dict[str, Path] = {}
    for wheel in wheels:
        path = store.artifact(wheel.digest)
        if path is None:
            raise FileNotFoundError(f"{wheel.filename} is not in the store: run `buildctl fetch`")
        files[wheel.filename] = path
    pages = {name: _page(name, wheels) for name in {wheel.name for wheel in wheels}}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, pages=pages, files=files))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _page(name: str, wheels: Sequence[LockedWheel]) -> bytes:
    rows = [
        {"filename": w.filename, "url": f"../../files/{w.filename}", "hashes": {"sha256": w.digest.hex}, "size": w.size}
        for w in wheels
        if w.name == name
    ]
    versions = sorted({w.version for w in wheels if w.name == name})
    return json.dumps({"meta": {"api-version": "1.1"}, "name": name, "versions": versions, "files": rows}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: object, pages: Mapping[str, bytes], files: Mapping[str, Path]) -> None:
        self.pages, self.files = pages, files
        super().__init__(*args)  # type: ignore[arg-type]  # handles the whole connection

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self, *, body: bool) -> None:
        kind, _, name = self.path.strip("/").partition("/")
        with suppress(ConnectionError, TimeoutError):
            if kind == "simple" and name in self.pages:
                page = self.pages[name]
                self._headers(HTTPStatus.OK, len(page), {"Content-Type": "application/vnd.pypi.simple.v1+json"})
                self.wfile.write(page if body else b"")
            elif kind == "files" and name in self.files:
                self._file(self.files[name], body=body)
            else:
                self._headers(HTTPStatus.NOT_FOUND, 0, {})

    def _file(self, path: Path, *, body: bool) -> None:
        size = path.stat().st_size
        first, end, status = 0, size, HTTPStatus.OK
        extra = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        extra["Cache-Control"] = "max-age=31536000, immutable"  # as PyPI says, so that pip's cache does what it does
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked:
            first, end = int(asked[1]), min(int(asked[2] or size - 1) + 1, size)
            status = HTTPStatus.PARTIAL_CONTENT
            extra["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        self._headers(status, end - first, extra)
        if body:
            self.wfile.flush()
            with path.open("rb") as file:
                self.connection.sendfile(file, first, end - first)

    def _headers(self, status: HTTPStatus, length: int, extra: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **extra}.items():
            self.send_header(key, value)
        self.end_headers()
