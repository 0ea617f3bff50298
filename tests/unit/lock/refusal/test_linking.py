"""Wheels with libraries of a few symbols, next to a torch of a few symbols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename

from buildctl.artifacts.store import Store
from buildctl.ground.errors import FetchError, ResolveError
from buildctl.lock.refusal import linking
from buildctl.lock.refusal.linking import refuse_unlinkable
from buildctl.lock.uv import Found
from buildctl.lock.wheels import LockedWheel, WheelLock
from buildctl.matrix.read import load_matrix
from buildctl.oci.digest import Digest
from tests.support.elf import library
from tests.support.servers import wheel

Wheels = Mapping[str, Mapping[str, bytes]]
CELL = load_matrix(Path(__file__).parents[4] / "matrix.yaml").select(["cuda-2.6"], "amd64")[0]
TAGS = "cp313-cp313-manylinux_2_28_x86_64.whl"
TORCH = f"torch-2.6.0-{TAGS}"
EXT = f"ext-1.0-{TAGS}"
ERROR = "_ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringIcEE"
NEWER = "_ZN3c108newThingEv"
C10 = library(exports=[ERROR, "helper"], soname="libc10.so", needed=["libc.so.6"])
MODULE = "ext/_C.cpython-313-x86_64-linux-gnu.so"


def check(
    store: Store, wheels: Mapping[str, Mapping[str, bytes]], *, requires: str = "", cuda: str | None = None
) -> None:
    """Lock these wheels, all of which are in the store; `requires` is what EXT does."""
    locked = []
    for filename, files in wheels.items():
        data = wheel(filename, requires=[requires] if requires and filename == EXT else [], files=files)
        store.artifact_path(Digest.of(data)).write_bytes(data)
        name, version, _, _ = parse_wheel_filename(filename)
        locked.append(
            LockedWheel(name=name, version=str(version), filename=filename, size=len(data), digest=Digest.of(data))
        )
    lock = WheelLock(
        name=CELL.name, platform=CELL.platform, python=CELL.python, inputs=Digest.of(b""), wheels=tuple(locked)
    )
    refuse_unlinkable(CELL, lock, {"cuda": cuda} if cuda else {}, store)


def refused(
    store: Store, wheels: Mapping[str, Mapping[str, bytes]], *, requires: str = "", cuda: str | None = None
) -> str:
    with pytest.raises(ResolveError) as caught:
        check(store, wheels, requires=requires, cuda=cuda)
    assert caught.value.hint
    return caught.value.message


def ext(**parts: object) -> dict[str, dict[str, bytes]]:
    """A torch with libc10, and a wheel with one module that is linked to it."""
    defaults: dict[str, object] = {"exports": ["PyInit__C"], "needed": ["libc10.so", "libc.so.6"]}
    return {TORCH: {"torch/lib/libc10.so": C10}, EXT: {MODULE: library(**(defaults | parts))}}  # type: ignore[arg-type]


def test_an_extension_for_another_torch_is_refused_by_wheel_library_symbol_and_the_torch_it_wants(store: Store) -> None:
    message = refused(store, ext(wants=[ERROR, NEWER]), requires="torch==2.9.0")
    assert message == (
        f"cuda-2.6 on linux/amd64: {EXT}: {MODULE} would not load: undefined symbol: {NEWER}. "
        "torch 2.6.0 does not have it, it is built for torch 2.9.0"
    )


@pytest.mark.parametrize(
    ("version", "requires", "wants"),
    [
        ("1.0+cu12torch2.8", "", "torch 2.8"),
        ("1.0+pt27cu126", "", "torch 2.7"),
        ("1.0", "torch>=2.7", "torch >=2.7"),
        ("1.0", "", "another one"),
    ],
)
def test_the_torch_that_is_wanted_is_told_where_it_can_be(
    store: Store, version: str, requires: str, wants: str
) -> None:
    parts = ext(wants=[NEWER])
    data = parts.pop(EXT)
    filename = f"ext-{version}-{TAGS}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "EXT", filename)
        assert refused(store, parts | {filename: data}, requires=requires).endswith(f"it is built for {wants}")


def test_a_torch_on_this_machine_that_has_the_symbol_is_named(store: Store) -> None:
    other = library(exports=[NEWER], soname="libc10.so")
    check(store, {TORCH.replace("2.6.0", "2.12.0"): {"torch/lib/libc10.so": other}, **ext_of(wants=[NEWER])})
    assert refused(store, ext(wants=[NEWER])).endswith("it is built for torch 2.12.0")


def ext_of(**parts: object) -> dict[str, dict[str, bytes]]:
    found = ext(**parts)
    return {EXT: found[EXT]}


@pytest.mark.parametrize(
    "parts",
    [
        {"wants": [ERROR, "helper"]},
        {"weak": [NEWER]},
        {"wants": ["PyLong_AsLong", "_Py_Dealloc", "_PyObject_New"]},
        {"wants": ["dlopen"], "needed": ["libc.so.6"]},  # C libraries are used without versions, too
        {"wants": ["_ZNSt6vectorIiE", "_ZNKSs4sizeEv", "_ZSt4cout"], "needed": ["libstdc++.so.6"]},
        {"versioned": ["newer_than_any_glibc"]},
        {"wants": ["_Z2cuv"], "needed": ["libc10.so", "libcuda.so.1"]},  # the driver's: not known here
        {"wants": ["_Z1xv"], "needed": ["libX11.so.6"]},
        {"wants": ["_Z4mainv"], "exports": [], "needed": ["libc.so.6"]},  # no module: perhaps never loaded
        {"wants": ["_Z6mallocv"], "versioned": (), "needed": ["libc.so.6"]},  # linked without versions
    ],
)
def test_no_false_alarm(store: Store, parts: dict[str, object]) -> None:
    check(store, ext(**parts))


def test_symbols_of_the_wheels_other_libraries_and_of_other_wheels_count(store: Store) -> None:
    wheels = ext(wants=["_Z4minev", "_Z6theirsv"])
    wheels[EXT]["ext.libs/libmine-1a2b.so.1"] = library(exports=["_Z4minev"])
    wheels[f"other-1.0-{TAGS}"] = {"other/lib.so": library(exports=["_Z6theirsv"])}
    check(store, wheels)


def test_modules_of_another_python_are_not_loaded(store: Store) -> None:
    module = library(exports=["PyInit__C"], wants=["_ZN4gone1fEv"], needed=["libc.so.6"])
    check(store, {EXT: {MODULE.replace("313", "312"): module}})
    assert "undefined symbol: _ZN4gone1fEv" in refused(store, {EXT: {MODULE: module}})
    assert "undefined symbol: _ZN4gone1fEv" in refused(store, {EXT: {"ext/_C.abi3.so": module}})


def test_what_a_module_needs_is_loaded_with_it(store: Store) -> None:
    files = {
        MODULE: library(exports=["PyInit__C"], needed=["libmine.so"]),
        "ext.libs/libmine.so": library(wants=["_ZN4gone1fEv"], soname="libmine.so"),
        "ext.libs/libplugin.so": library(wants=["_Z2ofv"]),
    }
    message = refused(store, {EXT: files})
    assert "ext.libs/libmine.so would not load: undefined symbol: _ZN4gone1fEv" in message
    assert "torch" not in message


def test_companions_of_torch_do_not_make_it_be_fetched(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = ext(wants=[NEWER])
    vision = {f"torchvision-0.21.0-{TAGS}": wheels[EXT]}
    monkeypatch.setattr(linking, "_fetched", lambda *_: True)
    check(store, vision)  # no torch at hand
    assert "torchvision-0.21.0" in refused(store, {TORCH: wheels[TORCH], **vision})


def test_an_index_that_fails_leaves_the_check_out(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FetchError("no answer")

    monkeypatch.setattr(linking, "fetch_wheels", fails)
    monkeypatch.setattr(linking, "resolve", lambda *_, **__: ())
    gone = LockedWheel(name="ext", version="1.0", filename=EXT, size=1, digest=Digest.of(b"gone"))
    lock = WheelLock(name="x", platform="linux/amd64", python="3.13", inputs=Digest.of(b""), wheels=(gone,))
    refuse_unlinkable(CELL, lock, {}, store)
    assert "whether their libraries fit the locked torch is not checked" in capsys.readouterr().err


def test_a_native_environment_has_no_elf(store: Store) -> None:
    native = load_matrix(Path(__file__).parents[4] / "matrix.yaml").select(["mps-2.6"])[0]
    refuse_unlinkable(native, replace(LOCK, platform="darwin/arm64"), {}, store)


LOCK = WheelLock(
    name="x",
    platform="linux/amd64",
    python="3.13",
    inputs=Digest.of(b""),
    wheels=(LockedWheel(name="ext", version="1.0", filename=EXT, size=1, digest=Digest.of(b"nowhere")),),
)


def runtime(*needed: str) -> bytes:
    return library(needed=needed)


@pytest.mark.parametrize("name", ["onnxruntime_gpu", "cupy_cuda13x", "faiss_gpu_cu13"])
def test_a_wheel_for_another_cuda_is_refused_if_its_name_claims_cuda(store: Store, name: str) -> None:
    filename = f"{name}-1.0-{TAGS}"
    message = refused(store, {filename: {"x/libgpu.so": runtime("libcublasLt.so.13", "libcudnn.so.9")}}, cuda="12.4")
    assert message == (
        f"cuda-2.6 on linux/amd64: {filename} is built for CUDA 13 (x/libgpu.so needs libcublasLt.so.13), torch 2.6.0 "
        "for CUDA 12.4"
    )


def test_another_wheel_for_another_cuda_may_do_without_that_library(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    check(store, {EXT: {"ext/libgpu.so": runtime("libcudart.so.13")}}, cuda="12.4")
    assert "is built for CUDA 13" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "cuda"),
    [
        ({"ext/a.so": runtime("libcudart.so.13")}, None),  # a CPU image: what is not there is not another one
        ({"ext/a.so": runtime("libcudart.so.12")}, "12.4"),
        ({"ext/cuda118.so": runtime("libcudart.so.11.0"), "ext/cuda12.so": runtime("libcudart.so.12")}, "12.4"),
        ({"ext/a.so": runtime("libcudart.so.13"), "ext.libs/libcudart.so.13": library()}, "12.4"),  # it brings its own
    ],
)
def test_wheels_that_fit_the_cuda_of_torch(store: Store, files: dict[str, bytes], cuda: str | None) -> None:
    check(store, {EXT: files}, cuda=cuda)


def test_what_torch_itself_requires_is_not_fetched(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = Found(name="ext", version="1.0", filename=EXT, url="", size=1, digest=None)
    monkeypatch.setattr(linking, "resolve", lambda *_, **__: (triton,))
    monkeypatch.setattr(linking, "fetch_wheels", lambda *_, **__: pytest.fail("fetched"))
    refuse_unlinkable(CELL, LOCK, {}, store)
