"""The list of GPU architectures in a library, after any text and in any pieces; what could be two lists is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, cast

import pytest
import requests
import urllib3

from buildctl.ground.errors import ArtifactError
from buildctl.lock.torch_wheel import RangedFile, architectures
from tests.support.torch_releases import read_table

LIST = b"sm_70 sm_75 sm_80 sm_86 sm_90 sm_100 sm_120\0"
WORDS = tuple(LIST[:-1].decode().split())
# What stands before the list in torch's own wheels: zeros, the end of a string, a constant without NUL.
REAL = {
    "2.5.1": b"ls.h\0\0\0\0\0\0\0\0",
    "2.6.0, 2.7": b"C10Utils.h\0\0",
    "2.8.0, 2.9": b"_handle(Device device, std::string ipc_h",
    "2.10.0 and later": b"bi_1\0\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("before", REAL.values(), ids=REAL)
def test_the_list_is_found_whatever_stands_before_it_in_the_wheels(before: bytes) -> None:
    assert architectures([b"\x7fELF" + before + LIST + b"/pytorch\0"], "x") == WORDS


@pytest.mark.parametrize(
    "before",
    [b"sm_", b"sm_9", b"sm_90", b"compute_", b"compute_90", b"compute_90 ", b"arch=compute_70,code=", b"sm_70  ",
     b"sm_90,", b"sm_70 sm_75 sm_8", b" ", b"\xff", b"7"],
)  # fmt: skip
def test_text_that_resembles_a_list_is_not_taken_for_one(before: bytes) -> None:
    assert architectures([b"\0" + before + LIST], "x") == WORDS


@pytest.mark.parametrize(
    "words",
    [
        "sm_90",
        "sm_50 sm_86 compute_86",
        "sm_90 sm_90a sm_100f compute_90 compute_120",
        "sm_80 sm_90 sm_100 sm_110 sm_120",
    ],
)
def test_lists_of_every_kind(words: str) -> None:
    assert architectures([f"text{words}\0".encode()], "x") == tuple(words.split())


@pytest.mark.parametrize("step", [1, 2, 7, 16, 4096])
@pytest.mark.parametrize("long", [b"", b"x" * 9000])
def test_the_pieces_in_which_it_comes_do_not_matter(step: int, long: bytes) -> None:
    data = b"junk\0compute_at\0" + long + b"ipc_h" + LIST + b"more\0" + bytes(5000)

    def chunks() -> Iterator[bytes]:
        yield from (data[at : at + step] for at in range(0, len(data), step))

    assert architectures(chunks(), "x") == WORDS


def test_one_architecture_alone_is_no_list_where_there_is_a_list() -> None:
    assert architectures([b"\0sm_90a\0compute_90\0is_sm_80\0" + LIST], "x") == WORDS


def test_the_same_list_twice_is_one() -> None:
    assert architectures([b"a" + LIST + b"\0" + LIST], "x") == WORDS


def test_a_string_that_has_no_end_is_no_list() -> None:
    with pytest.raises(ArtifactError, match="0 lists of GPU architectures"):
        architectures([LIST[:-1], b" and more\0", LIST[:-1]], "x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b"\0sm_70 sm_80\0" + LIST,
            "2 lists of GPU architectures instead of one\n  sm_70 sm_75 .*\n  sm_70 sm",
        ),
        (b"\0sm_70\0sm_80\0", "2 lists"),
        (b"compute_70 compute_80\0", "0 lists"),
        (b"sm_90 " + LIST, "from the text before it: sm_90 sm_70"),
        (b"sm_50 compute_50 " + LIST, "cannot separate the list of GPU architectures from the text before it"),
        (b"sm_80 sm_80 sm_90\0", "cannot separate the list of GPU architectures from the text before it"),
    ],
    ids=["two", "two words", "PTX alone", "a word more", "a list that ends in a list", "one twice"],
)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=f"^lib: .*{words}"):
        architectures([data], "lib")


def test_a_long_run_costs_no_long_search() -> None:
    """Hours, if every word of a run were a start that is followed to the end of it."""
    with pytest.raises(ArtifactError, match="0 lists"):
        architectures([b"sm_90 " * 1_000_000 + b"x\0"], "x")


def test_the_table_of_releases_has_a_list_for_every_cuda_build() -> None:
    table = read_table()
    assert {"2.5.1 linux/amd64", "2.8.0 linux/amd64", "2.9.0 linux/amd64", "2.9.1 linux/amd64"} < table.keys()
    for name, facts in table.items():
        assert bool(facts["gpu_architectures"]) == bool(facts["said"].get("cuda")), name
        assert facts["torch"].partition("+")[0] == name.partition(" ")[0]


class Endless(requests.adapters.BaseAdapter):
    """A server that has no end; the bytes that were taken."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status, self.taken = status, 0

    def read(self, size: int = 1 << 20) -> bytes:
        self.taken += size
        assert self.taken < 64 << 20
        return bytes(size)

    def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        found = requests.Response()
        found.request, found.url = request, str(request.url)
        found.status_code, found.raw = (
            self.status,
            urllib3.HTTPResponse(cast(IO[bytes], self), status=self.status, preload_content=False),
        )
        return found

    read1, closed = read, False

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("status", "said"), [(200, "does not support ranges"), (206, "the response exceeds the limit of 100 bytes")]
)
def test_a_server_that_sends_more_than_was_asked_for_is_not_read_to_the_end(status: int, said: str) -> None:
    server, file = Endless(status), RangedFile("https://index.invalid/torch.whl", 100)
    file.session.mount("https://", server)
    with pytest.raises(OSError, match=said):
        file.read(100)
    assert server.taken <= 4 << 20
