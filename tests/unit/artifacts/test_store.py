from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store, recipe_key
from buildctl.ground.errors import BuildctlError, EngineError
from buildctl.oci.compression import UNCOMPRESSED, ZSTD
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry, file_entry
from buildctl.oci.image import Layer

KEY = "k" * 64


def entries() -> list[Entry]:
    return [file_entry("a", b"content " * 1000), file_entry("b", b"")]


def make(store: Store, key: str = KEY) -> tuple[Layer, bool]:
    return store.put(key, entries, compression=ZSTD)


def files(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.parent.name != "receipts"}


def test_a_layer_is_made_once_and_found_afterwards(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "store")
    layer, made = make(store)
    assert made
    assert Digest.of_file(store.blob(layer.descriptor.digest)) == layer.descriptor.digest
    assert make(store) == (layer, False)
    assert Store(store.root).get(KEY) == layer
    assert files(store.root) == {f"blobs/sha256/{layer.descriptor.digest.hex}", f"layers/{KEY}.json"}


def test_keys_of_the_same_content_share_a_blob(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert make(store, "one")[0] == make(store, "two")[0]
    assert len(list((tmp_path / "blobs" / "sha256").iterdir())) == 1


def test_what_is_in_the_store_depends_on_no_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        layer, _ = make(Store(tmp_path))
    finally:
        os.umask(before)
    assert Store(tmp_path).blob(layer.descriptor.digest).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("damage", ["blob gone", "blob short", "key garbage", "key of another form", "key empty"])
def test_what_is_not_whole_is_made_again(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    layer, _ = make(store)
    blob, key = store.blob(layer.descriptor.digest), tmp_path / "layers" / f"{KEY}.json"
    match damage:
        case "blob gone":
            blob.unlink()
        case "blob short":
            blob.write_bytes(blob.read_bytes()[:-1])
        case "key garbage":
            key.write_bytes(b"\xff{")
        case "key of another form":
            key.write_text('["descriptor"]')
        case _:
            key.write_bytes(b"")
    assert store.get(KEY) is None
    assert make(store) == (layer, True)
    assert store.get(KEY) == layer


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Entry]:
        yield from entries()
        raise ZeroDivisionError

    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.put(KEY, broken, compression=ZSTD)
    assert files(tmp_path) == set()
    assert make(store)[1]


def _make_in_process(root: str) -> tuple[Layer, bool]:
    def slowly() -> Iterator[Entry]:
        for entry in entries():
            time.sleep(0.05)
            yield entry

    return Store(Path(root)).put(KEY, slowly, compression=ZSTD)


def test_of_sixteen_processes_one_makes_the_layer(tmp_path: Path) -> None:
    with ProcessPoolExecutor(16, mp_context=multiprocessing.get_context("fork")) as pool:
        results = list(pool.map(_make_in_process, [str(tmp_path)] * 16))
    assert sum(made for _, made in results) == 1
    assert len({layer.descriptor.digest for layer, _ in results}) == 1
    assert len(files(tmp_path)) == 2


STUCK = """
import sys, time
from pathlib import Path
from buildctl.oci.entry import file_entry
from buildctl.oci.compression import UNCOMPRESSED
from buildctl.artifacts.store import Store

def entries():
    yield file_entry("a", bytes(range(256)) * 10_000)
    print("writing", flush=True)
    time.sleep(600)

Store(Path(sys.argv[1])).put("k" * 64, entries, compression=UNCOMPRESSED)
"""


def test_after_a_kill_the_next_one_continues_and_cleans_up(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    (left,) = (tmp_path / "tmp").iterdir()
    Store(tmp_path).sweep()
    assert left.exists(), "a living process's file was swept"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert make(Store(tmp_path))[1]
    assert not left.exists()


def test_temporary_files_go_with_their_block(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.temporary() as path:
        path.write_bytes(b"half")
    assert not path.exists()
    with store.temporary() as path:
        path.write_bytes(b"whole")
        path.replace(tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == b"whole"


def test_a_write_that_the_system_refuses_leaves_nothing(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = Store(tmp_path)
    big = [Entry(path="big", size=1 << 24, body=Noise())]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
        with pytest.raises(EngineError, match="File too large"):
            store.put(KEY, lambda: big, compression=UNCOMPRESSED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert files(tmp_path) == set()


@dataclass(frozen=True)
class Noise:
    error: int = 0

    def chunks(self) -> Iterator[bytes]:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        for _ in range(256):
            yield bytes(1 << 16)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_an_error_that_says_where(tmp_path: Path, number: int) -> None:
    full = [Entry(path="big", size=10, body=Noise(number))]
    with pytest.raises(EngineError) as caught:
        Store(tmp_path).put(KEY, lambda: full, compression=UNCOMPRESSED)
    assert str(tmp_path) in caught.value.message
    assert "no space left" in caught.value.message
    assert "BUILDCTL_CACHE" in (caught.value.hint or "")
    assert files(tmp_path) == set()


def test_a_store_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot use the store"):
        make(Store(tmp_path / "file" / "store"))


def test_errors_of_the_entries_pass(tmp_path: Path) -> None:
    with pytest.raises(BuildctlError, match="twice"):
        Store(tmp_path).put(KEY, lambda: entries() * 2, compression=UNCOMPRESSED)


def test_artifacts_lie_under_their_digest(tmp_path: Path) -> None:
    store, digest = Store(tmp_path), Digest.of(b"wheel")
    assert store.artifact(digest) is None
    path = store.artifact_path(digest)
    path.write_bytes(b"wheel")
    assert store.artifact(digest) == path == tmp_path / "artifacts" / digest.hex[:2] / digest.hex


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"BUILDCTL_CACHE": "/own", "XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/xdg/buildctl"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/buildctl"),
        ({"HOME": "/home/me"}, "/home/me/.cache/buildctl"),
    ],
)
def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str) -> None:
    for name in ("BUILDCTL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Store.default().root == Path(expected)


# --- recipe keys ---


def test_a_key_depends_on_values_only() -> None:
    digest = Digest.of(b"x")
    key = recipe_key("wheels", [("a", digest)], entries()[0].kind, {"b": 1, "a": 2})
    assert key == recipe_key("wheels", (("a", str(digest)),), "file", {"a": 2, "b": 1})
    assert len(key) == 64


@dataclass(frozen=True)
class Part:
    name: str
    digest: Digest


def test_a_key_depends_on_every_value() -> None:
    part = Part("a", Digest.of(b"x"))
    others = [
        (part,),
        (replace(part, name="b"),),
        (replace(part, digest=Digest.of(b"y")),),
        (part, None),
        ([part],),
        (part, ""),
        (part, 0),
        (part, False),
        ("ab", "c"),
        ("a", "bc"),
    ]
    assert len({recipe_key(*parts) for parts in others}) == len(others)


@pytest.mark.parametrize("value", [Path("/x"), 1.5, {1, 2}, b"bytes", object()])
def test_what_cannot_be_told_apart_everywhere_is_no_part_of_a_key(value: object) -> None:
    with pytest.raises(TypeError, match="not part of a recipe"):
        recipe_key(value)
