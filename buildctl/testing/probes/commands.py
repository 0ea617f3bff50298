"""Findings about commands: what `docker run IMAGE ...` does with them."""

from __future__ import annotations

from collections.abc import Callable

from buildctl.runtimes.api import Outcome, Session
from buildctl.testing.probes.asking import deadline_for, death_of
from buildctl.testing.report import Finding, Status

Command = Callable[[Session], Finding]
LOADER = """
import sys, torch.utils.data as data
loader = data.DataLoader(list(range(8)), batch_size=2, num_workers=2, timeout=float(sys.argv[1]))
print(sum(int(batch.sum()) for batch in loader))
"""
WHERE_IS_THIS = "import importlib.util as u; print(6 * 7, u.find_spec('this').origin)"


def torchrun(session: Session) -> Finding:
    """`torchrun` starts: on PATH, with an interpreter that exists, and finds torch."""
    outcome = session.run(["torchrun", "--help"], timeout=deadline_for(session, 60))
    usage = "usage: torchrun" in outcome.stdout
    detail = "torchrun --help answers" if usage else "torchrun --help: expected its usage"
    return _finding("torchrun", [outcome], problem="" if usage else detail, good=detail)


def entrypoint(session: Session) -> Finding:
    """No command gives Python; a command is run as it is; a script is run by Python."""
    outcomes: list[Outcome] = []

    def start(*argv: str, stdin: str = "") -> str:
        outcomes.append(session.run(argv, stdin=stdin, timeout=deadline_for(session, 20), through_entrypoint=True))
        return outcomes[-1].stdout.strip()

    answer, _, script = start(stdin=WHERE_IS_THIS).partition(" ")
    problem = ""
    if answer != "42":
        problem = f"expected no command to start Python, image printed {answer[:200]!r}"
    elif start("python", "-c", "print(6 * 7)") != "42":
        problem = f"expected `python -c ...` to run, image printed {outcomes[-1].stdout[:200]!r}"
    elif "Beautiful is better than ugly" not in start(script):
        problem = f"expected `{script}` to be run by Python, image printed {outcomes[-1].stdout[:200]!r}"
    return _finding("entrypoint", outcomes, problem=problem, good="Python by default, commands, scripts ending in .py")


def read_only_root(session: Session) -> Finding:
    """Only /dev/shm is writable: DataLoader workers still find a folder for their sockets, and do not hang."""
    argv = ["python", "-c", LOADER, str(deadline_for(session, 30))]
    outcome = session.run(argv, timeout=deadline_for(session, 60), tmp=False, through_entrypoint=True)
    answer = outcome.stdout.strip()
    problem = "" if answer == "28" else f"expected a DataLoader's workers to sum to 28, image printed {answer[:200]!r}"
    return _finding("read-only root", [outcome], problem=problem, good="2 worker processes without a /tmp to write to")


def root_home(session: Session) -> Finding:
    """Root has a home and a name of its own: what it wrote into the user's home, the user could not change."""
    argv = ["python", "-c", "import getpass, pathlib; print(pathlib.Path.home(), getpass.getuser())"]
    timeout = deadline_for(session, 20)
    outcome = session.run(argv, timeout=timeout, user="0:0", read_only=False, through_entrypoint=True)
    answer = outcome.stdout.strip()
    problem = "" if answer == "/root root" else f"expected root to be at home in /root, image printed {answer[:200]!r}"
    return _finding("home of root", [outcome], problem=problem, good="uid 0 is root, with /root as its home")


def _finding(name: str, outcomes: list[Outcome], *, problem: str, good: str) -> Finding:
    death = death_of(outcomes[-1])
    detail = "\n".join(part for part in (problem, death) if part)
    return Finding(
        name=name,
        status=Status.FAILED if detail else Status.PASSED,
        detail=detail or good,
        seconds=sum(o.seconds for o in outcomes),
    )


COMMANDS: tuple[tuple[str, Command], ...] = (
    ("torchrun", torchrun),
    ("entrypoint", entrypoint),
    ("read-only root", read_only_root),
    ("home of root", root_home),
)
