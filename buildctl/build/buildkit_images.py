"""`buildctl build --engine docker`: cells to bake targets, and docker-bake.json for users with only Docker."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from buildctl.build.assemble import Built
from buildctl.build.buildkit import DockerOptions, build_with_docker, has_fixed_times, put_uv, user_secrets
from buildctl.console.log import say
from buildctl.dockerfile.bake import UV, Target, target_of
from buildctl.dockerfile.parse import read_dockerfile
from buildctl.ground.errors import DockerfileError
from buildctl.lock.index import uv_environment
from buildctl.matrix.cells import Cell, DebianBase
from buildctl.matrix.matrix import ARCHES
from buildctl.matrix.project import Project
from buildctl.oci.layer import Compression
from buildctl.oci.layout import Layout


def docker_images(
    project: Project,
    cells: Sequence[Cell],
    layout: Layout,
    *,
    compression: Compression,
    epoch: int,
    builder: str | None,
    context: str | None = None,
) -> list[Built]:
    """Build with BuildKit into the layout; the bases must be there. One bake for each index that serves torch."""
    put_tool(layout)
    environment = uv_environment()
    built: dict[str, Built] = {}
    for index in dict.fromkeys(cell.accelerator.index for cell in cells):
        some = [cell for cell in cells if cell.accelerator.index == index]
        start = time.perf_counter()
        say(f"building {', '.join(cell.id for cell in some)} with docker buildx bake")
        with tempfile.TemporaryDirectory(prefix="buildctl-") as secrets:
            options = DockerOptions(
                epoch=epoch,
                compression=compression,
                builder=builder,
                context=context,
                secrets=user_secrets(Path(secrets), environment, index=index),
            )
            targets = [_target(cell, context=project.images, layout=layout.root) for cell in some]
            found = build_with_docker(targets, options, layout=layout)
        seconds = (time.perf_counter() - start) / len(some)
        for name, descriptor in found.items():
            layers = layout.manifest(descriptor).layers
            built[name] = Built(
                name=name,
                descriptor=descriptor,
                size=sum(layer.size for layer in layers),
                made=len(layers),
                reused=0,
                seconds=seconds,
            )
    return [built[cell.id] for cell in cells]


def put_tool(layout: Layout) -> None:
    """The image `uv`, which the installer stages copy from, for every build platform."""
    layout.create()
    if UV not in layout.names():
        put_uv(layout, ARCHES, env=uv_environment())


def _target(cell: Cell, *, context: Path, layout: Path) -> Target:
    target = target_of(cell, context=context, layout=layout)
    # a foreign base may be compressed differently, which triggers a second export
    return with_fixed_times(target) if isinstance(cell.base, DebianBase) else target


def with_fixed_times(target: Target) -> Target:
    """`target` as its Dockerfile is: see `has_fixed_times`. BuildKit may accept one that our parser refuses."""
    with suppress(DockerfileError):
        return replace(target, fixed_times=has_fixed_times(read_dockerfile(Path(target.context, target.dockerfile))))
    return target
