"""Native environments: on macOS arm64, from the lock, with uv and every hash checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import uv

from buildctl.artifacts.store import Store
from buildctl.console.log import say
from buildctl.console.table import size
from buildctl.ground.errors import (
    ImpossibleError,
    LockError,
    ResolveError,
    RuntimeUnavailableError,
    SourceError,
    ToolError,
)
from buildctl.ground.run import run
from buildctl.ground.scratch import scratch
from buildctl.host.catalogue import catalogue
from buildctl.host.facts import Host, this_host
from buildctl.host.verdict import VerdictKind, decide
from buildctl.lock.claims import check_facts
from buildctl.lock.index import uv_environment
from buildctl.lock.locked import LockedCell, load_locked
from buildctl.lock.torch_wheel import facts_from_file
from buildctl.lock.wheels import WheelLock, is_stale
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project

_INSTALL = 3600.0
# What torch does when an operation has no Metal kernel yet: compute it on the CPU instead of failing.
FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"
_ASK = """
import torch
print(torch.__version__, torch.backends.mps.is_built(), torch.backends.mps.is_available())
"""


def native_cell(project: Project, name: str) -> Cell:
    """Raises MatrixError for a name that does not exist, cannot exist, or is an image."""
    cells = project.matrix.select([name])
    natives = [cell for cell in cells if cell.native]
    if not natives:
        version = cells[0].key
        raise ImpossibleError(
            f"{name} is an image for containers, not a native environment",
            hint=f"buildctl build {name}; native environments: mps-{version}",
        )
    return natives[0]


def refuse_stale(project: Project, locked: LockedCell) -> None:
    """Raises LockError if its lock does not match the matrix."""
    cell = locked.cell
    if reason := is_stale(cell, locked.wheels):
        path = project.shown(project.wheel_lock(cell.name, cell.arch))
        raise LockError(f"{path}: {reason}", hint=f"buildctl lock {cell.name}")


def _current(project: Project, cell: Cell) -> LockedCell:
    (locked,) = load_locked(project, [cell])
    refuse_stale(project, locked)
    return locked


def make_native(project: Project, name: str, path: Path | None, *, host: Host | None = None) -> Iterator[str]:
    """Create or complete the environment and query its torch. Raises RuntimeUnavailableError on other systems."""
    cell = native_cell(project, name)
    lock = _current(project, cell).wheels
    if refused := refusal(project, cell, host or this_host()):
        raise refused
    target = path or default_folder(project, cell)
    say(downloads(cell, lock))
    for argv in install_commands(uv.find_uv_bin(), cell, project.wheel_lock(cell.name, cell.arch), target):
        run(argv, timeout=_INSTALL, env=environment())
    shown = project.shown(project.wheel_lock(cell.name, cell.arch))
    yield f"{target}: {len(lock.wheels)} wheels, each with the hash in {shown}"
    yield from _asked(target)
    yield f"source {target}/bin/activate; export {FALLBACK}=1 runs operations without a Metal kernel on the CPU"


def default_folder(project: Project, cell: Cell) -> Path:
    return project.root / f".venv-{cell.name}"


def refusal(project: Project, cell: Cell, host: Host) -> RuntimeUnavailableError | None:
    """Why a native environment of this cell can be neither created nor tested on `host`; None if it can."""
    subjects = catalogue(project.root, project.layout)
    subject = next((s for s in subjects if s.name == cell.name), None)
    verdict = decide(subject, host, subjects) if subject else None
    if (verdict is None or verdict.kind is not VerdictKind.NOT) and (host.system, host.arch) == ("macos", "arm64"):
        return None
    why = verdict.reason if verdict else "a native environment, only for macOS on Apple silicon"
    step = f"{verdict.next_step}; " if verdict else ""
    return RuntimeUnavailableError(
        f"{cell.name} cannot run on this machine ({host.summary()}): {why}",
        hint=f"{step}`buildctl native {cell.name} --verify` checks its lock and wheel on any machine",
    )


def install_commands(program: str, cell: Cell, lock: Path, target: Path) -> list[list[str]]:
    """For uv: an empty environment with the matrix's Python, then exactly the lock: nothing more, nothing unhashed."""
    index = ["--default-index", cell.accelerator.index] if cell.accelerator.index else []
    return [
        [program, "venv", "--allow-existing", "--no-project", "--python", f"{cell.python}", str(target)],
        [
            program, "pip", "sync", "--require-hashes", "--only-binary", ":all:", *index,
            "--python", str(target / "bin" / "python"), str(lock),
        ],
    ]  # fmt: skip


def environment() -> dict[str, str]:
    env = uv_environment()
    env["UV_PYTHON_DOWNLOADS"] = "automatic"  # the Python of the matrix is rarely on a Mac
    return env


def downloads(cell: Cell, lock: WheelLock) -> str:
    """What will be downloaded, the largest first; uv may have some of it in its cache."""
    largest = sorted(lock.wheels, key=lambda wheel: -wheel.size)
    named = ", ".join(f"{wheel.name} {wheel.version} ({size(wheel.size)})" for wheel in largest[:3])
    total = size(sum(wheel.size for wheel in lock.wheels))
    wheels = f"{len(lock.wheels)} wheels, {total}: {named}, ..."
    return f"{cell.name}: {wheels}; and Python {cell.python} unless it is installed; uv may have some in its cache"


def _asked(target: Path) -> Iterator[str]:
    done = run([target / "bin" / "python", "-c", _ASK], timeout=300, check=False)
    words = done.stdout.split()
    if done.returncode or len(words) != 3:
        raise ToolError(f"torch cannot start in {target}: {done.stderr.strip()[-400:]}")
    version, built, available = words
    yield f"torch {version}, MPS built: {built}, available: {available}"
    if built != "True":
        raise ResolveError(f"torch {version} is not an MPS build", hint="buildctl lock --upgrade")


def verify_native(project: Project, name: str) -> Iterator[str]:
    """On any system: the lock is current, it installs for macOS arm64 with its hashes, its torch is an MPS build.

    The last is read from the wheel, whose hash is verified. Raises BuildctlError.
    """
    cell = native_cell(project, name)
    locked = _current(project, cell)
    lock = locked.wheels
    shown = project.shown(project.wheel_lock(cell.name, cell.arch))
    yield f"{shown} matches matrix.yaml: {len(lock.wheels)} wheels"
    _check_hashes(cell, lock, shown)
    _dry_run(project, locked)
    yield "it installs on macOS arm64, and the index has every file with its hash"
    torch = lock.wheel("torch")
    if torch is None:
        raise LockError(f"{shown} has no torch", hint=f"buildctl lock {cell.name}")
    from buildctl.console.progress import open_progress  # noqa: PLC0415
    from buildctl.lock.fetch import fetch_wheels  # noqa: PLC0415 - the other commands need no network

    store = Store.default()
    with open_progress("fetched") as progress:
        fetch_wheels([(cell, replace(lock, wheels=(torch,)))], store=store, progress=progress)
    path = store.artifact(torch.digest)
    assert path is not None  # noqa: S101 - fetch_wheels brings it or raises
    facts = facts_from_file(torch, path)
    check_facts(locked.claims, facts)
    yield f"{torch.filename}: torch {facts.torch}, links to Metal: an MPS build, needs macOS {locked.claims.macos}"


def _check_hashes(cell: Cell, lock: WheelLock, shown: str) -> None:
    """Checked separately, because uv compares hashes only when it downloads."""
    from buildctl.lock.uv import index_of, locate  # noqa: PLC0415 - as above

    with index_of(cell.accelerator) as index:
        urls = locate([f"{w.name}=={w.version}" for w in lock.wheels], python=cell.python, index=index)
    if lost := [wheel for wheel in lock.wheels if wheel.digest not in urls]:
        raise SourceError(
            f"{shown}: the index has no {lost[0].filename} with {lost[0].digest}",
            hint=f"buildctl lock --upgrade {cell.name}",
        )


def _dry_run(project: Project, locked: LockedCell) -> None:
    cell = locked.cell
    lock = project.wheel_lock(cell.name, cell.arch)
    with scratch("native") as folder:
        argv = [
            uv.find_uv_bin(), "pip", "install", "--dry-run", "--no-deps", "--require-hashes", "--only-binary", ":all:",
            "--python-platform", f"{ARCHES[cell.arch].machine}-apple-darwin", "--python-version", cell.python,
            "--target", str(folder),
            "--requirements", str(lock),
        ]  # fmt: skip
        if cell.accelerator.index:
            argv += ["--default-index", cell.accelerator.index]
        env = uv_environment() | {"MACOSX_DEPLOYMENT_TARGET": locked.claims.macos or "14.0"}
        done = run(argv, timeout=300, env=env, check=False)
    if done.returncode:
        raise ResolveError(
            f"{project.shown(lock)} does not install on macOS arm64: {done.stderr.strip()[-600:]}",
            hint=f"buildctl lock --upgrade {cell.name}",
        )
