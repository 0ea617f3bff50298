"""What `buildctl native` does on a Mac, but here: the same uv command, files for macOS arm64, hashes checked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

import pytest
import uv

from buildctl.build.native import environment, install_commands, native_cell
from buildctl.ground.run import Completed, run
from buildctl.lock.claims import read_claims
from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.project import Project
from tests.conftest import ROOT

MACH_O_ARM64 = bytes.fromhex("cffaedfe0c000001")  # mach/machine.h: MH_MAGIC_64, CPU_TYPE_ARM64


@pytest.fixture(scope="module")
def project() -> Project:
    return Project.find(ROOT)


@pytest.fixture
def scratch(stores: Path) -> Iterator[Path]:
    folder = stores / "native-install"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def only(lock: Path, names: Sequence[str], folder: Path) -> Path:
    """The lines of a lock that pin these packages."""
    kept = [line for line in lock.read_text().splitlines() if line.partition("==")[0] in names]
    assert len(kept) == len(names)
    part = folder / "part.txt"
    part.write_text("\n".join(kept) + "\n")
    return part


def installed(project: Project, name: str, lock: Path, folder: Path) -> Completed:
    """The second of native's commands, with a target folder where a Mac has its new environment."""
    cell = native_cell(project, name)
    _, argv = install_commands(uv.find_uv_bin(), cell, lock, folder / "environment")
    at = argv.index("--python")
    elsewhere = ["--python-platform", "aarch64-apple-darwin", "--python-version", cell.python, "--target", str(folder)]
    macos = read_claims(project.images / cell.name / "claims.arm64.json").macos
    env = environment() | {"MACOSX_DEPLOYMENT_TARGET": str(macos)}
    done = run([*argv[:at], *elsewhere, *argv[at + 2 :]], timeout=600, env=env, check=False)
    if re.search(r"error sending request|dns error|Connection refused|tcp connect", done.stderr):
        pytest.skip(f"NOT RUN: the package index does not answer: {done.stderr.strip()[-200:]}")
    return done


def test_part_of_the_lock_installs_for_macos_exactly(project: Project, scratch: Path) -> None:
    """numpy's 5 MB; all of it, with torch, is `big`."""
    whole = read_wheel_lock(project.wheel_lock("mps-2.6", "arm64"))
    done = installed(
        project, "mps-2.6", only(project.wheel_lock("mps-2.6", "arm64"), ["numpy", "filelock"], scratch), scratch
    )
    assert done.returncode == 0, done.stderr
    found = {d.metadata["Name"].lower(): d.version for d in distributions(path=[str(scratch)])}
    assert found == {w.name: w.version for w in whole.wheels if w.name in {"numpy", "filelock"}}
    assert foreign_libraries(scratch) == []


def foreign_libraries(folder: Path) -> list[str]:
    libraries = [p for p in folder.rglob("*") if p.suffix in {".so", ".dylib"} and not p.is_symlink()]
    assert len(libraries) > 10
    return [p.name for p in libraries if p.open("rb").read(8) != MACH_O_ARM64]


@pytest.mark.big
def test_the_lock_installs_for_macos_exactly(project: Project, scratch: Path) -> None:
    path = project.wheel_lock("mps-2.6", "arm64")
    done = installed(project, "mps-2.6", path, scratch)
    assert done.returncode == 0, done.stderr
    lock = read_wheel_lock(path)
    found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions(path=[str(scratch)])}
    assert found == {wheel.name: wheel.version for wheel in lock.wheels}
    assert foreign_libraries(scratch) == []
    # the MPS backend is in it: Metal is linked, and the backend's own symbols are there
    library = (scratch / "torch" / "lib" / "libtorch_cpu.dylib").read_bytes()
    assert b"/System/Library/Frameworks/Metal.framework" in library
    assert b"PYTORCH_ENABLE_MPS_FALLBACK" in library


def test_a_wheel_with_another_hash_is_refused(project: Project, scratch: Path) -> None:
    text = project.wheel_lock("mps-2.6", "arm64").read_text()
    wrong = re.sub(r"(?m)^(filelock==\S+ --hash=sha256:)\w{64}$", lambda m: m[1] + "0" * 64, text)
    assert wrong != text
    whole, lock = scratch / "whole.txt", scratch / "requirements.txt"
    whole.write_text(wrong)
    only(whole, ["filelock", "numpy"], scratch).rename(lock)
    done = installed(project, "mps-2.6", lock, scratch)
    assert done.returncode != 0
    assert "filelock" in done.stderr
    assert not (scratch / "numpy").exists()
    assert not (scratch / "filelock").exists()
