"""The same image by four ways: a plain Dockerfile with pip, ours through BuildKit, and assemble; then into Docker.

Each ends in an OCI layout on the disk and starts with nothing cached. All fetch the wheels that are locked from an
index on loopback, so that no network is measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
from measured import ROOT, buildctl, fresh_store, warm
from page import Row

sys.path.insert(0, str(ROOT))  # the tests' Docker Engine and index

from buildctl.artifacts.store import Store
from buildctl.build.buildkit.buildkit import DockerOptions, build_with_docker, user_secrets, with_fixed_times
from buildctl.docker.load import load
from buildctl.dockerfile.bake import BakeTarget
from buildctl.lock.wheels import LockedWheel, read_wheel_lock
from buildctl.matrix.project import Project
from buildctl.oci.entry import EPOCH
from buildctl.oci.layout import Layout
from tests.support.engine import engine
from tests.support.wheelhouse import wheelhouse

CELLS = (("cuda-2.6", "amd64"), ("cpu-2.6", "arm64"))
DEFAULT, TUNED = "`pip install` in a plain Dockerfile", "the same, `--no-cache-dir`, zstd as ours"
BUILDKIT, ASSEMBLE = "our Dockerfile through BuildKit", "assemble"
WANTED = ("torch", "torchvision", "torchaudio", "numpy")
# what python:3.13-slim is to a plain Dockerfile: Debian, Python 3.13 and pip
WITH_PIP = """\
FROM base
USER 0:0
COPY {pip} /tmp/
RUN python3 /tmp/{pip}/pip install --no-index --no-cache-dir /tmp/{pip} && rm /tmp/{pip}
"""
NOTES = """\
Docker Engine {version} with its own BuildKit; the best of {repeat}, the build cache emptied before each. Each ends in
an OCI layout on the disk. All start from the same base (Debian 13 with Python 3.13; for pip with pip in it) and the
same locked wheels, which BuildKit fetches from an index on loopback. "emulated": pip runs under QEMU. The plain
Dockerfile is `RUN pip install torch==2.6.0 torchvision==... torchaudio==... numpy==...` with BuildKit's defaults:
gzip, and pip's cache in the layer. Ours is zstd, with a layer for each heavy wheel. assemble is the whole command.

{goals}

Images of two PyTorch versions share little: NVIDIA's packages have other versions, so cuda-2.10 shares only the base
and the entrypoint with cuda-2.6. A flavour, a rebuild with newer Debian packages and a second image on the same
PyTorch share all wheels."""
# (image, row) -> how many times as fast as the plain Dockerfile it is to be
GOALS = {("cuda-2.6", ASSEMBLE): 6.0, ("cpu-2.6", ASSEMBLE): 15.0, ("cpu-2.6", BUILDKIT): 5.0}
PLAIN = "FROM pip\nRUN pip install --index-url {index} {wanted}\n"


@dataclass(frozen=True, kw_only=True)
class Bench:
    root: Path
    bases: Path
    client: docker.DockerClient

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def context(self) -> Path:
        return self.root / "context"

    def build(self, dockerfile: str, arch: str, base: tuple[str, str], **output: str) -> float:
        """Seconds of `docker buildx build` into a layout, `out` below the root, from an empty build cache."""
        self.forget()
        (self.context / "Dockerfile").write_text(dockerfile)
        options = ",".join(f"{k}={v}" for k, v in {"type": "oci", "tar": "false", "dest": self.out, **output}.items())
        argv = ["docker", "buildx", "build", "--platform", f"linux/{arch}", "--provenance", "false", "--progress"]
        argv += ["plain", "--build-context", "=".join(base), "--network", "host", "--allow", "network.host"]
        start = time.perf_counter()
        done = subprocess.run([*argv, "--output", options, self.context], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(done.stderr[-4000:])
        return seconds

    def forget(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        subprocess.run(["docker", "buildx", "prune", "-af"], capture_output=True, check=True)


def measure(root: Path, repeat: int) -> tuple[list[Row], str]:
    """The rows, the best of `repeat` each, and what is to be said about them."""
    buildctl("fetch", "cuda-2.6", "cpu-2.6", env={})
    bases = root / "bases"
    buildctl("--layout", bases, "bases", "cuda-2.6", "cpu-2.6", env={})
    (root / "context").mkdir()
    with engine() as running:
        # for every command from here on
        os.environ.update({k: running.env[k] for k in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH") if k in running.env})
        bench = Bench(root=root, bases=bases, client=running.client())
        known = subprocess.run(["docker", "buildx", "inspect"], capture_output=True, text=True, check=True).stdout
        if missing := [arch for _, arch in CELLS if f"linux/{arch}" not in known]:
            sys.exit(
                f"this Docker Engine cannot run programs of {missing[0]}, as pip under emulation needs: install QEMU"
            )
        seconds = {name: image_times(bench, name, arch, repeat) for name, arch in CELLS}
        found = [row for name, arch in CELLS for row in image_rows(f"{name}/{arch}", arch, seconds[name])]
        found += load_rows(bench)
        version = bench.client.version()["Version"]
        return found, NOTES.format(version=version, repeat=repeat, goals=goals(seconds))


def goals(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """Each goal, and whether this run reached it."""
    lines = []
    for (name, what), goal in GOALS.items():
        reached = seconds[name][DEFAULT] / seconds[name][what]
        verdict = "reached" if reached >= goal else "missed"
        lines.append(f"- {name}, {what}: {goal:.0f} times as fast as the plain Dockerfile: {verdict} ({reached:.1f})")
    return "The goals:\n\n" + "\n".join(lines)


def image_times(bench: Bench, name: str, arch: str, repeat: int) -> dict[str, float]:
    """Seconds by row; the rows take turns, so that a slow minute of the machine meets all of them."""
    wheels = read_wheel_lock(Project.find(ROOT).wheel_lock(name, arch)).wheels
    store = Store.default()
    paths = [path for wheel in wheels if (path := store.artifact(wheel.digest))]

    def timed(way: Callable[[], float]) -> float:
        os.sync()  # what the row before has written is not this row's to wait for
        warm(paths)
        return way()

    with wheelhouse(wheels, store) as index:
        pip_base = pip_image(bench, wheels, arch)
        versions = {wheel.name: wheel.version for wheel in wheels}
        wanted = " ".join(f"{package}=={versions[package]}" for package in WANTED)
        plain = PLAIN.format(index=index, wanted=wanted)
        best = plain.replace("install", "install --no-cache-dir")
        ways: dict[str, Callable[[], float]] = {
            DEFAULT: lambda: bench.build(plain, arch, pip_base),
            TUNED: lambda: bench.build(best, arch, pip_base, **{"compression": "zstd", "oci-mediatypes": "true"}),
            BUILDKIT: lambda: ours(bench, name, arch, index),
            ASSEMBLE: lambda: assemble(bench, name),
        }
        turns = [{what: timed(way) for what, way in ways.items()} for _ in range(repeat)]
    return {what: min(turn[what] for turn in turns) for what in ways}


def image_rows(image: str, arch: str, seconds: Mapping[str, float]) -> list[Row]:
    how = ", emulated" if arch != native() else ""
    default, tuned = seconds[DEFAULT], seconds[TUNED]
    return [
        Row(f"{image}: {DEFAULT}{how}", default, "1.0"),
        Row(f"{image}: {TUNED}", tuned, times(default, tuned)),
        *(
            Row(f"{image}: {what}", seconds[what], times(default, seconds[what], tuned))
            for what in (BUILDKIT, ASSEMBLE)
        ),
    ]


def native() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")


def times(default: float, seconds: float, tuned: float = 0) -> str:
    other = f", {tuned / seconds:.1f} times as the second row" if tuned else ""
    return f"{default / seconds:.1f} times as fast{other}"


def pip_image(bench: Bench, wheels: Sequence[LockedWheel], arch: str) -> tuple[str, str]:
    """A base with pip, not measured."""
    pip = next(wheel for wheel in wheels if wheel.name == "pip")
    found = Store.default().artifact(pip.digest)
    assert found is not None
    shutil.copyfile(found, bench.context / pip.filename)
    bench.build(WITH_PIP.format(pip=pip.filename), arch, ("base", f"oci-layout://{bench.bases}:base-debian13"))
    layout = bench.root / f"pip-{arch}"
    bench.out.rename(layout)
    (manifest,) = Layout(layout).read_index().manifests
    return "pip", f"oci-layout://{layout}@{manifest.digest}"


def ours(bench: Bench, name: str, arch: str, index: str) -> float:
    bench.forget()
    contexts = {"base": f"oci-layout://{bench.bases}:base-debian13", "uv": f"oci-layout://{bench.bases}:uv"}
    target = BakeTarget(
        name=f"{name}-{arch}",
        arch=arch,
        dockerfile=f"{name}/Dockerfile",
        context=str(ROOT / "images"),
        contexts=contexts,
    )
    secrets = user_secrets(bench.root, {"UV_DEFAULT_INDEX": index})
    layout = Layout(bench.root / "ours")
    start = time.perf_counter()
    build_with_docker(
        [with_fixed_times(target)], DockerOptions(epoch=EPOCH, secrets=secrets, network="host"), layout=layout
    )
    seconds = time.perf_counter() - start
    shutil.rmtree(layout.root)
    bench.forget()
    return seconds


def assemble(bench: Bench, name: str) -> float:
    """The whole command, from downloads and the base that the others get too."""
    store = bench.root / f"store-{name}"
    env = fresh_store(store)
    buildctl("--layout", store / "dist", "bases", name, env=env)
    seconds, _ = buildctl("--layout", store / "dist", "build", name, "--no-load", env=env)
    shutil.rmtree(store)
    return seconds


def load_rows(bench: Bench) -> list[Row]:
    """Each image beside those before it."""
    names, layout = ("cuda-2.6", "cuda-2.6-devel", "cuda-2.10"), Layout(bench.root / "load")
    buildctl("--layout", layout.root, "build", *names, "--arch", "amd64", "--no-load", env={})
    client, found = bench.client, []
    tags = [f"buildctl-bench:{name}" for name in names]
    try:
        for name, tag in zip(names, tags, strict=True):
            descriptor = layout.resolve(name, "amd64")
            size = sum(layer.size for layer in layout.manifest(descriptor).layers)
            loaded = load(layout, descriptor, tag, client=client)
            moved = f"moved {(loaded.moved or 0) / 1e6:,.0f} of {size / 1e6:,.0f} MB"
            found.append(Row(f"{name}/amd64 into Docker (`{loaded.how}`)", loaded.seconds, moved))
    finally:
        for tag in tags:
            if client.images.list(name=tag):
                client.images.remove(tag, force=True)
    return found
