"""`buildctl check`: a verdict for matrix names, references and layouts, before anything is pulled."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from buildctl.console.table import wrapped
from buildctl.ground.errors import ExitCode, MatrixError, UnknownNameError
from buildctl.host.facts import Host, read_host, this_host
from buildctl.host.verdict import Subject, Verdict, VerdictKind, catalogue, decide


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """`take` is the answer to "which one?": the newest torch of those that run best here; None where nothing runs, or
    where one image was asked about.
    """

    host: Host
    verdicts: tuple[Verdict, ...]
    take: Verdict | None = None

    @property
    def exit_code(self) -> int:
        return ExitCode.FAILED if any(v.kind is VerdictKind.NOT for v in self.verdicts) else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        return {
            "host": self.host.to_json(),
            "take": self.take.name if self.take else None,
            "verdicts": [v.to_json() for v in self.verdicts],
        }

    def text(self) -> str:
        """The answer, then why: one paragraph for all images with the same reason."""
        lines = [self.host.summary(), "", *self._answer()]
        for some in _by_reason(self.verdicts):
            lines += wrapped("", f"{', '.join(v.name for v in some)}  {some[0].kind}: {some[0].reason}")
            lines += [f"    {step}" for step in _steps(some)]  # whole: a command is copied
        return "\n".join(lines)

    def _answer(self) -> list[str]:
        if self.take is not None:
            said = f"Take {self.take.name}, which {self.take.kind}: {self.take.reason}"
            return [*wrapped("", said), f"    {self.take.next_step}", ""]
        if len(self.verdicts) > 1 and all(v.kind is VerdictKind.NOT for v in self.verdicts):
            return ["None of them runs here.", ""]
        return []


def _by_reason(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    found: dict[tuple[VerdictKind, str], list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault((verdict.kind, verdict.reason), []).append(verdict)
    return list(found.values())


def _steps(some: Sequence[Verdict]) -> list[str]:
    """One where they differ in the name alone."""
    if len(some) == 1:
        return [some[0].next_step]
    alike = dict.fromkeys(re.sub(rf"(?<![\w.-]){re.escape(v.name)}(?![\w.-])", "NAME", v.next_step) for v in some)
    return list(alike)


def best(subjects: Sequence[Subject], verdicts: Sequence[Verdict]) -> Verdict | None:
    """With the GPU rather than without, an image for CPUs rather than one that lacks its GPU, then the newest torch."""
    order = list(VerdictKind)

    def rank(pair: tuple[Subject, Verdict]) -> tuple[int, bool, Version]:
        subject, verdict = pair
        idle = verdict.kind is VerdictKind.CPU and any(claims.kind.gpu for claims in subject.claims)
        return -order.index(verdict.kind), not idle, Version(subject.claims[0].torch or "0")

    runs = [(s, v) for s, v in zip(subjects, verdicts, strict=True) if v.kind is not VerdictKind.NOT]
    return max(runs, key=rank)[1] if runs else None


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
    verdicts = tuple(decide(s, host, subjects) for s in chosen)
    take = best(chosen, verdicts) if len(chosen) > 1 else None
    return CheckResult(host=host, verdicts=verdicts, take=take)


def _elsewhere(names: Sequence[str]) -> dict[str, list[Subject]]:
    """Those of `names` that are references or layout paths."""
    if not any("/" in name or (Path(name.partition(":")[0]) / "index.json").is_file() for name in names):
        return {}
    from buildctl.host.subject import subjects_of  # noqa: PLC0415 - only references need the registry client

    found = {name: subjects_of(name) for name in dict.fromkeys(names)}
    return {name: subjects for name, subjects in found.items() if subjects}
