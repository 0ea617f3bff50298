"""A read-only registry on 127.0.0.1 that serves an OCI layout, so that a daemon on this machine pulls what it lacks.

The part of the distribution specification that `docker pull` uses: manifests and blobs by digest, GET and HEAD, ranges.
"""

from __future__ import annotations

import re
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout

_PATH = re.compile(r"/v2/(?P<name>[a-z0-9-]+)/(?P<kind>manifests|blobs)/sha256:(?P<hex>[0-9a-f]{64})")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(slots=True, kw_only=True)
class Served:
    """A repository with an unguessable name; `sent` counts bytes of blobs."""

    port: int = 0
    name: str
    sent: int = 0
    counting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def repository(self) -> str:
        return f"127.0.0.1:{self.port}/{self.name}"


@contextmanager
def serve(layout: Layout, manifest: Descriptor) -> Iterator[Served]:
    """Serve one image of `layout`, and nothing else of it, until the block ends."""
    name = f"buildctl-{secrets.token_hex(8)}"
    image = layout.manifest(manifest)
    types = {d.digest: str(d.media_type) for d in (manifest, image.config, *image.layers)}
    served = Served(name=name)
    handler = partial(_Handler, layout=layout, types=types, served=served)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    served.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer in two writes waits 40 ms for an acknowledgement

    def __init__(self, *args: object, layout: Layout, types: dict[Digest, str], served: Served) -> None:
        self.layout, self.types, self.served = layout, types, served
        super().__init__(*args)  # type: ignore[arg-type]  # handles the whole connection

    def handle(self) -> None:
        # Docker tries TLS first, and plain HTTP when the answer to its handshake starts with "HTTP/"
        if self.connection.recv(1, socket.MSG_PEEK) == b"\x16":
            self.connection.recv(1 << 16)
            self.connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            return
        super().handle()

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: object) -> None:
        """Quiet: the caller reports progress."""

    def _answer(self, *, body: bool) -> None:
        if self.path.rstrip("/") == "/v2":
            self._headers(HTTPStatus.OK, length=0, kind="application/json")
            return
        match = _PATH.fullmatch(self.path)
        digest = Digest(match["hex"]) if match and match["name"] == self.served.name else None
        path = self.layout.blob_path(digest) if digest in self.types else None
        if digest is None or path is None or not path.is_file():
            self._headers(HTTPStatus.NOT_FOUND, length=0, kind="application/json")
            return
        with suppress(ConnectionError, TimeoutError):
            self._send(path, digest, body=body)

    def _send(self, path: Path, digest: Digest, *, body: bool) -> None:
        size = path.stat().st_size
        start, end = 0, size
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or size - 1) + 1, size)
            if start >= end:
                self._headers(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, length=0, kind="application/json")
                return
        extra = {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if asked else {}
        extra |= {"Docker-Content-Digest": str(digest), "Accept-Ranges": "bytes"}
        status = HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK
        self._headers(status, length=end - start, kind=self.types[digest], **extra)
        if body:
            self.wfile.flush()
            with path.open("rb") as file:
                sent = self.connection.sendfile(file, start, end - start)
            with self.served.counting:
                self.served.sent += sent

    def _headers(self, status: HTTPStatus, *, length: int, kind: str, **extra: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(length), **extra}.items():
            self.send_header(key, value)
        self.end_headers()
