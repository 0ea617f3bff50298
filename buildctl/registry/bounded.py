"""The body of an answer with an end: so many bytes, so many seconds, and no encoding we did not ask for."""

from __future__ import annotations

import io
import time

import requests

_PIECE = 1 << 16


class EndlessError(Exception):
    """The body is longer than allowed, takes longer, or is encoded so that its length is hidden."""


def read_body(answer: requests.Response, *, limit: int, seconds: float) -> bytes:
    """The whole body. Raises EndlessError, else what requests and urllib3 raise for a broken connection."""
    coding = answer.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() not in {"", "identity"}:
        raise EndlessError(f"the response has the encoding {coding[:40]!r}, which was not requested")
    data, end = bytearray(), time.monotonic() + seconds
    while piece := answer.raw.read1(_PIECE, decode_content=False):  # what is there; `read` waits for all of it
        data += piece
        if len(data) > limit:
            raise EndlessError(f"the response exceeds the limit of {limit} bytes")
        if time.monotonic() > end:
            raise EndlessError(f"the response took longer than {seconds:.0f} s")
    return bytes(data)


def keep_body(answer: requests.Response, data: bytes) -> None:
    """Release the connection; from now on `answer.content` returns `data`."""
    answer.raw.release_conn()
    answer.raw = io.BytesIO(data)
    assert answer.content == data  # noqa: S101 - requests keeps it from here on
