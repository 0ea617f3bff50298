"""One attempt to get a range of one URL, with four kinds of failure: retry, gone, refused, other file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from buildctl.ground.net import Patience, brief, number, retry_after, unreached

if TYPE_CHECKING:
    import requests  # see ground.net

_CHUNK = 1 << 18
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_GONE = {404, 410}


class RetryError(Exception):
    """One attempt failed, another may succeed. `wait` is what the server asked for, in seconds; `unreached` says that
    no connection came about. `times` is how often it failed in a row.
    """

    def __init__(self, reason: str, *, wait: float | None = None, unreached: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.unreached, self.times = wait, unreached, 1


class GoneError(Exception):
    """The source does not have the file."""


class SourceRefusedError(Exception):
    """The source refuses to serve the file, however often it is asked."""

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


class OtherFileError(Exception):
    """The source has a file of another size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResponse:
    """`ranged`: the requested range. Otherwise the whole file, from its first byte."""

    ranged: bool
    chunks: Iterator[bytes]


@contextlib.contextmanager
def open_range(
    session: requests.Session, url: str, start: int, end: int, size: int, *, patience: Patience, fresh: bool = False
) -> Iterator[FileResponse]:
    """Bytes `start` to `end` of a file of `size` bytes. With `fresh`, asks proxies to revalidate.

    The chunks never yield more than requested, and may end early. A source without ranges serves the whole
    file from 0 (`ranged` is False).
    """
    if url.startswith("file:"):
        with _open_local(url, start, end, size) as body:
            yield body
        return
    import requests
    import urllib3

    headers = {"Cache-Control": "no-cache"} if fresh else {}
    if (start, end) != (0, size):
        headers["Range"] = f"bytes={start}-{end - 1}"
    try:
        answer = session.get(url, headers=headers, stream=True, timeout=(patience.connect, patience.read))
    except requests.exceptions.SSLError as error:
        raise SourceRefusedError(
            brief(error), hint="behind a company proxy, set SSL_CERT_FILE to its CA bundle"
        ) from error
    except (ValueError, requests.TooManyRedirects) as error:  # an address or header that cannot be
        raise SourceRefusedError(brief(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise RetryError(brief(error), unreached=unreached(error)) from error
    with answer:
        ranged = _judge(answer, start, end, size, patience) or "Range" not in headers
        yield FileResponse(ranged=ranged, chunks=_chunks(answer, end - start if ranged else size))


def _judge(answer: requests.Response, start: int, end: int, size: int, patience: Patience) -> bool:
    """Whether the response is the requested range; raises for anything but a body."""
    code = answer.status_code
    if code in _GONE:
        raise GoneError(f"{code} {answer.reason}")
    if code in _BUSY:
        wait = retry_after(answer.headers.get("Retry-After"))
        if wait is not None and wait > patience.longest_wait:
            raise SourceRefusedError(f"{code} {answer.reason}; it asks us to wait {wait:.0f} s", hint="try again later")
        raise RetryError(f"{code} {answer.reason}", wait=wait)
    if code in {401, 403, 407}:
        raise SourceRefusedError(
            f"{code} {answer.reason}", hint="put credentials where pip finds them: netrc, or the index URL"
        )
    if code == 416:
        raise OtherFileError(f"it has no bytes {start}-{end - 1}")
    length = number(answer.headers.get("Content-Length"))
    if code == 206:
        match = re.fullmatch(r"bytes (\d+-\d+)/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if match is None or match[1] != f"{start}-{end - 1}":
            raise RetryError("the response is a different range than requested")
        if match[2] not in {"*", str(size)}:
            raise OtherFileError(f"size {match[2][:20]}, the lock has {size}")
        return True
    if code != 200:
        raise SourceRefusedError(f"{code} {answer.reason}")
    if length not in {None, size}:
        raise OtherFileError(f"size {length}, the lock has {size}")
    return False


def _chunks(answer: requests.Response, wanted: int) -> Iterator[bytes]:
    import requests
    import urllib3

    seen = 0
    try:
        # raw: no decoding, a .gz must stay what it is
        for chunk in answer.raw.stream(_CHUNK, decode_content=False):
            seen += len(chunk)
            if seen > wanted:
                raise OtherFileError(f"more than {wanted} bytes")
            yield chunk
    except (urllib3.exceptions.HTTPError, requests.RequestException, OSError) as error:
        raise RetryError(brief(error)) from error


@contextlib.contextmanager
def _open_local(url: str, start: int, end: int, size: int) -> Iterator[FileResponse]:
    path = Path(unquote(urlsplit(url).path))
    try:
        with path.open("rb") as file:
            if (found := path.stat().st_size) != size:
                raise OtherFileError(f"size {found}, the lock has {size}")
            file.seek(start)
            yield FileResponse(ranged=True, chunks=_read(file, end - start))
    except FileNotFoundError as error:
        raise GoneError("no such file") from error
    except PermissionError as error:
        raise SourceRefusedError(str(error.strerror)) from error


def _read(file: BinaryIO, wanted: int) -> Iterator[bytes]:
    while wanted and (chunk := file.read(min(_CHUNK, wanted))):
        wanted -= len(chunk)
        yield chunk
