"""Every kind of file at rest is damaged in every way: the next build mends it and says so, and fsck agrees."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from buildctl.artifacts.check import check_store
from buildctl.lock.wheels import read_wheel_lock
from buildctl.oci.layout import Layout
from tests.chaos.world import CELL, NAME, Tally, World
from tests.support.wheelhouse import wheelhouse


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    _anew(path, bytes(data))


def cut(path: Path) -> None:
    _anew(path, path.read_bytes()[:-1])


def empty(path: Path) -> None:
    _anew(path, b"")


def garbage(path: Path) -> None:
    _anew(path, b"\xff\0garbage{" * 50)


def folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def _anew(path: Path, data: bytes) -> None:
    path.unlink()  # layout and store may share the file
    path.write_bytes(data)


DAMAGES: tuple[Callable[[Path], None], ...] = (flip, cut, empty, garbage, folder)
# kinds that say nothing when they are damaged: nothing depends on them
QUIET = ("receipts", "origins", "contents", "remembered")


def kinds(world: World) -> Iterator[tuple[str, Path]]:
    """One file of each kind."""
    store, layout = world.store.root, Layout(world.layout)
    image = layout.resolve(CELL)
    manifest = layout.manifest(image)
    wheel = max(read_wheel_lock(world.project / f"images/{NAME}/requirements.arm64.txt").wheels, key=lambda w: w.size)
    yield "artifact", world.store.artifact_path(wheel.digest)
    yield "blob of the store", world.store.blob(manifest.layers[-1].digest)
    yield "layers", next((store / "layers").iterdir())
    for quiet in ("receipts", "contents", "remembered"):
        yield quiet, next((store / quiet).iterdir())
    yield "python", next(p for p in (store / "python").rglob("*.py") if not p.is_symlink())
    yield "bytecode", max(store.glob("bytecode/*/*"), key=lambda path: path.lstat().st_size)
    yield "layer of the layout", layout.blob_path(manifest.layers[0].digest)
    yield "configuration", layout.blob_path(manifest.config.digest)
    yield "manifest", layout.blob_path(image.digest)
    yield "index.json", layout.index_path
    yield "oci-layout", layout.root / "oci-layout"
    yield "origins", next((layout.root / "origins").iterdir())


def rot(world: World, _: argparse.Namespace) -> Tally:
    tally = Tally()
    world.forget()
    assert world.rebuilt() == []
    bill = world.run("sbom", NAME).stdout
    wheels = read_wheel_lock(world.project / f"images/{NAME}/requirements.arm64.txt").wheels
    elsewhere = type(world.store)(world.root / "elsewhere")
    for wheel in wheels:
        shutil.copyfile(world.store.artifact_path(wheel.digest), elsewhere.artifact_path(wheel.digest))
    with wheelhouse(wheels, elsewhere) as url:
        world.env |= {"UV_DEFAULT_INDEX": url, "NO_PROXY": "127.0.0.1"}
        for damage in DAMAGES:
            assert world.rebuilt() == []  # nothing to do: that is remembered
            for kind, path in list(kinds(world)):
                damage(path)
                _judge(world, kind, f"{kind}, {damage.__name__}", bill, tally)
    return tally


def _judge(world: World, kind: str, what: str, bill: str, tally: Tally) -> None:
    if kind in ("artifact", "python", "bytecode"):  # else nothing needs it
        shutil.rmtree(world.store.root / "layers")
    done = world.run("build", NAME, "--no-load", "--json")
    wrong = world.built(done)
    told = any(word in done.stderr for word in ("damaged", "is not as it was unpacked"))
    readable = kind in ("oci-layout", "index.json") and "flip" in what  # another letter, which still is JSON
    if not told and kind not in QUIET and not readable:
        wrong.append("nothing is said about it")
    if kind == "contents" and world.run("sbom", NAME).stdout != bill:
        wrong.append("another bill of materials")
    wrong += [*done.traceback, *check_store(world.store)]
    tally.note(what, wrong=wrong, left=world.left())
