"""A unit test talks to nobody: one that opens a socket, starts Docker or asks a package index has failed.

`sitecustomize.py` refuses, in this process and, through PYTHONPATH, in every Python that a test starts. It also notes
what it refused in a file, so that code which catches the error does not hide it.
"""

from __future__ import annotations

import atexit
import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.guard import sitecustomize

HERE = Path(__file__).parent


@functools.cache
def notes() -> Path:
    """One file a process."""
    handle, name = tempfile.mkstemp(prefix="buildctl-guard-")
    os.close(handle)
    atexit.register(Path(name).unlink, missing_ok=True)
    return Path(name)


@contextmanager
def guarded() -> Iterator[Path]:
    """Refuse in this process and its children; yields the file of what was refused, a line each."""
    sitecustomize.install()
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    wanted = {sitecustomize.NOTES: str(notes()), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield notes()
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
        if notes().stat().st_size:
            notes().write_bytes(b"")
