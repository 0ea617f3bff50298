"""Downloads from a server on loopback that does what servers do on bad days."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from buildctl.artifacts import download as download_module
from buildctl.artifacts import partial
from buildctl.artifacts.debian.package import DebPackage
from buildctl.artifacts.download import Download, download
from buildctl.artifacts.store import Store
from buildctl.console.progress import Silent, Task
from buildctl.ground.errors import ArtifactError, EngineError, FetchError
from buildctl.ground.net import Patience
from buildctl.lock.fetch import fetch_debs
from buildctl.oci.digest import Digest
from tests.support.servers import Fault, Site, site

PART = 64 << 10
QUICK = Patience(connect=2, read=0.5, attempts=4, backoff=0.01, longest_wait=5)


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "PART", PART)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Count:
    """A progress that adds up what it is told."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def add(self, label: str, total: int, *, exact: bool = True) -> Task:
        self.total += total
        return self

    def of(self, verb: str) -> Count:
        return self

    def advance(self, n: int) -> None:
        self.done += n

    def finish(self) -> None:
        pass


def content(size: int, seed: str = "x") -> bytes:
    """Bytes that do not repeat, so that two swapped parts show."""
    out = b"".join(hashlib.sha256(f"{seed}{n}".encode()).digest() for n in range(size // 32 + 1))
    return out[:size]


def item(server: Site, path: str, data: bytes, *more: str) -> Download:
    url = server.put(path, data)
    return Download(label=path.strip("/"), urls=(url, *more), size=len(data), digest=Digest.of(data))


def get(store: Store, *items: Download, patience: Patience = QUICK, connections: int = 8) -> Count:
    count = Count()
    download(items, store=store, progress=count, patience=patience, connections=connections)
    for wanted in items:
        path = store.artifact(wanted.digest)
        assert path is not None
        assert Digest.of_file(path) == wanted.digest
    assert list((store.root / "partial").iterdir()) == []
    return count


def ranges(server: Site, path: str) -> list[tuple[int, int] | None]:
    """(first, last) of each request for `path`, None for one of the whole file."""
    out: list[tuple[int, int] | None] = []
    for request in server.seen:
        if request.path == path:
            first, _, last = (request.range or "").removeprefix("bytes=").partition("-")
            out.append((int(first), int(last)) if request.range else None)
    return out


BIG = content(PART * 7 + 1234)
SMALL = content(1000, "small")


def test_big_and_small_files_arrive_whole_and_are_counted_once(server: Site, store: Store) -> None:
    items = [
        item(server, f"/{n}", content(size, str(n))) for n, size in enumerate((0, 1, PART, PART + 1, 9 * PART + 7))
    ]
    count = get(store, *items)
    assert count.done == count.total == sum(i.size for i in items)


def test_a_big_file_comes_in_ranges_over_several_connections(server: Site, store: Store) -> None:
    get(store, item(server, "/big", BIG))
    asked = ranges(server, "/big")
    assert len(asked) == 8
    assert sorted(r for r in asked if r)[:2] == [(0, PART - 1), (PART, 2 * PART - 1)]


def test_a_small_file_is_asked_for_without_a_range(server: Site, store: Store) -> None:
    get(store, item(server, "/small", SMALL))
    assert ranges(server, "/small") == [None]


def test_nothing_is_asked_for_what_is_there(server: Site, store: Store) -> None:
    wanted = item(server, "/small", SMALL)
    get(store, wanted)
    server.seen.clear()
    get(store, wanted)
    assert server.seen == []


def test_after_a_cut_connection_only_the_rest_is_asked_for(server: Site, store: Store) -> None:
    server.faults["/small"] = [Fault(cut=300)]
    count = get(store, item(server, "/small", SMALL))
    assert ranges(server, "/small") == [None, (300, 999)]
    assert count.done == 1000


def test_many_cuts_in_many_parts(server: Site, store: Store) -> None:
    server.faults["/big"] = [Fault(cut=n * 777) for n in range(20)]
    count = get(store, item(server, "/big", BIG), patience=Patience(attempts=25, backoff=0.001, read=1))
    assert count.done == len(BIG)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_answer_that_says_later_is_tried_again(server: Site, store: Store, status: int) -> None:
    server.faults["/small"] = [Fault(status=status)] * 2
    get(store, item(server, "/small", SMALL))
    assert len(server.seen) == 3


def test_retry_after_in_seconds_is_waited_for(server: Site, store: Store) -> None:
    server.faults["/small"] = [Fault(status=429, headers={"Retry-After": "1"})]
    began = time.monotonic()
    get(store, item(server, "/small", SMALL))
    assert 0.95 < time.monotonic() - began < 4


def test_retry_after_as_a_date_is_waited_for(server: Site, store: Store) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.faults["/small"] = [Fault(status=503, headers={"Retry-After": when})]
    began = time.monotonic()
    get(store, item(server, "/small", SMALL))
    assert 0.5 < time.monotonic() - began < 5


def test_retry_after_an_hour_is_not_waited_for(server: Site, store: Store) -> None:
    server.always["/small"] = Fault(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(FetchError, match="3600 s") as caught:
        get(store, item(server, "/small", SMALL))
    assert not caught.value.vanished


def test_a_server_that_never_recovers_is_given_up_after_the_attempts(server: Site, store: Store) -> None:
    server.always["/small"] = Fault(status=500)
    with pytest.raises(FetchError, match="500 Internal Server Error, 4 times in a row") as caught:
        get(store, item(server, "/small", SMALL))
    assert not caught.value.vanished
    assert len(server.seen) == QUICK.attempts


def test_a_stalled_body_is_dropped_and_continued(server: Site, store: Store) -> None:
    server.faults["/small"] = [Fault(stall=400)]
    began = time.monotonic()
    get(store, item(server, "/small", SMALL))
    assert time.monotonic() - began < 5
    assert len(server.seen) == 2


def test_a_body_that_always_stalls_ends_in_an_error(server: Site, store: Store) -> None:
    server.always["/small"] = Fault(stall=0)
    began = time.monotonic()
    with pytest.raises(FetchError, match="timed out waiting for data"):
        get(store, item(server, "/small", SMALL))
    assert time.monotonic() - began < 10


def test_nobody_listening_is_an_error_and_not_vanished(store: Store) -> None:
    wanted = Download(label="x", urls=("http://127.0.0.1:9/x",), size=1, digest=Digest.of(b"x"))
    with pytest.raises(FetchError, match="cannot fetch x") as caught:
        get(store, wanted)
    assert not caught.value.vanished


def test_where_nobody_has_ever_answered_is_given_up_before_all_attempts(store: Store) -> None:
    wanted = Download(label="x", urls=("http://127.0.0.1:9/x",), size=1, digest=Digest.of(b"x"))
    with pytest.raises(FetchError, match="3 times in a row"):
        get(store, wanted, patience=Patience(attempts=6, backoff=0.01))


def test_wrong_bytes_once_are_fetched_again_past_caches(server: Site, store: Store) -> None:
    server.faults["/small"] = [Fault(body=content(1000, "evil"))]
    count = get(store, item(server, "/small", SMALL))
    assert [request.headers.get("Cache-Control") for request in server.seen] == [None, "no-cache"]
    assert count.done == 1000


def test_a_wrong_byte_in_one_part_of_a_big_file_is_found(server: Site, store: Store) -> None:
    evil = bytearray(BIG)
    evil[3 * PART + 5] ^= 1
    server.faults["/big"] = [Fault(body=bytes(evil))] * 8
    count = get(store, item(server, "/big", BIG))
    assert len(server.seen) == 16
    assert count.done == len(BIG)


def test_wrong_bytes_twice_are_refused_with_both_digests(server: Site, store: Store) -> None:
    evil = content(1000, "evil")
    server.always["/small"] = Fault(body=evil)
    wanted = item(server, "/small", SMALL)
    with pytest.raises(ArtifactError) as caught:
        get(store, wanted)
    for text in ("small", Digest.of(evil).hex, wanted.digest.hex):
        assert text in caught.value.message
    assert store.artifact(wanted.digest) is None
    assert list((store.root / "partial").iterdir()) == []


@pytest.mark.parametrize("size", [999, 1001, 5000])
def test_a_file_of_another_size_is_refused(server: Site, store: Store, size: int) -> None:
    server.always["/small"] = Fault(body=content(size, "small"))
    with pytest.raises(ArtifactError, match=f"size {size}, the lock has 1000"):
        get(store, item(server, "/small", SMALL))


@pytest.mark.parametrize("size", [PART * 3, PART * 7, PART * 20])
def test_a_big_file_of_another_size_is_refused(server: Site, store: Store, size: int) -> None:
    server.always["/big"] = Fault(body=content(size))
    with pytest.raises(ArtifactError, match=f"size {size}, the lock has {len(BIG)}"):
        get(store, item(server, "/big", BIG))


def test_a_body_longer_than_announced_range_is_refused(server: Site, store: Store) -> None:
    """Without Content-Length nothing is known until too much has come."""
    server.always["/small"] = Fault(
        body=SMALL + b"more", headers={"Content-Length": "", "Connection": "close"}, cut=len(SMALL) + 4
    )
    with pytest.raises(ArtifactError, match="more than 1000 bytes"):
        get(store, item(server, "/small", SMALL))


def test_a_body_of_unknown_length_that_ends_early_is_continued(server: Site, store: Store) -> None:
    server.faults["/small"] = [Fault(headers={"Content-Length": "", "Connection": "close"}, cut=400)]
    get(store, item(server, "/small", SMALL))
    assert ranges(server, "/small") == [None, (400, 999)]


def test_a_server_without_ranges_has_one_reader(server: Site, store: Store) -> None:
    server.always["/big"] = Fault(ranges=False)
    count = get(store, item(server, "/big", BIG))
    assert server.busiest["/big"] == 1
    assert len(server.seen) == 1
    assert count.done == len(BIG)


def test_a_server_without_ranges_that_cuts_starts_over(server: Site, store: Store) -> None:
    server.always["/big"] = Fault(ranges=False)
    server.faults["/big"] = [Fault(ranges=False, cut=PART * 2 + 99), Fault(ranges=False, cut=PART * 5)]
    count = get(store, item(server, "/big", BIG))
    assert len(server.seen) == 3
    assert count.done == len(BIG)


def test_a_server_that_stops_giving_ranges_never_corrupts(server: Site, store: Store) -> None:
    server.faults["/big"] = [Fault(), Fault()]
    server.always["/big"] = Fault(ranges=False)
    with pytest.raises(FetchError, match="no longer supports ranges"):
        get(store, item(server, "/big", BIG))
    get(store, item(server, "/big", BIG))  # the next run begins with finding that out


def test_another_range_than_asked_for_is_not_written(server: Site, store: Store) -> None:
    headers = {"Content-Range": f"bytes 5-{PART + 4}/{len(BIG)}"}
    server.faults["/big"] = [Fault(body=BIG[5:] + BIG[:5], headers=headers)]
    get(store, item(server, "/big", BIG))
    assert len(server.seen) == 9  # noticed at once, not by the digest at the end


def test_a_compressed_answer_is_not_unpacked(server: Site, store: Store) -> None:
    data = gzip.compress(b"x" * 5000)
    server.always["/x.gz"] = Fault(headers={"Content-Encoding": "gzip"})
    get(store, item(server, "/x.gz", data))


@pytest.mark.parametrize("status", [404, 410])
def test_gone_everywhere_is_vanished(server: Site, store: Store, status: int) -> None:
    server.always["/a"] = server.always["/b"] = Fault(status=status)
    with pytest.raises(FetchError) as caught:
        get(store, item(server, "/a", SMALL, server.put("/b", SMALL)))
    assert caught.value.vanished
    assert len(server.seen) == 2


def test_gone_here_and_broken_there_is_not_vanished(server: Site, store: Store) -> None:
    server.always["/a"], server.always["/b"] = Fault(status=404), Fault(status=500)
    with pytest.raises(FetchError) as caught:
        get(store, item(server, "/a", SMALL, server.put("/b", SMALL)))
    assert not caught.value.vanished


def test_the_second_source_is_asked_when_the_first_has_it_not(server: Site, store: Store) -> None:
    server.always["/a"] = Fault(status=404)
    get(store, item(server, "/a", SMALL, server.put("/b", SMALL)))


def test_the_second_source_continues_where_the_first_broke_off(server: Site, store: Store) -> None:
    server.faults["/a"] = [Fault(cut=600)]
    server.always["/a"] = Fault(status=503)
    get(store, item(server, "/a", SMALL, server.put("/b", SMALL)))
    assert ranges(server, "/b") == [(600, 999)]


def test_after_wrong_bytes_another_source_is_asked_first(server: Site, store: Store) -> None:
    server.always["/a"] = Fault(body=content(1000, "evil"))
    get(store, item(server, "/a", SMALL, server.put("/b", SMALL)))


@pytest.mark.parametrize("status", [401, 403])
def test_missing_credentials_are_not_tried_again_and_have_a_hint(server: Site, store: Store, status: int) -> None:
    server.always["/small"] = Fault(status=status)
    with pytest.raises(FetchError) as caught:
        get(store, item(server, "/small", SMALL))
    assert caught.value.hint
    assert "credentials" in caught.value.hint
    assert len(server.seen) == 1


def test_a_password_in_the_url_is_used_and_never_shown(server: Site, store: Store) -> None:
    server.password = "someone:secret"
    wanted = item(server, "/small", SMALL)
    url = wanted.urls[0].replace("http://", "http://someone:secret@")
    get(store, Download(label="small", urls=(url,), size=1000, digest=wanted.digest))
    server.always["/other"] = Fault(status=500)
    with pytest.raises(FetchError) as caught:
        get(store, Download(label="o", urls=(url.replace("small", "other"),), size=1, digest=Digest.of(b"o")))
    assert "secret" not in caught.value.message


def test_one_failure_ends_the_run_and_keeps_what_is_whole(server: Site, store: Store) -> None:
    good = [item(server, f"/{n}", content(2 * PART, str(n))) for n in range(5)]
    server.always["/bad"] = Fault(status=404)
    with pytest.raises(FetchError):
        get(store, *good, item(server, "/bad", SMALL), connections=1)
    assert all(store.artifact(i.digest) for i in good)  # the biggest go first


def test_files_on_this_machine(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a b.whl").write_bytes(BIG)
    url = (tmp_path / "a b.whl").as_uri()
    get(store, Download(label="a", urls=(url,), size=len(BIG), digest=Digest.of(BIG)))
    with pytest.raises(FetchError) as caught:
        get(store, Download(label="b", urls=(url + "x",), size=1, digest=Digest.of(b"b")))
    assert caught.value.vanished


# Stopped, and continued.

CHILD = """
import sys
from pathlib import Path
from buildctl.artifacts import partial
partial.PART = {part}
from buildctl.artifacts.download import Download, download
from buildctl.oci.digest import Digest
from buildctl.console.progress import Silent
from buildctl.artifacts.store import Store
size, digest, url, root = int(sys.argv[1]), Digest(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
item = Download(label="big", urls=(url,), size=size, digest=digest)
download([item], store=Store(root), progress=Silent(), connections=2)
"""


def child(wanted: Download, store: Store) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", CHILD.format(part=PART), str(wanted.size), wanted.digest.hex, *wanted.urls]
    return subprocess.Popen([*argv, str(store.root)], stderr=subprocess.PIPE, start_new_session=True)


def wait_for(server: Site, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(server.seen) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)


def test_after_a_kill_only_what_is_missing_is_fetched(server: Site, store: Store) -> None:
    wanted = item(server, "/big", BIG)
    server.faults["/big"] = [Fault()] * 4 + [Fault(stall=100)] * 4
    process = child(wanted, store)
    wait_for(server, 6)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert store.artifact(wanted.digest) is None
    server.seen.clear()
    server.faults.clear()
    count = get(store, wanted)
    assert len(server.seen) == 4
    assert count.done == len(BIG)


def test_ctrl_c_ends_at_once_and_leaves_a_partial_that_continues(server: Site, store: Store) -> None:
    wanted = item(server, "/big", BIG)
    server.faults["/big"] = [Fault()] * 3 + [Fault(stall=0)] * 5
    process = child(wanted, store)
    wait_for(server, 5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert time.monotonic() - began < 6
    assert b"KeyboardInterrupt" in stderr
    server.seen.clear()
    server.faults.clear()
    get(store, wanted)
    assert len(server.seen) == 5


def test_four_processes_at_once_fetch_it_once(server: Site, store: Store) -> None:
    wanted = item(server, "/big", BIG)
    server.faults["/big"] = [Fault(status=503, headers={"Retry-After": "1"})]  # time for the others to come
    processes = [child(wanted, store) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    for process in processes:
        process.communicate()
    assert len(server.seen) == 9
    path = store.artifact(wanted.digest)
    assert path is not None
    assert path.read_bytes() == BIG


def leave_partial(store: Store, data: bytes, journal: str) -> None:
    folder = store.root / "partial"
    folder.mkdir(parents=True)
    (folder / Digest.of(BIG).hex).write_bytes(data)
    (folder / f"{Digest.of(BIG).hex}.parts").write_text(journal)


def test_a_partial_with_other_bytes_than_its_journal_says_is_found(server: Site, store: Store) -> None:
    """A power cut may lose data that the journal already counts."""
    leave_partial(store, bytes(PART) + BIG[PART:], f"{PART}\n0\n1\n2\n")
    get(store, item(server, "/big", BIG))
    assert len(server.seen) == 5 + 8


def test_a_journal_line_that_was_cut_short_is_not_believed(server: Site, store: Store) -> None:
    leave_partial(store, BIG[:PART] + bytes(len(BIG) - PART), f"{PART}\n0\n1")
    get(store, item(server, "/big", BIG))
    assert len(server.seen) == 7


@pytest.mark.parametrize("journal", ["", "junk", "1024\n0\n1\n", f"{PART}\n99\n-1\nx\n"])
def test_a_journal_that_makes_no_sense_is_ignored(server: Site, store: Store, journal: str) -> None:
    leave_partial(store, bytes(len(BIG)), journal)
    get(store, item(server, "/big", BIG))
    assert len(server.seen) == 8


def test_a_partial_of_another_size_is_ignored(server: Site, store: Store) -> None:
    leave_partial(store, BIG[: 3 * PART], f"{PART}\n0\n1\n2\n")
    get(store, item(server, "/big", BIG))
    assert len(server.seen) == 8


def test_killed_between_the_last_byte_and_the_rename(server: Site, store: Store) -> None:
    leave_partial(store, BIG, f"{PART}\n" + "".join(f"{n}\n" for n in range(8)))
    get(store, item(server, "/big", BIG))
    assert server.seen == []


# the disk


def test_too_little_space_is_said_before_anything_is_fetched(
    server: Site, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(EngineError, match=r"not enough space .* needed, 0 MB free"):
        get(store, item(server, "/big", BIG))
    assert server.seen == []


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: mounting a small tmpfs needs root")
def test_a_disk_that_fills_up_is_an_error_with_the_path(
    server: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], check=False).returncode:
        pytest.skip("NOT RUN: mount is not allowed here")
    try:
        monkeypatch.setattr(download_module, "prepare", lambda store, needed: partial.folder(store).mkdir())
        with pytest.raises(EngineError, match=f"no space left for downloads: {small}/partial") as caught:
            get(Store(small), item(server, "/big", BIG))
        assert caught.value.hint
        assert not (small / "artifacts").exists()
    finally:
        subprocess.run(["umount", "-l", small], check=True)


# Debian packages


def deb(data: bytes, *, archive: str = "debian") -> DebPackage:
    return DebPackage(
        name="dash",
        version="0.5",
        architecture="amd64",
        archive=archive,
        filename="pool/main/d/dash/dash_0.5_amd64.deb",
        size=len(data),
        digest=Digest.of(data),
    )


def test_debian_packages_come_from_the_mirrors_of_their_archive(server: Site, store: Store) -> None:
    plain, security = deb(SMALL), deb(BIG, archive="debian-security")
    server.put(f"/debian/{plain.filename}", SMALL)
    server.put(f"/security/{plain.filename}", BIG)
    mirrors = {
        "debian": [f"{server.url}/empty", f"{server.url}/debian/"],
        "debian-security": [f"{server.url}/security"],
    }
    fetch_debs([plain, security], store=store, mirrors=mirrors, progress=Silent(), patience=QUICK)
    assert store.artifact(plain.digest)
    assert store.artifact(security.digest)


def test_a_debian_package_gone_from_every_mirror_is_vanished(server: Site, store: Store) -> None:
    mirrors = {"debian": [f"{server.url}/a", f"{server.url}/b"]}
    with pytest.raises(FetchError, match=r"dash_0\.5_amd64\.deb") as caught:
        fetch_debs([deb(SMALL)], store=store, mirrors=mirrors, progress=Silent(), patience=QUICK)
    assert caught.value.vanished


def test_an_archive_without_a_mirror_is_an_error_and_not_vanished(store: Store) -> None:
    with pytest.raises(FetchError, match="no mirror configured") as caught:
        fetch_debs([deb(SMALL)], store=store, mirrors={}, progress=Silent())
    assert not caught.value.vanished
