"""Testing an image: every applicable check becomes one finding, whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from buildctl.ground.errors import LayoutError, RuntimeUnavailableError, ToolError
from buildctl.oci.digest import Digest
from buildctl.runtimes.api import ImageRef, Runtime, Session
from buildctl.runtimes.interpreter import Interpreter
from buildctl.runtimes.native import NativeRuntime
from buildctl.testing.probes import native_checks
from buildctl.testing.probes.asking import Answers, UnansweredError, ask
from buildctl.testing.probes.checks import CHECKS, RUNS, Check, Run
from buildctl.testing.probes.commands import COMMANDS, Command, torchrun
from buildctl.testing.probes.expected import Expected
from buildctl.testing.report import Finding, Report, Status

_TICK = 0.1  # seconds
WRONG_SHAPE = (KeyError, TypeError, ValueError, AttributeError, IndexError)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSubject:
    """What a report is about: a cell as it is at one digest, and how to start a session on it."""

    cell: str
    digest: Digest
    arch: str
    runtime: Runtime | NativeRuntime
    start: Callable[[], AbstractContextManager[Session]]


def test_image(
    image: ImageRef,
    expected: Expected,
    runtime: Runtime,
    *,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Run all checks on the image; `on_finding` gets each finding as soon as it is known.

    Never raises for what the image does. If no runtime can run it, every finding is NOT RUN, with the reason; an
    image that cannot even be unpacked is FAILED.
    """
    subject = ReportSubject(
        cell=image.name,
        digest=image.descriptor.digest,
        arch=image.arch,
        runtime=runtime,
        start=lambda: runtime.start(image),
    )
    return test_subject(subject, expected, on_finding=on_finding)


def test_native(
    folder: Path,
    expected: Expected,
    *,
    cell: str,
    lock: Digest,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """The same for the native environment in `folder`, made from a lock of the digest `lock`."""
    runtime = NativeRuntime()
    subject = ReportSubject(
        cell=cell, digest=lock, arch=expected.arch, runtime=runtime, start=lambda: runtime.start(folder)
    )
    return test_subject(subject, expected, on_finding=on_finding)


def test_environment(
    interpreter: Interpreter,
    expected: Expected,
    *,
    name: str,
    digest: Digest,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """The same for the environment of that Python; `digest` is of what is installed in it."""
    runtime = NativeRuntime()
    subject = ReportSubject(
        cell=name, digest=digest, arch=expected.arch, runtime=runtime, start=lambda: runtime.enter(interpreter)
    )
    return test_subject(subject, expected, on_finding=on_finding)


def test_subject(
    subject: ReportSubject, expected: Expected, *, on_finding: Callable[[Finding], None] | None = None
) -> Report:
    emulated, gpus = None, False
    findings: list[Finding] = []
    began = time.monotonic()

    def add(found: Iterator[Finding]) -> None:
        for finding in found:
            findings.append(finding)
            if on_finding:
                on_finding(finding)

    try:
        with subject.start() as session:
            emulated, gpus = session.emulated, session.gpus
            add(findings_of(session, expected))
    except RuntimeUnavailableError as error:
        reason = f"{error.message} ({error.hint})" if error.hint else error.message
        done = {f.name for f in findings}
        # nobody is told yet: another runtime may run it
        findings += [not_run(name, reason) for name in names_of(expected) if name not in done]
    except LayoutError as error:
        add(iter([Finding(name="image", status=Status.FAILED, detail=error.message)]))
    findings = _shares(findings, time.monotonic() - began)
    return Report(
        cell=subject.cell,
        digest=subject.digest,
        arch=subject.arch,
        runtime=subject.runtime.name,  # includes the machine only once started
        emulated=emulated,
        gpus=gpus,
        findings=tuple(findings),
    )


def _shares(findings: list[Finding], seconds: float) -> list[Finding]:
    """With each finding's share of these seconds, where some were asked at the same time."""
    together = sum(f.seconds for f in findings)
    factor = min(1.0, seconds / together) if together else 1.0
    return [replace(f, seconds=f.seconds * factor) for f in findings]


def names_of(expected: Expected) -> list[str]:
    """The findings of a report on such an image or environment, in order."""
    return [c.name for c in checks_of(expected)] + [name for name, _ in commands_of(expected)]


def checks_of(expected: Expected) -> list[Check]:
    return [c for c in (native_checks.CHECKS if expected.native else CHECKS) if c.applies(expected)]


def commands_of(expected: Expected) -> Sequence[tuple[str, Command]]:
    return (("torchrun", torchrun),) if expected.native else COMMANDS


def runs_of(expected: Expected) -> Mapping[str, Run]:
    return native_checks.RUNS if expected.native else RUNS


def findings_of(session: Session, expected: Expected) -> Iterator[Finding]:
    """In the order of `names_of`, each as soon as it and those before it are known."""
    steps = [partial(_asked, session, run, checks, expected) for run, checks in _by_run(expected).items()]
    steps += [partial(_commanded, session, name, command, expected) for name, command in commands_of(expected)]
    if session.at_once == 1:
        for step in steps:
            yield from step()
        return
    with ThreadPoolExecutor(session.at_once) as pool:
        futures = [pool.submit(step) for step in steps]
        try:
            for future in futures:
                yield from future.result()
        finally:  # of an interrupt, too: what runs is ended, what waits never starts
            pool.shutdown(wait=False, cancel_futures=True)
            while wait([future for future in futures if not future.cancelled()], timeout=_TICK).not_done:
                session.stop()


def _asked(session: Session, run: str, checks: list[Check], expected: Expected) -> list[Finding]:
    reasons = {c.name: expected.unclaimed.get(c.name) or c.blocked(expected, session) for c in checks}
    asked = [check for check in checks if not reasons[check.name]]
    found = {f.name: f for f in _findings_of_run(session, run, asked, expected)} if asked else {}
    known = [found.pop(c.name) if c.name in found else not_run(c.name, reasons[c.name]) for c in checks]
    return [*known, *found.values()]


def _commanded(session: Session, name: str, command: Command, expected: Expected) -> list[Finding]:
    if name in expected.unclaimed:
        return [not_run(name, expected.unclaimed[name])]
    try:
        return [command(session)]
    except ToolError as error:
        return [not_run(name, error.message)]


def _by_run(expected: Expected) -> dict[str, list[Check]]:
    runs: dict[str, list[Check]] = {}
    for check in checks_of(expected):
        runs.setdefault(check.run, []).append(check)
    return runs


def _findings_of_run(session: Session, name: str, checks: list[Check], expected: Expected) -> Iterator[Finding]:
    run = runs_of(expected)[name]
    try:
        options = {**run.options, "ownership": session.ownership}
        answers = ask(
            session, run.probe, deadline=run.deadline, options=options, user=run.user, read_only=run.read_only
        )
    except ToolError as error:  # the runtime failed, not the image
        yield from (not_run(check.name, error.message) for check in checks)
        return
    findings, counted = [], set[str]()
    for check in checks:
        finding = finding_of(check, answers, expected, ownership=session.ownership)
        fresh = set(check.questions) - counted
        seconds = sum(answers.seconds.get(question, 0.0) for question in fresh) + (0 if counted else answers.overhead)
        findings.append(replace(finding, seconds=seconds))
        counted |= fresh
    yield from findings
    if answers.death and all(f.status is not Status.FAILED for f in findings):
        yield Finding(name=f"{name} process", status=Status.FAILED, detail=answers.death)


def finding_of(check: Check, answers: Answers, expected: Expected, *, ownership: bool = True) -> Finding:
    try:
        values = {question: answers.value(question) for question in check.questions}
        value: Any = next(iter(values.values())) if len(values) == 1 else values
        status, detail = check.judge(expected, value)
        if status is Status.PASSED and not ownership and (reason := _owner_unknown(value)):
            status, detail = Status.NOT_RUN, reason
    except UnansweredError as problem:
        status, detail = Status.FAILED, str(problem)
    except WRONG_SHAPE as problem:
        status, detail = Status.FAILED, f"unexpected answer ({problem!r})"
    return Finding(name=check.name, status=status, detail=detail)


def _owner_unknown(value: Any) -> str:
    """Why a successful write proves nothing: without root all files seem to belong to the current user."""
    modes = value.get("modes") if isinstance(value, dict) else None
    closed = [folder for folder, mode in (modes or {}).items() if not int(mode, 8) & 0o002]
    return f"this sandbox runs without root and cannot tell who owns {', '.join(closed)}" if closed else ""


def not_run(name: str, reason: str) -> Finding:
    return Finding(name=name, status=Status.NOT_RUN, detail=reason)
