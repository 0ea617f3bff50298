from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture
def umask() -> Iterator[None]:
    """Of somebody whose files nobody else may read."""
    before = os.umask(0o077)
    yield
    os.umask(before)
