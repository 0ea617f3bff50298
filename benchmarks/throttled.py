"""A slow network on loopback: a TCP proxy that counts bytes and lets so many a second through, for all connections."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_PIECE = 1 << 16  # bytes: what a pipe holds
_BURST = 0.02  # seconds of bytes that may come at once


@dataclass(slots=True, kw_only=True)
class Wire:
    """`rate` in bytes a second of what comes down, 0 without a limit; `up` and `down` are bytes so far."""

    netloc: str
    rate: float = 0
    up: int = 0
    down: int = 0
    free: float = 0  # when the next byte may come
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def passed(self, count: int, *, down: bool) -> None:
        """Count, and wait until bytes that come down may be there."""
        with self.mutex:
            if not down:
                self.up += count
                return
            self.down += count
            if not self.rate:
                return
            now = time.monotonic()
            self.free = max(self.free, now - _BURST) + count / self.rate
            wait = self.free - now
        if wait > 0:
            time.sleep(wait)


@contextmanager
def throttled(host: str, port: int, rate: float = 0) -> Iterator[Wire]:
    """A listener on loopback in front of HOST:PORT. Servers behind it see the name that clients used."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        wire = Wire(netloc=f"127.0.0.1:{listener.getsockname()[1]}", rate=rate)
        threading.Thread(target=_serve, args=(listener, host, port, wire), daemon=True).start()
        yield wire
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, host: str, port: int, wire: Wire) -> None:
    while True:
        try:
            client, _ = listener.accept()
            server = socket.create_connection((host, port))
        except OSError:
            return
        for source, target, down in ((client, server, False), (server, client, True)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pump, args=(source, target, wire, down), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, wire: Wire, down: bool) -> None:
    """Through a pipe in the kernel: what is measured is not the copying of this proxy."""
    read, write = os.pipe()
    with suppress(OSError):
        while count := os.splice(source.fileno(), write, _PIECE):
            wire.passed(count, down=down)
            while count:
                count -= os.splice(read, target.fileno(), count)
    os.close(read)
    os.close(write)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
