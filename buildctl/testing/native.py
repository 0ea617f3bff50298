"""The probes in a native environment on macOS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from buildctl.build.native import default_folder, refusal, refuse_stale
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.host.facts import Host, this_host
from buildctl.lock.claims import lock_digest
from buildctl.lock.locked import LockedCell
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.runtimes.native import NativeRuntime
from buildctl.testing.probes.expected import expected_of
from buildctl.testing.probes.findings import names_of, not_run, test_native
from buildctl.testing.report import Finding, Report


def native_names(project: Project, names: Sequence[str]) -> list[str]:
    """Those of `names` that are native environments."""
    known = {cell.image for cell in project.matrix.cells if cell.native}
    return [name for name in names if name in known]


def native_report(
    project: Project,
    locked: LockedCell,
    path: Path | None,
    *,
    host: Host | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Run the image probes in the environment in `path`; its report belongs to the digest of its lock.

    On a machine that cannot have one everything is NOT RUN, with the reason. Raises RuntimeUnavailableError if it
    could exist but does not.
    """
    refuse_stale(project, locked)
    cell, expected = locked.cell, expected_of(locked)
    digest = Digest.parse(lock_digest(locked.wheels))
    if refused := refusal(project, cell, host or this_host()):
        reason = f"{refused.message} ({refused.hint})"
        return Report(
            cell=cell.id,
            digest=digest,
            arch=cell.arch,
            runtime=NativeRuntime.name,
            emulated=None,
            gpus=False,
            findings=tuple(not_run(name, reason) for name in names_of(expected)),
        )
    folder = path or default_folder(project, cell)
    if not (folder / "bin" / "python").exists():
        where = f" --path {path}" if path else ""
        raise RuntimeUnavailableError(
            f"{folder} has no environment {cell.name}", hint=f"run `buildctl native {cell.name}{where}` first"
        )
    return test_native(folder, expected, cell=cell.id, lock=digest, on_finding=on_finding)
