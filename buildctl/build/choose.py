"""Which engine builds: its names for the command line. Each is imported only where it builds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildctl.build.engine import Built, Engine, Order


def _assemble(order: Order) -> list[Built]:
    from buildctl.build.assembler import assemble_images

    return assemble_images(order)


def _docker(order: Order) -> list[Built]:
    from buildctl.build.buildkit.buildkit import docker_images

    return docker_images(order)


ENGINES: Mapping[str, Engine] = {"assemble": _assemble, "docker": _docker}
