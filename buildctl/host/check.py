"""`buildctl check`: a verdict for matrix names, references and layouts, before anything is pulled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildctl.ground.errors import ExitCode, MatrixError, UnknownNameError
from buildctl.host.facts import Host, read_host, this_host
from buildctl.host.verdict import Subject, Verdict, VerdictKind, catalogue, decide


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    host: Host
    verdicts: tuple[Verdict, ...]

    @property
    def exit_code(self) -> int:
        return ExitCode.FAILED if any(v.kind is VerdictKind.NOT for v in self.verdicts) else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        return {"host": self.host.to_json(), "verdicts": [v.to_json() for v in self.verdicts]}

    def text(self) -> str:
        lines = [self.host.summary(), ""]
        width = max((len(v.name) for v in self.verdicts), default=0)
        for v in self.verdicts:
            lines += [f"{v.name:<{width}}  {v.kind}: {v.reason}", f"{'':{width}}    {v.next_step}"]
        return "\n".join(lines)


def check_images(
    start: Path, layout: Path | None, names: Sequence[str], *, host_file: Path | None, save: Path | None
) -> CheckResult:
    """Does not load the matrix: the claims files and the layout's index hold all it needs."""
    host = read_host(host_file) if host_file else this_host()
    if save is not None:
        from buildctl.oci.files import translated, write_whole  # noqa: PLC0415 - rarely

        with translated(save):
            write_whole(save, json.dumps(host.to_json(), indent=2).encode() + b"\n")
    others = _elsewhere(names)
    ours = [name for name in names if name not in others]
    try:
        subjects = catalogue(start, layout)
    except MatrixError:
        if ours or not names:
            raise
        subjects = []  # a reference needs no project
    chosen = [s for s in subjects if s.name in ours] if names else subjects
    if unknown := [name for name in ours if name not in {s.name for s in subjects}]:
        raise UnknownNameError(
            f"unknown: {', '.join(unknown)}",
            hint=f"known: {', '.join(s.name for s in subjects)}; `buildctl claims` reads locked wheels",
        )
    chosen += [subject for found in others.values() for subject in found]
    return CheckResult(host=host, verdicts=tuple(decide(s, host, subjects) for s in chosen))


def _elsewhere(names: Sequence[str]) -> dict[str, list[Subject]]:
    """Those of `names` that are references or layout paths."""
    if not any("/" in name or (Path(name.partition(":")[0]) / "index.json").is_file() for name in names):
        return {}
    from buildctl.host.subject import subjects_of  # noqa: PLC0415 - only references need the registry client

    found = {name: subjects_of(name) for name in dict.fromkeys(names)}
    return {name: subjects for name, subjects in found.items() if subjects}
