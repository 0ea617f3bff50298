"""The command line in this process: what a test of its answers needs, without half a second to start Python and import.

A test about the process itself (signals, what is imported, what a shell sees) starts one: `tests.conftest.buildctl`.
"""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest

from buildctl.cli import main
from buildctl.ground.interrupts import ENDING
from tests.conftest import ROOT, Ran


def run_command(*args: str | Path, cwd: Path = ROOT) -> Ran:
    """What `buildctl ARGS` in `cwd` answers, and its exit code. An error that is not a message reaches the test."""
    with _as_process(["buildctl", *map(str, args)], cwd) as (out, err), pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return Ran(end.value.code, out.getvalue(), err.getvalue())


@contextmanager
def _as_process(argv: list[str], cwd: Path) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Its arguments, its folder and its output; what `main` does to signals is undone."""
    before = {number: signal.getsignal(number) for number in ENDING}
    out, err = io.StringIO(), io.StringIO()
    try:
        with patch.object(sys, "argv", argv), chdir(cwd), redirect_stdout(out), redirect_stderr(err):
            yield out, err
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
