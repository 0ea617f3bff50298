"""One attempt, judged by its answer. Real servers that misbehave: tests/integration/lock/test_fetch_faults.py."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests
import urllib3

from buildctl.artifacts.transfer import GoneError, OtherFileError, RetryError, SourceRefusedError, open_range
from buildctl.ground.net import Patience

DATA = bytes(range(200))
URL = "http://index.example/torch.whl"


class Answering(requests.adapters.BaseAdapter):
    """What a server says, without one; the requests that came."""

    def __init__(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        super().__init__()
        self.status, self.body, self.headers = status, body, headers
        self.asked: list[requests.PreparedRequest] = []

    def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        self.asked.append(request)
        raw = urllib3.HTTPResponse(
            io.BytesIO(self.body), status=self.status, headers=self.headers, preload_content=False
        )
        found = requests.Response()
        found.status_code, found.reason, found.raw, found.url = self.status, "Reason", raw, URL
        found.headers.update(self.headers)
        return found

    def close(self) -> None:
        pass


def taken(server: Answering, start: int = 0, end: int = len(DATA), *, fresh: bool = False) -> tuple[bool, bytes]:
    with requests.Session() as session:
        session.mount("http://", server)
        with open_range(session, URL, start, end, len(DATA), patience=Patience(longest_wait=60), fresh=fresh) as body:
            return body.ranged, b"".join(body.chunks)


def part(start: int, end: int, size: int | str = len(DATA)) -> dict[str, str]:
    return {"Content-Range": f"bytes {start}-{end - 1}/{size}"}


def test_a_range_is_asked_for_and_given() -> None:
    server = Answering(206, DATA[50:100], part(50, 100))
    assert taken(server, 50, 100) == (True, DATA[50:100])
    assert server.asked[0].headers["Range"] == "bytes=50-99"
    assert "Cache-Control" not in server.asked[0].headers


def test_the_whole_file_is_asked_for_without_a_range() -> None:
    server = Answering(200, DATA, {"Content-Length": str(len(DATA))})
    assert taken(server, fresh=True) == (True, DATA)
    assert "Range" not in server.asked[0].headers
    assert server.asked[0].headers["Cache-Control"] == "no-cache"


def test_a_source_without_ranges_gives_the_whole_file() -> None:
    assert taken(Answering(200, DATA), 50, 100) == (False, DATA)


@pytest.mark.parametrize(
    ("status", "headers", "error", "words"),
    [
        (404, {}, GoneError, "404"),
        (410, {}, GoneError, "410"),
        (503, {}, RetryError, "503"),
        (429, {"Retry-After": "7"}, RetryError, "429"),
        (429, {"Retry-After": "3600"}, SourceRefusedError, "it asks us to wait 3600 s"),
        (401, {}, SourceRefusedError, "401"),
        (403, {}, SourceRefusedError, "403"),
        (418, {}, SourceRefusedError, "418"),
        (416, {}, OtherFileError, "it has no bytes 50-99"),
        (206, {}, RetryError, "a different range than requested"),
        (206, part(0, 100), RetryError, "a different range than requested"),
        (206, part(50, 100, 999), OtherFileError, "size 999, the lock has 200"),
        (206, {"Content-Range": f"bytes {'9' * 5000}-7/8"}, RetryError, "a different range than requested"),
        (206, part(50, 100, "9" * 5000), OtherFileError, "size 99999999999999999999, the lock has 200"),
        (200, {"Content-Length": "9"}, OtherFileError, "size 9, the lock has 200"),
    ],
)
def test_every_other_answer_has_its_meaning(
    status: int, headers: Mapping[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        taken(Answering(status, DATA[50:100], headers), 50, 100)


def test_what_the_server_wants_to_wait_is_handed_on() -> None:
    with pytest.raises(RetryError) as caught:
        taken(Answering(429, headers={"Retry-After": "7"}))
    assert caught.value.wait == 7


def test_any_size_is_a_size_that_nobody_knows() -> None:
    assert taken(Answering(206, DATA[50:100], part(50, 100, "*")), 50, 100)[0]


def test_more_than_was_asked_for_is_another_file() -> None:
    with pytest.raises(OtherFileError, match="more than 50 bytes"):
        taken(Answering(206, DATA, part(50, 100)), 50, 100)


def test_what_cannot_be_sent_is_refused() -> None:
    with requests.Session() as session, pytest.raises(SourceRefusedError):
        open_range(session, "gopher://x/y", 0, 1, 1, patience=Patience()).__enter__()
    with pytest.raises(SourceRefusedError, match="Invalid IPv6 URL"):
        taken(Answering(302, headers={"Location": "http://[::1"}))


def test_a_file_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "a file.whl"
    path.write_bytes(DATA)
    url = path.as_uri()
    with requests.Session() as session:
        with open_range(session, url, 50, 100, len(DATA), patience=Patience()) as body:
            assert (body.ranged, b"".join(body.chunks)) == (True, DATA[50:100])
        with pytest.raises(OtherFileError, match="size 200, the lock has 7"):
            open_range(session, url, 0, 7, 7, patience=Patience()).__enter__()
        with pytest.raises(GoneError):
            open_range(session, url + "x", 0, 7, 7, patience=Patience()).__enter__()
