from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.debs import Tree, made, tiny_base


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return made(tmp_path, tiny_base())
