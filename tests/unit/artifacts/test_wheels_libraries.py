from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.artifacts.wheels.libraries import Library, kept_libraries, libraries_of, read_libraries
from buildctl.oci.digest import Digest
from tests.support.elf import library
from tests.support.servers import wheel

NAME = "demo-1.0-cp313-cp313-manylinux_2_28_x86_64.whl"


def put(store: Store, files: dict[str, bytes], *, requires: list[str] | None = None) -> Digest:
    data = wheel(NAME, requires=requires or [], files=files)
    store.artifact_path(Digest.of(data)).write_bytes(data)
    return Digest.of(data)


def test_a_library_wants_needs_and_exports(store: Store) -> None:
    elf = library(
        exports=["PyInit_x"],
        wants=["_ZN3c105ErrorE"],
        weak=["maybe"],
        hidden=["own"],
        needed=["libc10.so"],
        soname="x.so",
    )
    found = libraries_of(store, put(store, {"demo/x.so": elf}), NAME)
    assert found is not None
    assert found.libraries == (
        Library(
            path="demo/x.so",
            soname="x.so",
            needed=("libc10.so",),
            wants=("_ZN3c105ErrorE",),
            exports=frozenset({"PyInit_x"}),
            versioned=True,
        ),
    )


def test_a_library_that_names_no_versions_is_told_apart(store: Store) -> None:
    found = libraries_of(store, put(store, {"demo/x.so.1.2": library(versioned=(), wants=["malloc"])}), NAME)
    assert found is not None
    assert [(one.wants, one.versioned) for one in found.libraries] == [(("malloc",), False)]


@pytest.mark.parametrize(
    "data",
    [b"", b"text", b"\x7fELF\x01\x01" + bytes(90), library()[:200], library()[:-30], b"\x7fELF\x02\x01" + bytes(500)],
)
def test_what_is_no_library_is_left_out(store: Store, data: bytes) -> None:
    found = libraries_of(store, put(store, {"demo/x.so": data}), NAME)
    assert found is not None
    assert found.libraries == ()


def test_what_was_read_once_is_kept(store: Store) -> None:
    digest = put(store, {"demo/x.so": library(exports=["f"])}, requires=["Torch==2.9.0 ; python_version > '3'"])
    found = libraries_of(store, digest, NAME)
    store.artifact_path(digest).unlink()
    assert libraries_of(store, digest, NAME) == found
    assert list(kept_libraries(store)) == [found]
    assert found is not None
    assert found.torch == "torch==2.9.0"
    (kept,) = (store.root / "libraries").iterdir()
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    assert libraries_of(store, digest, NAME) is None
    assert not list((store.root / "tmp").iterdir())


def test_a_real_module(store: Store, tmp_path: Path) -> None:
    spec = importlib.util.find_spec("isal.igzip_lib")
    assert spec is not None
    assert spec.origin is not None
    digest = put(store, {"isal/igzip_lib.so": Path(spec.origin).read_bytes()})
    path = store.artifact(digest)
    assert path is not None
    (found,) = read_libraries(path, filename=NAME, store=store).libraries
    assert "PyInit_igzip_lib" in found.exports
    assert "PyModule_AddObject" in found.wants or "PyModule_Create2" in found.wants or "PyModuleDef_Init" in found.wants
    assert "memcpy" not in found.wants  # glibc's, with a version
