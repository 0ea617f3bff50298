"""A worker process that outlives its parent waits for work that never comes, with all its memory."""

from __future__ import annotations

import os
import threading
from multiprocessing import connection, parent_process


def end_with_parent() -> None:
    """In a process of multiprocessing: die as soon as the parent does, on every system and whatever ended it.

    Programs that this process feeds see the end of their input.
    """
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for_end, args=(parent.sentinel,), daemon=True).start()


def _wait_for_end(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
