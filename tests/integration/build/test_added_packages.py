"""Packages beside the matrix's common ones: Debian's in matrix.yaml for both engines, and a template for Docker."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildctl.artifacts.debian.python import build_arch
from buildctl.artifacts.store import Store
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.oci.check import check_image, check_layout
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import ImageRef
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from tests.conftest import buildctl, fresh_store
from tests.support.engine import Engine
from tests.support.projects import copy_project
from tests.support.sameness import tree

NAME = "cuda-2.6"
ARCH = "amd64"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one's own with this one's matrix, templates and locks."""
    return copy_project(tmp_path / "project")


def add(project: Path, text: str) -> None:
    with (project / "matrix.yaml").open("a") as file:
        file.write(f"\n{text}\n")


@pytest.fixture(scope="module")
def locked(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    if not shutil.which("apt-get"):
        pytest.skip("NOT RUN: locking Debian packages needs apt")
    project, folder = copy_project(tmp_path_factory.mktemp("locked") / "project"), stores / "added-packages"
    store = fresh_store(folder)
    add(project, "images: {cuda-2.6: {apt: [less, libopenblas0]}}")
    lock(project, store, NAME)
    yield project, store
    shutil.rmtree(folder)


@pytest.fixture
def with_less(locked: tuple[Path, dict[str, str]], tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A project of the test's own, locked already."""
    return shutil.copytree(locked[0], tmp_path / "project"), locked[1]


def lock(project: Path, store: dict[str, str], *names: str) -> None:
    done = buildctl("lock", *names, cwd=project, env=store)
    assert done.returncode == 0, done.stderr


@pytest.mark.network
@pytest.mark.parametrize("flavours", [["runtime"], pytest.param(["runtime", "devel"], marks=pytest.mark.big)], ids=len)
def test_an_image_with_debian_packages_of_its_own(flavours: list[str], with_less: tuple[Path, dict[str, str]]) -> None:
    project, store = with_less
    wanted = [NAME, f"{NAME}-devel"][: len(flavours)]
    if len(flavours) > 1:
        lock(project, store, *wanted)
    for flavour in flavours:
        text = (project / "images" / NAME / f"{flavour}.{ARCH}.packages").read_text()
        assert "# base: debian13_cuda-2.6\n" in text
        assert "\nPackage: less\n" in text
        assert "\nPackage: libc6\n" not in text
    assert buildctl("lock", "--check", *wanted, cwd=project, env=store).returncode == 0
    assert buildctl("render", NAME, cwd=project, env=store).returncode == 0
    assert "base-debian13_cuda-2.6" in (project / "images" / NAME / "Dockerfile").read_text()
    assert f"dist:base-debian13_{NAME}-devel" in (project / "docker-bake.json").read_text()
    for names in (wanted, ["cuda-2.10"]):
        done = buildctl("bases", *names, cwd=project, env=store)
        assert done.returncode == 0, done.stderr
    layout = Layout(project / "dist")
    plain, *own = (
        layout.manifest(layout.resolve(f"base-debian13{name}-{ARCH}")).layers
        for name in ("", *(f"_{name}" for name in wanted))
    )
    assert all(layers[: len(plain)] == plain for layers in own)  # the base's layer is shared
    assert [len(layers) for layers in own] == [len(plain) + n + 1 for n, _ in enumerate(own)]
    assert check_layout(layout.root, None) == []
    if build_arch() != ARCH:
        return
    descriptor = layout.resolve(f"base-debian13_{NAME}-{ARCH}")
    image = ImageRef(layout=layout.root, descriptor=descriptor, name="x", arch=ARCH, config=layout.config(descriptor))
    script = (
        "less --version | head -1; readlink /etc/alternatives/pager; update-alternatives --query pager | grep -c ^Alt;"
        'python3 -c \'import ctypes; ctypes.CDLL("libopenblas.so.0"); ctypes.CDLL("libblas.so.3")\' && echo loads;'
        "ldconfig -p | grep -c libblas.so.3; echo ----; dpkg --audit; dpkg -V; apt-get check -qq"
    )
    try:
        with SandboxRuntime(Store(Path(store["BUILDCTL_CACHE"]))).start(image) as session:
            done_inside = session.run(["sh", "-c", script], timeout=120)
    except RuntimeUnavailableError as reason:
        pytest.skip(f"NOT RUN: {reason.message}")
    said, _, complaints = done_inside.stdout.partition("----\n")
    assert said.splitlines()[1:] == ["/usr/bin/less", "2", "loads", "1"], done_inside
    assert complaints == ""


@pytest.mark.network
def test_a_base_for_the_machine_that_builds_where_the_image_is_for_another(
    project: Path, built: Path, built_store: dict[str, str]
) -> None:
    """Install stages run on the build platform, for which an image need not exist: its base is the plain one there."""
    add(project, "images: {cpu-2.6: {apt: [less]}}")
    lock(project, built_store, "cpu-2.6")
    done = buildctl("bases", "cpu-2.6", cwd=project, env=built_store)
    assert done.returncode == 0, done.stderr
    layout = Layout(project / "dist")
    name = "base-debian13_cpu-2.6"
    layers = {a: layout.manifest(layout.resolve(f"{name}-{a}")).layers for a in ("amd64", "arm64")}
    assert {arch: len(found) for arch, found in layers.items()} == {"amd64": 1, "arm64": 2}
    assert len({layout.resolve(name, arch).digest for arch in ("amd64", "arm64")}) == 2  # of one index


@pytest.mark.network
def test_stale_and_impossible_locks_are_refused_by_name(with_less: tuple[Path, dict[str, str]]) -> None:
    project, store = with_less
    matrix = project / "matrix.yaml"
    text = matrix.read_text()
    matrix.write_text(text.replace("[less, ", "[less, nano, "))
    done = buildctl("lock", "--check", NAME, cwd=project, env=store)
    assert done.returncode == 4
    assert f"images/{NAME}/runtime.{ARCH}.packages: matrix.yaml (apt) or the lock of the base changed" in done.stderr
    done = buildctl("build", NAME, "--locked", "--no-load", cwd=project, env=store)
    assert (done.returncode, "with --locked, 1 locks would have to change" in done.stderr) == (4, True)
    path = project / "images" / NAME / f"runtime.{ARCH}.packages"
    before = path.read_bytes()
    for package, message in (
        ("iproute2", "iproute2 .*: its postinst script does more than is known without running it"),
        ("no-such-package-at-all", "[Uu]nable to locate package no-such-package-at-all"),
    ):
        matrix.write_text(text.replace("[less, ", f"[{package}, "))
        done = buildctl("lock", NAME, cwd=project, env=store)
        assert done.returncode == 16
        assert 'images["cuda-2.6"].apt (cuda-2.6, amd64)' in done.stderr
        assert re.search(message, done.stderr), done.stderr
        assert path.read_bytes() == before


@pytest.mark.network
def test_python_packages_that_do_not_fit_are_explained_by_uv_and_named_by_key(
    project: Path, store: dict[str, str]
) -> None:
    add(project, 'images: {"cpu-*": {packages: ["sympy<1.13"]}}')
    before = (project / "images" / "cpu-2.6" / "requirements.arm64.txt").read_bytes()
    done = buildctl("lock", "cpu-2.6", cwd=project, env=store)
    assert done.returncode == 16
    assert 'sympy (images["cpu-*"].packages) does not go with t' in " ".join(done.stderr.split())
    assert "torch==2.6.0 depends on sympy" in " ".join(done.stderr.split())
    assert (project / "images" / "cpu-2.6" / "requirements.arm64.txt").read_bytes() == before


TEMPLATE = """\
ARG BASE=base
FROM ${BASE} AS image
RUN apt-get update && apt-get install -y --no-install-recommends less && rm -rf /var/lib/apt/lists/*
LABEL org.opencontainers.image.title={{ image.name | quote }}
"""


@pytest.fixture
def with_template(project: Path) -> Path:
    (project / "templates" / f"{NAME}.Dockerfile.j2").write_text(TEMPLATE)
    done = buildctl("render", NAME, cwd=project)
    assert done.returncode == 0, done.stderr
    return project


def test_assemble_refuses_a_template_with_apt_get_before_it_downloads_anything(
    with_template: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "store"
    done = buildctl("build", NAME, "--no-load", "--locked", cwd=with_template, env={"BUILDCTL_CACHE": str(empty)})
    assert done.returncode == 5
    assert f"images/{NAME}/Dockerfile:3: " in done.stderr
    assert "--engine docker" in done.stderr.rpartition("hint: ")[2]
    assert [path for path in empty.rglob("*") if path.is_file()] == []
    assert not (with_template / "dist" / "index.json").exists()


@pytest.mark.docker
@pytest.mark.network
def test_the_docker_engine_builds_it_on_the_images_own_base(
    with_template: Path, store: dict[str, str], docker_engine: Engine
) -> None:
    if not shutil.which("apt-get"):
        pytest.skip("NOT RUN: locking Debian packages needs apt")
    add(with_template, "images: {cuda-2.6: {apt: [nano]}}")
    done = buildctl("lock", NAME, cwd=with_template, env=store)
    assert done.returncode == 0, done.stderr
    env = {**store, **docker_engine.env}
    done = buildctl("build", NAME, "--engine", "docker", "--no-load", "--locked", cwd=with_template, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    layout = Layout(with_template / "dist")
    descriptor = layout.resolve(f"{NAME}-{ARCH}", ARCH)
    assert check_image(layout, descriptor) == []
    files = tree(layout, descriptor)
    assert (files["usr/bin/less"]["type"], files["usr/bin/nano"]["type"]) == (b"0", b"0")
    below = layout.manifest(layout.resolve(f"base-debian13_{NAME}-{ARCH}")).layers
    assert layout.manifest(descriptor).layers[: len(below)] == below
    assert len(layout.manifest(descriptor).layers) == len(below) + 1
