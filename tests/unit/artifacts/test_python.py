from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.debian.package import BaseLock
from buildctl.artifacts.debian.python import build_arch, build_python, prepare_python, python_packages
from buildctl.artifacts.store import Store
from buildctl.ground.errors import ArtifactError, EngineError, LockError
from tests.support.debs import deb, file, link, lock_of, package

LIBRARIES = "usr/lib/x86_64-linux-gnu"


def debs() -> dict[str, bytes]:
    """A "Python" that prints how it was called; its loader is a shell script that runs it."""
    loader = file(f"{LIBRARIES}/ld-linux-x86-64.so.2", '#!/bin/sh\nshift 3\nexec /bin/sh "$@"\n', 0o755)
    program = file("usr/bin/python3.13", 'echo "python $PYTHONHOME $*"\n', 0o755)
    return {
        "libc6": deb("libc6", [loader, link("lib64/ld-linux-x86-64.so.2", f"/{LIBRARIES}/ld-linux-x86-64.so.2")]),
        "libexpat1": deb(
            "libexpat1", [file(f"{LIBRARIES}/libexpat.so.1.9"), link(f"{LIBRARIES}/libexpat.so.1", "libexpat.so.1.9")]
        ),
        "libgcc-s1": deb("libgcc-s1"),
        "libpython3.13-minimal": deb("libpython3.13-minimal", [file("usr/lib/python3.13/os.py")]),
        "libpython3.13-stdlib": deb("libpython3.13-stdlib"),
        "python3.13": deb("python3.13", [file("not/needed")]),
        "python3.13-minimal": deb("python3.13-minimal", [program]),
        "zlib1g": deb("zlib1g"),
    }


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")


def filled(store: Store, packages: Mapping[str, bytes]) -> BaseLock:
    lock = lock_of(packages)
    for p in lock.packages:
        store.artifact_path(p.digest).write_bytes(packages[p.name])
    return lock


def test_it_runs_through_its_own_loader(store: Store) -> None:
    lock = filled(store, debs())
    prepare_python(lock, store=store)
    python = build_python(lock, store=store)
    assert python.tag == "cpython-313"
    done = subprocess.run([*python.argv, "-c", "1"], env=dict(python.env), capture_output=True, text=True, check=True)
    assert done.stdout == f"python {python.env['PYTHONHOME']} -c 1\n"
    home = Path(python.env["PYTHONHOME"])
    assert (home / "lib/python3.13/os.py").is_file()
    assert (home / "lib/x86_64-linux-gnu/libexpat.so.1").resolve().name == "libexpat.so.1.9"
    assert not (home.parent / "not").exists()  # only what a running Python needs
    assert not (home.parent / "usr/lib64").exists()  # an absolute link would lead out of the folder


def test_the_value_needs_no_package_and_prepare_is_done_once(store: Store) -> None:
    lock = lock_of(debs())
    python = build_python(lock, store=store)
    assert not store.root.exists()
    with pytest.raises(ArtifactError, match="is not in the store"):
        prepare_python(lock, store=store)
    assert list((store.root / "python").iterdir()) == []
    filled(store, debs())
    prepare_python(lock, store=store)
    shutil.rmtree(store.root / "artifacts")
    prepare_python(lock, store=store)  # there already
    assert Path(python.argv[0]).is_file()


def test_one_that_was_changed_is_unpacked_again(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    lock = filled(store, debs())
    prepare_python(lock, store=store)
    path = Path(build_python(lock, store=store).env["PYTHONHOME"]) / "lib/python3.13/os.py"
    good = path.read_bytes()
    path.write_bytes(b"import evil\n")
    prepare_python(lock, store=store)
    assert path.read_bytes() == good
    assert "is not as it was unpacked" in capsys.readouterr().err


def test_a_damaged_package_leaves_nothing(store: Store) -> None:
    lock = filled(store, debs())
    store.artifact_path(lock.packages[-1].digest).write_bytes(debs()["zlib1g"][:-1])
    with pytest.raises(ArtifactError, match="is not in the store"):
        prepare_python(lock, store=store)
    assert list((store.root / "python").iterdir()) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_makes_is_not(store: Store) -> None:
    lock = filled(store, debs())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    parent = store.root / "python"
    for process in (dead.pid, 1):
        (parent / f"key.{process}.abc.new").mkdir(parents=True)
    prepare_python(lock, store=store)
    assert [p.name for p in parent.glob("*.new")] == ["key.1.abc.new"]


def test_other_packages_are_another_python(store: Store) -> None:
    lock = lock_of(debs())
    first = build_python(lock, store=store)
    changed = debs() | {"zlib1g": deb("zlib1g", [file("x")])}
    assert build_python(lock_of(changed), store=store).argv[0] != first.argv[0]
    unrelated = replace(lock, packages=(package(b"", "aa"), *lock.packages))
    assert build_python(unrelated, store=store) == first


def test_where_it_cannot_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = lock_of(debs())
    with pytest.raises(EngineError, match=r"for arm64 cannot run on this machine \(amd64\)"):
        build_python(replace(lock, arch="arm64"), store=store)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(EngineError, match="needs Linux, and this is macOS") as caught:
        build_arch()
    assert "Linux virtual machine or container" in str(caught.value.hint)


def test_a_lock_without_a_python() -> None:
    packages = {n: d for n, d in debs().items() if n not in ("zlib1g", "libc6")}
    with pytest.raises(LockError, match="the runtime lock lacks libc6, zlib1g"):
        python_packages(lock_of(packages))
