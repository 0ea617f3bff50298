"""Scripts that every Dockerfile copies from its build context; `buildctl render` puts them into images/common."""

from __future__ import annotations

import importlib.resources

COMMON = ("entrypoint", "install-wheels")
# where the base of an image has python3 and no python
PYTHON = "python"


def common_file(name: str) -> bytes:
    return importlib.resources.files(__name__).joinpath(name).read_bytes()
