from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from buildctl.artifacts import partial
from buildctl.artifacts.partial import Partial, disk
from buildctl.artifacts.store import Store
from buildctl.ground.errors import EngineError
from buildctl.oci.digest import Digest

DATA = bytes(range(256)) * 10
DIGEST = Digest.of(DATA)


@pytest.fixture
def growing(store: Store, monkeypatch: pytest.MonkeyPatch) -> Partial:
    monkeypatch.setattr(partial, "PART", 1000)
    partial.prepare(store, len(DATA))
    return Partial(store, DIGEST, len(DATA))


def test_parts_in_any_order_are_hashed_in_order(growing: Partial, store: Store) -> None:
    assert growing.open()
    for part in (2, 0, 1):
        start, end = growing.span(part)
        growing.write(DATA[start:end], start)
        growing.finish(part)
    assert growing.settle() == DIGEST
    path = store.artifact(DIGEST)
    assert path is not None
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(partial.folder(store).iterdir()) == []


def test_wrong_bytes_never_get_into_the_store(growing: Partial, store: Store) -> None:
    assert growing.open()
    growing.write(bytes(len(DATA)), 0)
    for part in range(growing.count):
        growing.finish(part)
    assert growing.settle() == Digest.of(bytes(len(DATA)))
    assert store.artifact(DIGEST) is None
    growing.close()


def test_a_second_writer_is_kept_out_until_the_first_is_done(growing: Partial, store: Store) -> None:
    second = Partial(store, DIGEST, len(DATA))
    assert growing.open()
    assert not second.open()
    growing.close()
    assert second.open()
    second.close()


def test_what_was_received_is_taken_up(growing: Partial, store: Store) -> None:
    assert growing.open()
    growing.write(DATA[1000:2000], 1000)
    growing.finish(1)
    growing.close()
    again = Partial(store, DIGEST, len(DATA))
    assert again.open()
    assert again.missing == [0, 2]
    assert again.received == 1000
    again.close()


def test_partials_of_a_month_ago_are_removed(growing: Partial, store: Store) -> None:
    assert growing.open()
    growing.close()
    for path in partial.folder(store).iterdir():
        os.utime(path, (1, 1))
    partial.prepare(store, 0)
    assert list(partial.folder(store).iterdir()) == []


@pytest.mark.parametrize("journal", ["1000\n1\n2", "1000\n1\n99\nx\n"])
def test_a_note_that_was_cut_short_or_cannot_be_is_not_believed(growing: Partial, store: Store, journal: str) -> None:
    assert growing.open()
    growing.close()
    growing.journal.write_text(journal)
    again = Partial(store, DIGEST, len(DATA))
    assert again.open()
    assert again.missing == [0, 2]
    again.close()


def test_parts_of_another_size_are_forgotten(growing: Partial, store: Store) -> None:
    assert growing.open()
    growing.close()
    growing.journal.write_text("16\n1\n")
    again = Partial(store, DIGEST, len(DATA))
    assert again.open()
    assert again.missing == [0, 1, 2]
    again.close()


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EROFS, "cannot write")],
)
def test_what_a_disk_refuses_is_an_error_with_a_hint(number: int, words: str) -> None:
    with pytest.raises(EngineError, match=words) as caught, disk(Path("/place")):
        raise OSError(number, os.strerror(number), "/place")
    assert "BUILDCTL_CACHE" in str(caught.value.hint)


def test_any_other_fault_is_an_error_that_says_where() -> None:
    with pytest.raises(EngineError, match="cannot write /place: Input/output error"), disk(Path("/place")):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
