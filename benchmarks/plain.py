"""The same image by several ways: plain Dockerfiles with pip and with uv, ours through BuildKit, and assemble.

Each ends in an OCI layout on the disk. All fetch the wheels that are locked from an index on loopback, so that no
network is measured.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import docker
from measured import ROOT, SMALL, Took, buildctl, fresh_store, measured, output, taking_turns, warm
from results import Goal, Part, Row, ratio

sys.path.insert(0, str(ROOT))  # the tests' Docker Engine, index and registry

from buildctl.artifacts.store import Store
from buildctl.build.buildkit.buildkit import DockerOptions, build_with_docker, user_secrets, with_fixed_times
from buildctl.docker.load import load
from buildctl.dockerfile.bake import BakeTarget
from buildctl.lock.wheels import LockedWheel, read_wheel_lock
from buildctl.matrix.project import Project
from buildctl.oci.entry import EPOCH
from buildctl.oci.layout import Layout
from tests.support.engine import engine
from tests.support.engine.daemon import stop
from tests.support.registry import docker_registry
from tests.support.wheelhouse import wheelhouse

CELLS = (("cpu-2.6", "arm64"),) if SMALL else (("cuda-2.6", "amd64"), ("cpu-2.6", "arm64"))
PIP, UV = "`pip install` in a plain Dockerfile", "uv and cache mounts in a plain Dockerfile"
UV_AGAIN = "the same with one package more, cache mounts full"
BUILDKIT, CACHED = "our Dockerfile through BuildKit", "our Dockerfile through BuildKit, its registry cache full"
ASSEMBLE = "assemble"
WANTED = ("torch", "torchvision", "numpy", "torchaudio")
# what python:3.13-slim is to a plain Dockerfile: Debian, Python 3.13 and pip
WITH_PIP = """\
FROM base
USER 0:0
COPY {pip} /tmp/
RUN python3 /tmp/{pip}/pip install --no-index --no-cache-dir /tmp/{pip} && rm /tmp/{pip}
"""
NOTES = """\
Docker Engine {version} with its own BuildKit; everything starts with an empty build cache but the rows that say
otherwise, ends in an OCI layout on the disk, and has the same base (Debian 13 with Python 3.13; for pip with pip in it)
and the same locked wheels, which BuildKit fetches from an index on loopback. "emulated": pip runs under QEMU. The plain
Dockerfile is `RUN pip install torch==2.6.0 torchvision==... torchaudio==... numpy==...` with BuildKit's defaults:
gzip, and pip's cache in the layer. With uv it is `RUN --mount=type=cache,target=/root/.cache/uv uv pip install ...`,
zstd as ours. Ours has a layer for each heavy wheel. The registry cache is BuildKit's `type=registry`, `mode=max`, in a
registry on loopback. assemble is the whole command.

Images of two PyTorch versions share little: NVIDIA's packages have other versions, so cuda-2.10 shares only the base
with cuda-2.6. A flavour, a rebuild with newer Debian packages and a second image on the same
PyTorch share all wheels."""
# (image, row) -> how many times as fast as the plain Dockerfile it is to be
GOALS = {("cuda-2.6", ASSEMBLE): 7.0, ("cpu-2.6", ASSEMBLE): 16.0, ("cpu-2.6", BUILDKIT): 5.0}
PLAIN = "FROM pip\nRUN pip install --index-url {index} {wanted}\n"
WITH_UV = """\
FROM pip
COPY --from=uv /uv /usr/local/bin/
ENV UV_LINK_MODE=copy
RUN --mount=type=cache,target=/root/.cache/uv \\
    uv pip install --system --break-system-packages --default-index {index} {wanted}
"""
ZSTD = {"compression": "zstd", "oci-mediatypes": "true"}


@dataclass(frozen=True, kw_only=True)
class Bench:
    root: Path
    bases: Path
    client: docker.DockerClient
    registry: str
    contexts: dict[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def context(self) -> Path:
        return self.root / "context"

    def build(self, dockerfile: str, arch: str, *, forget: bool = True, **out: str) -> Took:
        """`docker buildx build` into a layout, `out` below the root; from an empty build cache with `forget`."""
        shutil.rmtree(self.out, ignore_errors=True)
        if forget:
            self.forget()
        (self.context / "Dockerfile").write_text(dockerfile)
        options = ",".join(f"{k}={v}" for k, v in {"type": "oci", "tar": "false", "dest": self.out, **out}.items())
        argv = ["docker", "buildx", "build", "--platform", f"linux/{arch}", "--provenance", "false"]
        argv += [word for name, place in self.contexts.items() for word in ("--build-context", f"{name}={place}")]
        argv += ["--progress", "plain", "--network", "host", "--allow", "network.host", "--output", options]
        return measured(lambda: output([*argv, str(self.context)]))[0]

    def forget(self) -> None:
        output(["docker", "buildx", "prune", "-af"])


@contextmanager
def docker_bench(root: Path) -> Iterator[Bench]:
    """An engine, a registry that it reaches, and what plain Dockerfiles start from."""
    bases = root / "bases"
    buildctl("--layout", bases, "bases", "cuda-2.6", "cpu-2.6", env={})
    (root / "context").mkdir()
    with engine() as running, docker_registry(root / "registry") as registry:
        # for every command from here on
        os.environ.update({k: running.env[k] for k in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH") if k in running.env})
        yield Bench(root=root, bases=bases, client=running.client(), registry=registry)
    stop()  # it would end in the middle of what is measured next


def measure(root: Path, _: int) -> Part:
    """One turn of each: together they take ten minutes."""
    buildctl("fetch", "cuda-2.6", "cpu-2.6", env={})
    with docker_bench(root) as bench:
        known = output(["docker", "buildx", "inspect"])
        if missing := [arch for _, arch in CELLS if f"linux/{arch}" not in known]:
            sys.exit(f"this Docker Engine cannot run programs of {missing[0]}, as pip under emulation needs: QEMU")
        found = {name: image_times(bench, name, arch) for name, arch in CELLS}
        rows = [row for name, arch in CELLS for row in image_rows(f"{name}/{arch}", arch, found[name])]
        rows += load_rows(bench)
        version = bench.client.version()["Version"]
    goals = tuple(
        Goal(
            what=f"{name}, {what}: times as fast as a plain Dockerfile",
            want=goal,
            got=ratio(found[name][PIP], found[name][what]),
            least=True,
        )
        for (name, what), goal in GOALS.items()
        if name in found
    )
    return Part(title="Compared with Docker", rows=tuple(rows), notes=NOTES.format(version=version), goals=goals)


@contextmanager
def index_for(bench: Bench, name: str, arch: str) -> Iterator[tuple[str, str]]:
    """(URL of an index with the locked wheels, what a Dockerfile asks it for); a base with pip is made."""
    wheels = read_wheel_lock(Project.find(ROOT).wheel_lock(name, arch)).wheels
    store = Store.default()
    with wheelhouse(wheels, store) as index:
        bench.contexts.update(base=f"oci-layout://{bench.bases}:base-debian13", uv=f"oci-layout://{bench.bases}:uv")
        bench.contexts["pip"] = pip_image(bench, wheels, arch)
        versions = {wheel.name: wheel.version for wheel in wheels}
        yield index, " ".join(f"{package}=={versions[package]}" for package in WANTED)


def image_times(bench: Bench, name: str, arch: str) -> dict[str, list[Took]]:
    with index_for(bench, name, arch) as (index, wanted):
        uv = WITH_UV.format(index=index, wanted=wanted)
        ways: dict[str, Callable[[], Took]] = {PIP: lambda: bench.build(PLAIN.format(index=index, wanted=wanted), arch)}
        if arch == native():
            less = WITH_UV.format(index=index, wanted=wanted.rpartition(" ")[0])
            ways[UV] = lambda: bench.build(less, arch, **ZSTD)
            ways[UV_AGAIN] = lambda: bench.build(uv, arch, forget=False, **ZSTD)
        ways[BUILDKIT] = lambda: ours(bench, name, arch, index, cache_to=True)
        ways[CACHED] = lambda: ours(bench, name, arch, index)
        ways[ASSEMBLE] = lambda: assemble(bench, name)
        wheels = read_wheel_lock(Project.find(ROOT).wheel_lock(name, arch)).wheels
        paths = [path for wheel in wheels if (path := Store.default().artifact(wheel.digest))]
        return taking_turns({what: partial(_warmed, paths, way) for what, way in ways.items()}, 1)


def _warmed(paths: list[Path], way: Callable[[], Took]) -> Took:
    """With the wheels in the page cache: what the row before has written has pushed them out."""
    warm(paths)
    return way()


def image_rows(image: str, arch: str, took: Mapping[str, list[Took]]) -> list[Row]:
    how = ", emulated" if arch != native() else ""
    first = f"{image}: {PIP}{how}"
    chart = f"{image}, seconds to an OCI layout"
    return [
        Row(
            what=first if what == PIP else f"{image}: {what}",
            turns=tuple(turns),
            than="" if what == PIP else first,
            chart=chart,
        )
        for what, turns in took.items()
    ]


def native() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")


def pip_image(bench: Bench, wheels: Sequence[LockedWheel], arch: str) -> str:
    """A base with pip, not measured."""
    pip = next(wheel for wheel in wheels if wheel.name == "pip")
    found = Store.default().artifact(pip.digest)
    assert found is not None
    shutil.copyfile(found, bench.context / pip.filename)
    bench.contexts.pop("pip", None)
    bench.build(WITH_PIP.format(pip=pip.filename), arch)
    layout = bench.root / f"pip-{arch}"
    bench.out.rename(layout)
    (manifest,) = Layout(layout).read_index().manifests
    return f"oci-layout://{layout}@{manifest.digest}"


def ours(bench: Bench, name: str, arch: str, index: str, *, cache_to: bool = False) -> Took:
    """With `cache_to`, what it made goes to the registry afterwards, not measured."""
    bench.forget()
    target = BakeTarget(
        name=f"{name}-{arch}",
        arch=arch,
        dockerfile=f"{name}/Dockerfile",
        context=str(ROOT / "images"),
        contexts={key: place for key, place in bench.contexts.items() if key != "pip"},
    )
    layout, cache = Layout(bench.root / "ours"), f"{bench.registry}/cache"
    secrets = user_secrets(bench.root, {"UV_DEFAULT_INDEX": index})
    plain = DockerOptions(epoch=EPOCH, secrets=secrets, network="host")
    filling = DockerOptions(epoch=EPOCH, secrets=secrets, network="host", cache_to=cache)
    reading = DockerOptions(epoch=EPOCH, secrets=secrets, network="host", cache_from=(cache,))

    def build(options: DockerOptions) -> Took:
        took, _ = measured(lambda: build_with_docker([with_fixed_times(target)], options, layout=layout))
        shutil.rmtree(layout.root)
        return took

    took = build(plain if cache_to else reading)
    if cache_to:
        build(filling)
    bench.forget()
    return took


def assemble(bench: Bench, name: str) -> Took:
    """The whole command, from downloads and the base that the others get too."""
    store = bench.root / f"store-{name}"
    env = fresh_store(store, "receipts")  # which a download leaves, too
    buildctl("--layout", store / "dist", "bases", name, env=env)
    took, _ = buildctl("--layout", store / "dist", "build", name, "--no-load", env=env)
    shutil.rmtree(store)
    return took


def load_rows(bench: Bench) -> list[Row]:
    """Each image after those before it."""
    layout = Layout(bench.root / "load")
    names, arch = (("cpu-2.6",), "arm64") if SMALL else (("cuda-2.6", "cuda-2.6-devel", "cuda-2.10"), "amd64")
    buildctl("--layout", layout.root, "build", *names, "--arch", arch, "--no-load", env={})
    client, found = bench.client, []
    tags = [f"buildctl-bench:{name}" for name in names]
    try:
        for name, tag in zip(names, tags, strict=True):
            descriptor = layout.resolve(name, arch)
            size = sum(layer.size for layer in layout.manifest(descriptor).layers)
            took, loaded = measured(lambda d=descriptor, t=tag: load(layout, d, t, client=client))
            moved = f"moved {(loaded.moved or 0) / 1e6:,.0f} of {size / 1e6:,.0f} MB"
            found.append(Row(what=f"{name}/{arch} into Docker (`{loaded.how}`)", turns=(took,), note=moved))
    finally:
        for tag in tags:
            if client.images.list(name=tag):
                client.images.remove(tag, force=True)
    return found
