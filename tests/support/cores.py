"""Processors that this process shares with nobody, and has only so many of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from buildctl.ground.cores import SHARED, Cores


@contextmanager
def free_cores(count: int) -> Iterator[Cores]:
    cores = Cores(count)
    token = SHARED.set(cores)
    try:
        yield cores
    finally:
        SHARED.reset(token)
        cores.close()
