"""BuildKit's output (`--progress plain`): live on a terminal, few lines elsewhere, and why a build failed."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text

from buildctl.console import log

SHOWN = 8  # lines on a terminal
KEPT = 25  # lines of what a step said
LONG = 5.0  # seconds; elsewhere only such steps have a line
_LINE = re.compile(r"#([1-9]\d*) (.*)")
_SAID = re.compile(r"\d+\.\d+ (.*)")  # a step's own output starts with the second it came in
_DONE = re.compile(r"(?:DONE (\d+(?:\.\d+)?)s|CACHED|CANCELED)$")


@dataclass(slots=True, kw_only=True)
class BuildStep:
    name: str
    started: float
    said: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))


@dataclass(slots=True, kw_only=True)
class Steps:
    """Takes the lines one by one. `running` are the steps that are under way, `failed` the first that failed.

    Long steps are reported on `lines` when they end.
    """

    lines: Console | None = None
    running: dict[str, BuildStep] = field(default_factory=dict)
    known: dict[str, BuildStep] = field(default_factory=dict)
    failed: BuildStep | None = None
    problem: str = ""
    tail: list[str] = field(default_factory=list)  # everything behind the steps: the place in the Dockerfile, the error

    def line(self, text: str) -> None:
        match = _LINE.match(text)
        if match is None:
            if self.failed is not None or text.startswith("ERROR"):
                self.tail.append(text)
            return
        number, rest = match.groups()
        step = self.known.get(number)
        if step is None:
            step = self.known[number] = self.running[number] = BuildStep(name=rest, started=time.monotonic())
        elif done := _DONE.match(rest):
            self.running.pop(number, None)
            seconds = float(done[1] or 0)
            if self.lines is not None and seconds >= LONG:
                self.lines.print(f"  {step.name[:100]}: {seconds:.1f} s")
        elif rest.startswith("ERROR: "):
            self.running.pop(number, None)
            if self.failed is None:
                self.failed, self.problem = step, rest.removeprefix("ERROR: ")
        elif rest != step.name:
            said = _SAID.match(rest)
            step.said.append(said[1] if said else rest)
            if number not in self.running:  # exporting, for one, has parts that end before it does
                self.running[number] = step

    def why(self) -> str:
        """For people: the step, its last output, the place in the Dockerfile. "" if no step failed."""
        if self.failed is None:
            return "\n".join(self.tail)
        # behind the steps come rulers around the output, which is above, and around the lines of the Dockerfile
        rulers = [n for n, text in enumerate(self.tail) if text == "------"]
        place = [
            text for text in self.tail[rulers[1] + 1 if len(rulers) > 1 else 0 :] if not text.startswith("ERROR: ")
        ]
        said = [f"  {text}" for text in self.failed.said]
        return "\n".join([self.failed.name, *said, self.problem, *place]).rstrip()


class ShownSteps:
    """What rich redraws: the running steps, the seconds of each, its last output."""

    def __init__(self, steps: Steps, console: Console) -> None:
        self.steps, self.console = steps, console

    def __rich__(self) -> Text:
        now, width = time.monotonic(), self.console.width
        lines = []
        for step in [*self.steps.running.values()][-SHOWN:]:
            last = f"  {step.said[-1]}" if step.said else ""
            lines.append(f"{now - step.started:6.0f} s  {step.name}{last}"[: width - 1])
        return Text("\n".join(lines), no_wrap=True, overflow="crop")


@contextmanager
def watched(console: Console | None = None) -> Iterator[Steps]:
    """Steps, shown on stderr; call their `line`, from one thread, with each line of BuildKit's output."""
    console = log.console if console is None else console
    if console.is_terminal and not console.is_dumb_terminal:
        steps = Steps()
        with Live(ShownSteps(steps, console), console=console, transient=True, refresh_per_second=4):
            yield steps
    else:
        yield Steps(lines=console)
