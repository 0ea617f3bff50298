"""tar-split: what is in a tar besides the content of its files, so that the same tar can be put together again.

One JSON object a line: a segment has bytes of the tar, a file has a name, a size and the CRC-64/ISO of its content.
Source: vbatts/tar-split, tar/storage and concept/DESIGN.md.
"""

from __future__ import annotations

import base64
import json
from typing import Any

FILE, SEGMENT = 1, 2
CRC_BYTES = 8  # the most significant first


class TarSplit:
    """Collects the lines in the order of the tar."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def segment(self, data: bytes) -> None:
        self._add({"type": SEGMENT, "payload": base64.b64encode(data).decode()})

    def file(self, name: str, size: int, crc: int) -> None:
        """Of every entry, also of those without content."""
        payload = base64.b64encode(crc.to_bytes(CRC_BYTES, "big")).decode() if size else None
        self._add({"type": FILE, "name": name, **({"size": size} if size else {}), "payload": payload})

    def data(self) -> bytes:
        return b"".join(self._lines)

    def _add(self, value: dict[str, Any]) -> None:
        line = json.dumps({**value, "position": len(self._lines)}, separators=(",", ":"), ensure_ascii=False)
        self._lines.append(line.encode() + b"\n")
