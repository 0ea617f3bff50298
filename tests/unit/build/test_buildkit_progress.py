from __future__ import annotations

import io
import time

from rich.console import Console

from buildctl.build.buildkit.progress import ShownSteps, Steps, watched
from buildctl.ground.run import run

# as buildx 0.29 writes it with --progress plain
FAILED = """\
#0 building with "default" instance using docker driver

#1 [internal] load local bake definitions
#1 reading docker-bake.json 643B / 643B done
#1 DONE 0.0s

#6 [two 1/2] RUN seq 1 30; sleep 8
#6 0.100 1

#7 [one 1/2] RUN make
#7 2.152 59
#7 2.152 the reason
#7 ERROR: process "/bin/sh -c make" did not complete successfully: exit code: 7

#6 [two 1/2] RUN seq 1 30; sleep 8
#6 CANCELED
------
 > [one 1/2] RUN make:
2.152 59
2.152 the reason
------
Dockerfile:2
--------------------
   1 |     FROM base AS one
   2 | >>> RUN make
--------------------
ERROR: failed to solve: process "/bin/sh -c make" did not complete successfully: exit code: 7
"""


def fed(text: str, steps: Steps | None = None) -> Steps:
    steps = steps or Steps()
    for line in text.splitlines():
        steps.line(line)
    return steps


def test_why_it_failed_is_the_step_what_it_said_and_where_it_stands() -> None:
    steps = fed(FAILED)
    assert steps.running == {}
    assert steps.why() == (
        "[one 1/2] RUN make\n"
        "  59\n"
        "  the reason\n"
        'process "/bin/sh -c make" did not complete successfully: exit code: 7\n'
        "Dockerfile:2\n"
        "--------------------\n"
        "   1 |     FROM base AS one\n"
        "   2 | >>> RUN make\n"
        "--------------------"
    )


def test_only_the_end_of_what_a_step_said_is_kept() -> None:
    lines = "\n".join(f"#7 {n / 10} line {n}" for n in range(1000))
    said = fed(f"#7 [one 1/2] RUN make\n{lines}\n#7 ERROR: exit code: 1\n").why().splitlines()
    assert said[1] == "  line 975"
    assert said[-2] == "  line 999"


def test_an_error_without_a_step_is_told() -> None:
    assert fed('#0 building with "x"\nERROR: no builder "y" found\n').why() == 'ERROR: no builder "y" found'


def test_what_is_under_way_is_shown_with_the_last_it_said() -> None:
    steps = fed(FAILED.partition("#7 ERROR")[0])
    out = io.StringIO()
    console = Console(file=out, width=60)
    console.print(ShownSteps(steps, console))
    assert out.getvalue().splitlines() == [
        "     0 s  [two 1/2] RUN seq 1 30; sleep 8  1",
        "     0 s  [one 1/2] RUN make  the reason",
    ]


def test_without_a_terminal_a_long_step_has_one_line() -> None:
    out = io.StringIO()
    with watched(Console(file=out, width=120, highlight=False, markup=False)) as steps:
        fed("#1 [a 1/2] RUN true\n#1 DONE 0.1s\n#2 [torch 1/1] RUN make\n#2 1.0 x\n#2 DONE 61.3s\n", steps)
    assert out.getvalue() == "  [torch 1/1] RUN make: 61.3 s\n"


def test_lines_come_while_the_program_runs_and_are_all_kept() -> None:
    seen: list[tuple[str, float]] = []
    script = "echo one >&2; sleep 0.3; echo two >&2; echo out"
    done = run(["sh", "-c", script], timeout=10, on_line=lambda line: seen.append((line, time.monotonic())))
    assert [line for line, _ in seen] == ["one", "two"]
    assert seen[1][1] - seen[0][1] > 0.2
    assert (done.stdout, done.stderr) == ("out\n", "one\ntwo\n")


def test_a_deadline_holds_while_lines_are_read() -> None:
    seen: list[str] = []
    done = run(["sh", "-c", "echo one >&2; sleep 60"], timeout=0.3, check=False, on_line=seen.append)
    assert (done.timed_out, done.stderr, seen) == (True, "one\n", ["one"])
