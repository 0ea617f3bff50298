"""The claims files of images: derived from the locked torch wheel, written, compared, read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildctl.artifacts.store import Store
from buildctl.console.log import say
from buildctl.ground.errors import BuildctlError, FetchError, LockError
from buildctl.lock.claims import Claims, WheelFacts, claims_of, claims_path, format_claims, read_claims
from buildctl.lock.torch_wheel import facts_from_file, facts_from_index
from buildctl.lock.wheels import LockedWheel, WheelLock, read_wheel_lock
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.files import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    path: Path
    claims: Claims
    changed: bool
    origin: str


def derive(project: Project, cell: Cell, store: Store, *, again: bool = True, lock: WheelLock | None = None) -> Derived:
    """The claims of a cell by its current lock, or by `lock`, not written yet. Without `again`, a wheel that
    the file already covers is not read, and one that the index does not serve in pieces leaves its contents
    unclaimed.
    """
    lock = lock or read_wheel_lock(project.wheel_lock(cell.name, cell.arch))
    path = claims_path(project.images, cell.name, cell.arch)
    old: Claims | None = None
    with contextlib.suppress(LockError):
        old = read_claims(path)
    wheel = lock.wheel("torch")
    if wheel is None:
        raise LockError(f"{cell.id}: the lock has no torch", hint=f"buildctl lock {cell.name}")
    facts, origin = _facts(cell, wheel, old, store) if again else _quick_facts(cell, wheel, old, store)
    claims = claims_of(cell, lock, facts)
    same = path.exists() and path.read_bytes() == format_claims(claims)
    return Derived(path=path, claims=claims, changed=not same, origin=origin)


def _facts(cell: Cell, wheel: LockedWheel, old: Claims | None, store: Store) -> tuple[WheelFacts, str]:
    if path := store.artifact(wheel.digest):
        return facts_from_file(wheel, path), "the wheel in the store"
    if old is not None and old.facts is not None and old.facts.wheel == str(wheel.digest):
        return old.facts, "an earlier reading of the same wheel"
    return facts_from_index(cell, wheel), "parts of the wheel at the index"


def _quick_facts(cell: Cell, wheel: LockedWheel, old: Claims | None, store: Store) -> tuple[WheelFacts | None, str]:
    if old is not None and old.facts is not None and old.facts.wheel == str(wheel.digest):
        return old.facts, "an earlier reading of the same wheel"
    try:
        return _facts(cell, wheel, old, store)
    except FetchError as error:
        say(f"{error.message}\n{cell.id}: the contents of torch's wheel are not claimed yet ({error.hint})")
        return None, "the lock alone"


def write_claims(project: Project, cells: Sequence[Cell], store: Store, *, again: bool = True) -> Iterator[str]:
    """One line for each file, written if it differs; flavours share one. `again`: see `derive`."""
    for cell in {(c.name, c.arch): c for c in cells}.values():
        derived = derive(project, cell, store, again=again)
        shown = project.shown(derived.path)
        if not derived.changed:
            yield f"{shown} is up to date"
            continue
        write_whole(derived.path, format_claims(derived.claims))
        yield f"{shown} written, from {derived.origin}"


def check_claims(project: Project, cells: Sequence[Cell], store: Store) -> int:
    """How many files were checked. Raises LockError listing all that differ from the wheels."""
    problems, count = [], 0
    for cell in {(c.name, c.arch): c for c in cells}.values():
        count += 1
        path = claims_path(project.images, cell.name, cell.arch)
        try:
            written = read_claims(path)
            derived = derive(project, cell, store).claims
            problems += [f"{project.shown(path)}: {line}" for line in differences(derived, written)]
        except BuildctlError as error:
            problems.append(error.message)
    if problems:
        raise LockError(
            f"{len(problems)} claims differ from the locked wheels:\n  " + "\n  ".join(problems),
            hint="run `buildctl claims`, review the difference, and commit it",
        )
    return count


def stale_claims(project: Project, cells: Sequence[Cell]) -> list[tuple[Path, str]]:
    """Path and reason of every claims file that is missing, malformed, or differs from matrix and lock.

    Does not read wheels: trusts what a file claims about the contents of the locked one.
    """
    found = []
    for cell in {(c.name, c.arch): c for c in cells}.values():
        path = claims_path(project.images, cell.name, cell.arch)
        if reason := _claims_problem(project, cell, path):
            found.append((path, reason))
    return found


def _claims_problem(project: Project, cell: Cell, path: Path) -> str | None:
    try:
        lock, written = read_wheel_lock(project.wheel_lock(cell.name, cell.arch)), read_claims(path)
        torch = lock.wheel("torch")
        about = written.facts is not None and torch is not None and written.facts.wheel == str(torch.digest)
        lines = differences(claims_of(cell, lock, written.facts if about else None), written)
    except LockError as error:
        return error.message.removeprefix(str(path)).lstrip(": ")
    return "; ".join(lines[:3]) or None


def differences(derived: Claims, written: Claims) -> list[str]:
    """`cuda: the wheels have 12.4, the file has 12.5`, one line per claim."""
    left, right = derived.to_json(), written.to_json()
    return [
        f"{key}: the wheels have {left.get(key)}, the file has {right.get(key)}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]
