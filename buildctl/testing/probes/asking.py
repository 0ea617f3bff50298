"""Asking an image: its own Python runs a probe file; whatever that prints is read safely."""

from __future__ import annotations

import importlib.resources
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from buildctl.ground.jsontext import parse_json
from buildctl.runtimes.api import Outcome, Session

# Emulated programs were measured 8 to 12 times slower, imports above all.
EMULATION_FACTOR = 12
STDERR_LINES = 12
DOING = "while asking for:"
# Files that are put in front of a probe, besides ask.py.
PARTS: Mapping[str, tuple[str, ...]] = {"torch_report": ("bytecode", "exchanges", "helpers", "model_files")}


class UnansweredError(Exception):
    """A question that was not answered: the text says why, for the finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one run of a probe answered. `death` is how the run ended if not by itself, with the end of its stderr.

    `overhead` is the wall time in seconds that no question used: starting and ending.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    death: str = ""
    overhead: float = 0.0

    def value(self, question: str) -> Any:
        if question in self.errors:
            raise UnansweredError(self.errors[question])
        if question not in self.values:
            raise UnansweredError(self.death or "the probe gave no answer")
        return self.values[question]


def ask(
    session: Session, probe: str, *, deadline: float, options: Mapping[str, Any] | None = None, **how: Any
) -> Answers:
    """Run `inside/PROBE.py` in the session's image; `deadline`, and options that end in `_s`, are in seconds on the
    machine's own architecture.
    """
    source = "\n".join(_source(name) for name in ("ask", *PARTS.get(probe, ()), probe))
    given = {k: deadline_for(session, v) if k.endswith("_s") else v for k, v in (options or {}).items()}
    argv = ["python", "-c", source, json.dumps(given)]
    return read_answers(session.run(argv, timeout=deadline_for(session, deadline), **how))


def deadline_for(session: Session, native: float) -> float:
    return native * EMULATION_FACTOR if session.emulated else native


def _source(name: str) -> str:
    return (
        importlib.resources.files("buildctl.testing.probes")
        .joinpath("inside", f"{name}.py")
        .read_text(encoding="utf-8")
    )


def read_answers(outcome: Outcome) -> Answers:
    """Use the last line that is an answer; anything else becomes `death`."""
    doing, answers = _last_answers(outcome.stdout)
    death = death_of(outcome)
    if death and doing:
        death = f"{death}\n{DOING} {doing}"
    if not death and answers is None:
        death = f"printed no answer, but {outcome.stdout[-200:]!r}{stderr_tail(outcome)}"
    values, errors, seconds = {}, {}, {}
    for name, answer in (answers or {}).items():
        if not isinstance(answer, dict) or not {"value", "error", "seconds"} <= answer.keys():
            errors[name] = f"an unreadable answer: {str(answer)[:200]}"
            continue
        seconds[name] = float(answer["seconds"]) if isinstance(answer["seconds"], int | float) else 0.0
        if answer["error"] is None:
            values[name] = answer["value"]
        else:
            errors[name] = str(answer["error"])
    overhead = max(0.0, outcome.seconds - sum(seconds.values()))
    return Answers(values=values, errors=errors, seconds=seconds, death=death, overhead=overhead)


def _last_answers(stdout: str) -> tuple[str | None, dict[str, Any] | None]:
    for line in reversed(stdout.splitlines()):
        if not line.startswith('{"doing"'):  # a library's chatter, or a line that a kill cut short
            continue
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("answers"), dict):
            return record.get("doing"), record["answers"]
    return None, None


def death_of(outcome: Outcome) -> str:
    """How a command failed, with the end of its stderr; empty for exit 0."""
    if outcome.timed_out:
        how = f"still running after {outcome.seconds:.0f} s, killed"
    elif outcome.returncode is not None and outcome.returncode < 0:
        how = f"killed by {signal_name(-outcome.returncode)}"
    elif outcome.returncode:
        how = f"exit code {outcome.returncode}"
    else:
        return ""
    return how + stderr_tail(outcome)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def stderr_tail(outcome: Outcome) -> str:
    lines = outcome.stderr.strip().splitlines()[-STDERR_LINES:]
    return "".join(f"\n  {line[:400]}" for line in lines)
