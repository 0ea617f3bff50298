"""What a program printed last, read while it runs: bounded in memory, however much that is."""

from __future__ import annotations

import collections
import os
import threading
from typing import IO

KEEP = 1 << 20  # bytes of each output stream that are kept, from its end
PIECE = 1 << 16


class Tail:
    """Reads a stream to its end in a thread and keeps the last KEEP bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.pieces: collections.deque[bytes] = collections.deque(maxlen=KEEP // PIECE)
        self.rest = b""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while piece := os.read(self.stream.fileno(), PIECE):
            self.rest += piece
            if len(self.rest) >= PIECE:  # a deque of full pieces bounds bytes, not writes
                self.pieces.append(self.rest)
                self.rest = b""

    def text(self, wait: float | None = None) -> str:
        """Everything kept, when the stream has ended; after `wait` seconds what came until then."""
        self.thread.join(wait)
        if not self.thread.is_alive():
            self.stream.close()
        return b"".join([*self.pieces, self.rest]).decode(errors="replace")
