"""The image `uv`: the static uv that installer stages copy, for each platform that builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from buildctl.dockerfile.bake import UV
from buildctl.ground.run import run
from buildctl.ground.scratch import scratch
from buildctl.lock.index import uv_environment
from buildctl.matrix.arch import ARCHES
from buildctl.oci.compression import GZIP
from buildctl.oci.digest import Digest
from buildctl.oci.entry import file_entry
from buildctl.oci.image import Descriptor, History, ImageConfig, Layer, Platform
from buildctl.oci.layer import write_layer
from buildctl.oci.layout import Layout


def put_tool(layout: Layout) -> None:
    """The image `uv`, which the installer stages copy from, for every build platform."""
    layout.create()
    if UV not in layout.names():
        put_uv(layout, tuple(ARCHES), env=uv_environment())


def put_uv(layout: Layout, arches: Sequence[str], *, env: Mapping[str, str]) -> Descriptor:
    """Tag `uv` in `layout`: an image with only the static uv of this version, for each build platform.

    `env` is the environment for uv, which fetches its own wheel from the user's index. Raises ToolError.
    """
    images, blobs = [], dict[Digest, Path]()
    with scratch("docker", under=layout.root) as folder:
        for arch in arches:
            layer, blob = _uv_layer(folder, _static_uv(folder / arch, arch, env))
            blobs[layer.descriptor.digest] = blob
            config = ImageConfig(platform=Platform(architecture=arch), history=(History(created_by="COPY uv /uv"),))
            name = f"{UV}-{arch}"
            images.append(layout.put_image(name=name, config=config, layers=[layer], blob=blobs.__getitem__))
    return layout.put_index(name=UV, manifests=images)


def _static_uv(folder: Path, arch: str, env: Mapping[str, str]) -> Path:
    """The musllinux wheels of uv hold a static binary, which runs in any Linux image of its architecture."""
    import uv  # noqa: PLC0415 - only to find the program

    program = uv.find_uv_bin()
    version = run([program, "--version"], timeout=60, env=env).stdout.split()[1]
    argv = [program, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(folder)]
    run(
        [*argv, "--python-platform", f"{ARCHES[arch].machine}-unknown-linux-musl", f"uv=={version}"],
        timeout=600,
        env=env,
    )
    return folder / "bin" / "uv"


def _uv_layer(scratch: Path, binary: Path) -> tuple[Layer, Path]:
    blob = scratch / f"{binary.parents[1].name}.layer"
    with blob.open("wb") as out:
        layer = write_layer([file_entry(UV, binary.read_bytes(), mode=0o755)], out, compression=GZIP)
    return layer, blob
