"""Kills, failing and full disks at every step of writing a layout: it passes the check, the next run completes it."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildctl.ground.errors import EngineError
from buildctl.ground.run import run, which
from buildctl.oci.check import check_layout
from buildctl.oci.files import TEMPORARY
from buildctl.oci.layout import Layout
from buildctl.oci.trees.unpack import unpack_image
from tests.support import layout_writer
from tests.support.images import Blobs, file, image, put, tar
from tests.support.layout_writer import REFUSED, layers, write

PROGRAM = layout_writer.__file__
STEPS = {
    "once": ("link", "mkdir", "chmod", "rename"),
    "copy": ("fsync", "write", "unlink", "rename"),
}


def whole(root: Path) -> dict[str, bytes]:
    dist = root / "dist"
    return {str(p.relative_to(dist)): p.read_bytes() for p in dist.rglob("*") if p.is_file()}


def temporaries(root: Path) -> list[Path]:
    return list((root / "dist").rglob(f"{TEMPORARY}*"))


def require_strace() -> None:
    if which("strace") is None:
        pytest.skip("NOT RUN: strace is not installed (apt-get install strace)")
    probe = run(["strace", "-o", os.devnull, "true"], timeout=30, check=False)
    if probe.returncode != 0:
        pytest.skip(f"NOT RUN: strace cannot trace here: {probe.stderr.strip()[:200]}")


def injected(root: Path, how: str, calls: str, fault: str, number: int) -> tuple[int, str]:
    """Run the program with `fault` at the `number`-th of `calls`; exit status (-9 when killed) and stderr."""
    names = ",".join(f"?{call}" for name in calls.split(",") for call in (name, f"{name}at", f"{name}at2"))
    trace = ["strace", "-f", "-o", os.devnull, "-e", f"trace={names}", "-e", f"inject={names}:{fault}:when={number}"]
    if fault.startswith("error"):  # only calls that count stop the program; with this a signal is never delivered
        trace.append("--seccomp-bpf")
    done = run([*trace, sys.executable, "-S", PROGRAM, root, how, "1"], timeout=60, check=False, env=environment())
    return done.returncode, done.stderr


def environment() -> dict[str, str]:
    """`-S` leaves `site` out, which makes each start a third faster; the paths it would find come along."""
    return {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ["PATH"],
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a layout looks like that nothing ever happened to."""
    root = tmp_path_factory.mktemp("reference")
    write(root, 0)
    write(root, 1)
    return whole(root)


def recovers(root: Path, reference: dict[str, bytes]) -> None:
    if (root / "dist/oci-layout").exists():
        assert check_layout(root / "dist") == []
    write(root, 0)
    write(root, 1)
    assert check_layout(root / "dist") == []
    assert temporaries(root) == []
    assert whole(root) == reference
    assert {stat.S_IMODE(p.stat().st_mode) for p in (root / "dist/blobs").rglob("")} == {0o755}


@pytest.mark.parametrize(("how", "call"), [(how, call) for how, calls in STEPS.items() for call in calls])
def test_killed_at_every_system_call(tmp_path: Path, how: str, call: str, reference: dict[str, bytes]) -> None:
    require_strace()
    kills = 0
    for number in itertools.count(1):
        root = tmp_path / f"{number}"
        layers(Blobs(root / "blobs"), 1)
        older = number % 2 == 0
        if older:  # every other time there is an image already, which must survive
            write(root, 0)
        status, stderr = injected(root, how, call, "signal=SIGKILL", number)
        if older:
            assert Layout(root / "dist").config(Layout(root / "dist").resolve("image-0", "amd64"))
        recovers(root, reference)
        shutil.rmtree(root)
        if status == 0:
            break
        assert status in (-signal.SIGKILL, 128 + signal.SIGKILL), stderr
        kills += 1
    assert kills


@pytest.mark.parametrize(
    ("how", "call", "error", "said"),
    [
        ("copy", "fsync", "EIO", "WriteError: cannot write"),
        ("copy", "write", "ENOSPC", "EngineError: the disk is full: cannot write"),
        ("once", "rename", "ENOSPC", "EngineError: the disk is full: cannot write"),
        ("once", "link", "ENOSPC", "EngineError: the disk is full: cannot write"),
        ("once", "rename", "EACCES", "WriteError: cannot write"),
    ],
)
def test_an_error_at_every_system_call(
    tmp_path: Path, how: str, call: str, error: str, said: str, reference: dict[str, bytes]
) -> None:
    require_strace()
    for number in itertools.count(1):
        root = tmp_path / f"{number}"
        layers(Blobs(root / "blobs"), 1)
        status, stderr = injected(root, how, call, f"error={error}", number)
        if status == 0:
            break
        assert (status, stderr[: len(said)]) == (REFUSED, said), stderr
        assert temporaries(root) == []
        recovers(root, reference)
        shutil.rmtree(root)
    assert number > 2


def test_killed_at_random_moments_while_four_write(tmp_path: Path) -> None:
    dice = random.Random(20261122)
    layout = Layout(tmp_path / "dist")
    for _ in range(6):
        start = dice.randrange(10**9)
        writers = [
            subprocess.Popen([sys.executable, PROGRAM, tmp_path, "forever", str(start + 1000 * n)]) for n in range(4)
        ]
        before = len(layout.names()) if layout.index_path.exists() else 0
        deadline = time.monotonic() + 30
        while not layout.index_path.exists() or len(layout.names()) <= before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(dice.random() / 4)
        for writer in writers:
            writer.kill()
        assert {writer.wait() for writer in writers} == {-signal.SIGKILL}
        assert check_layout(layout.root, layout.names()) == []
        assert len(layout.names()) > before
    write(tmp_path, 1)
    assert temporaries(tmp_path) == []
    assert check_layout(layout.root) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.geteuid() != 0 or which("mount") is None:
        pytest.skip("NOT RUN: only root can mount a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], timeout=30, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"NOT RUN: cannot mount a tmpfs here: {mounted.stderr.strip()}")
    yield disk
    run(["umount", disk], timeout=30)


def test_a_full_disk_is_one_clear_error_and_freeing_space_helps(tmp_path: Path, small_disk: Path) -> None:
    layout, blobs = Layout(small_disk / "dist"), Blobs(tmp_path / "blobs")
    first = put(layout, blobs, [blobs.add(tar(file("a", os.urandom(1_000_000))))], name="first")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_500_000))
    big = blobs.add(tar(file("b", os.urandom(2_000_000))))
    with pytest.raises(EngineError, match=r"the disk is full: cannot write .*2\.0 MB") as caught:
        put(layout, blobs, [big], name="second")
    assert "run the command again" in str(caught.value.hint)
    assert not layout.blob_path(big.descriptor.digest).exists()
    assert list(layout.root.rglob(f"{TEMPORARY}*")) == []
    assert check_layout(layout.root) == []
    assert layout.names() == ("first",)
    ballast.unlink()
    second = put(layout, blobs, [big], name="second")
    assert check_layout(layout.root) == []
    assert [layout.resolve(n).digest for n in ("first", "second")] == [first.digest, second.digest]


def test_unpacking_to_a_full_disk_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a", b"x")), tar(file("b", bytes(5_000_000))))
    with pytest.raises(EngineError, match="the disk is full"):
        unpack_image(layout, descriptor, small_disk / "root")
    assert list(small_disk.iterdir()) == []
