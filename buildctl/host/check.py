"""`buildctl check`: a verdict for matrix names, references and layouts, before anything is pulled."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from buildctl.console.table import wrapped
from buildctl.ground.errors import ExitCode, MatrixError, UnknownNameError
from buildctl.host.catalogue import Subject, catalogue
from buildctl.host.facts import Host, read_host, this_host
from buildctl.host.verdict import Step, Verdict, VerdictKind, decide
from buildctl.matrix.accelerators import VERSIONED
from buildctl.runtimes.devices import device_files


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """`take` is the answer to "which one?": the newest torch of those that run best here; None where nothing runs, or
    where one image was asked about. Of the names in `unlocked` nothing is known.
    """

    host: Host
    verdicts: tuple[Verdict, ...]
    take: Verdict | None = None
    unlocked: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return ExitCode.FAILED if any(v.kind is VerdictKind.NOT for v in self.verdicts) else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        return {
            "host": self.host.to_json(),
            "take": self.take.name if self.take else None,
            "unlocked": list(self.unlocked),
            "verdicts": [v.to_json() for v in self.verdicts],
        }

    def text(self) -> str:
        """The answer and why; then the others, those that run best first, one paragraph for all with one cause."""
        lines = [*wrapped("", self.host.summary()), ""]
        groups = _by_cause(self.verdicts)
        if self.take is not None:
            same = next(some for some in groups if self.take in some)
            lines += self._answer(self.take, [v for v in same if v is not self.take])
            groups.remove(same)
        elif len(self.verdicts) > 1 and all(v.kind is VerdictKind.NOT for v in self.verdicts):
            lines += ["None of them runs here.", ""]
        for some in groups:
            lines += wrapped("", f"{_names(some)}  {_said(some)}: {_reasons(some)}")
            lines += _steps(some)
        if self.unlocked:
            lines += [
                *([""] if lines[-1] else []),
                *wrapped("", f"Not locked, so unknown: {', '.join(self.unlocked)}"),
                "    buildctl lock",
            ]
        return "\n".join(lines).strip()

    def _answer(self, take: Verdict, same: Sequence[Verdict]) -> list[str]:
        lines = wrapped("", f"Take {take.name}, which {take.kind}: {take.reason}")
        lines += _steps([take])
        if take.kind is not VerdictKind.GPU and (hint := _other_gpu(self.host)):
            lines += wrapped("    ", hint)
        if same:
            also = f": {_reasons(same)}" if any(v.reason != take.reason for v in same) else ""
            lines += ["", *wrapped("", f"{_names(same)}  the same{also}")]
        return [*lines, ""]


def _names(some: Sequence[Verdict]) -> str:
    return ", ".join(v.name for v in some)


def _said(some: Sequence[Verdict]) -> str:
    kind = str(some[0].kind)
    return kind if len(some) == 1 else kind.replace("runs", "run").replace("does", "do")


def _cause(verdict: Verdict) -> str:
    return verdict.reason.removesuffix(verdict.own)


def _reasons(some: Sequence[Verdict]) -> str:
    return _cause(some[0]) + "; ".join(dict.fromkeys(v.own for v in some))


def _by_cause(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    found: dict[tuple[VerdictKind, str], list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault((verdict.kind, _cause(verdict)), []).append(verdict)
    order = list(VerdictKind)
    return sorted(found.values(), key=lambda some: order.index(some[0].kind))


def _steps(some: Sequence[Verdict]) -> list[str]:
    """Prose is wrapped; each command has a line of its own. Steps that differ only in the name are printed once, and
    all images to use instead are on one line.
    """
    lines: dict[str, None] = {}
    for verdict in some:
        for step in verdict.steps:
            general = Step(says=_named(step.says, some, verdict), commands=step.commands)
            said = wrapped("    ", f"{general.says}:" if general.says and step.commands else general.says)
            lines |= dict.fromkeys(line for line in said if line.strip())
            commands = [part for command in step.commands for part in command.split(" && ")]
            lines |= dict.fromkeys(f"    {_named(command, some, verdict)}" for command in commands)
    instead = [line.removeprefix(_USE) for line in lines if line.startswith(_USE)]
    if len(instead) > 1 and not any(" " in name for name in instead):
        return wrapped("    ", f"use {', '.join(instead)}") + [line for line in lines if not line.startswith(_USE)]
    return list(lines)


_USE = "    use "


def _named(text: str, some: Sequence[Verdict], verdict: Verdict) -> str:
    return text if len(some) == 1 else re.sub(rf"(?<![\w.-]){re.escape(verdict.name)}(?![\w.-])", "NAME", text)


def _other_gpu(host: Host) -> str:
    """For a GPU that no image of this matrix uses."""
    for kind in VERSIONED:
        if kind.files is not None and device_files(kind.files, host.nodes)[0]:
            return f"no image here is for the {kind.files.maker} GPU: docs/accelerators.md says how to add {kind.label}"
    return ""


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
    start: Path,
    layout: Path | None,
    names: Sequence[str],
    *,
    host_file: Path | None,
    save: Path | None,
    more: Callable[[Sequence[Subject], str, str], list[Subject]] | None = None,
) -> CheckResult:
    """Does not load the matrix: the claims files and the layout's index hold all it needs. `more` is asked about other
    names, with all subjects, the name and the architecture of images here.
    """
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
    arch = host.engine.arch if host.engine else host.arch
    by_name = {s.name: [s] for s in subjects} | others
    chosen = [] if names else subjects
    for name in dict.fromkeys(names):
        if name in by_name:
            chosen += by_name[name]
        elif more is not None:
            chosen += more(subjects, name, arch)
        else:
            raise _unknown(name, subjects)
    verdicts = tuple(decide(s, host, subjects) for s in chosen)
    take = best(chosen, verdicts) if len(chosen) > 1 else None
    return CheckResult(host=host, verdicts=verdicts, take=take)


def _unknown(name: str, subjects: Sequence[Subject]) -> UnknownNameError:
    return UnknownNameError(
        f"unknown: {name}",
        hint=f"known: {', '.join(s.name for s in subjects)}; `buildctl claims` reads locked wheels",
    )


def _elsewhere(names: Sequence[str]) -> dict[str, list[Subject]]:
    """Those of `names` that are references or layout paths."""
    if not any("/" in name or (Path(name.partition(":")[0]) / "index.json").is_file() for name in names):
        return {}
    from buildctl.host.subject import subjects_of  # noqa: PLC0415 - only references need the registry client

    found = {name: subjects_of(name) for name in dict.fromkeys(names)}
    return {name: subjects for name, subjects in found.items() if subjects}
