from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import docker
import pytest
import zstandard

from buildctl.artifacts.store import Store
from buildctl.build.buildkit.buildkit import DockerOptions, build_with_docker, user_secrets, with_fixed_times
from buildctl.build.buildkit.uv_image import put_tool
from buildctl.docker.daemon import loopback_port
from buildctl.docker.load import load
from buildctl.dockerfile.bake import BakeTarget
from buildctl.ground.errors import EngineError
from buildctl.lock.index import uv_environment
from buildctl.lock.locked import load_locked
from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.project import Project
from buildctl.oci.check import check_image
from buildctl.oci.compression import GZIP, UNCOMPRESSED, ZSTD, Compression
from buildctl.oci.entry import EPOCH
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import EMULATION_ENV
from buildctl.runtimes.sandbox.emulation import native_arch
from tests.conftest import ROOT, buildctl
from tests.support.engine import Engine
from tests.support.images import image, tar
from tests.support.programs import programs
from tests.support.sameness import configuration_differences, file_differences, raw_configuration, tree
from tests.support.wheelhouse import wheelhouse

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout, _ = image(tmp_path_factory.mktemp("base"), tar(*programs("sh", "cat", "mkdir")))
    return layout


def target(root: Path, base: Layout, dockerfile: str, *, name: str = "x-amd64") -> BakeTarget:
    context = root / "context"
    (context / name).mkdir(parents=True, exist_ok=True)
    (context / name / "Dockerfile").write_text(dockerfile)
    (context / "greeting").write_text("hello\n")
    contexts = {"base": f"oci-layout://{base.root}:a-amd64"}
    return BakeTarget(name=name, arch="amd64", dockerfile=f"{name}/Dockerfile", context=str(context), contexts=contexts)


WITH_RUN = "FROM base\nCOPY greeting /\nRUN mkdir /made && cat /greeting > /made/copy\nLABEL made=yes\n"


@pytest.mark.usefixtures("docker_client")
def test_an_arbitrary_run_ends_in_an_image_of_the_layout(tmp_path: Path, base: Layout) -> None:
    layout = Layout(tmp_path / "dist")
    built = build_with_docker([target(tmp_path, base, WITH_RUN)], DockerOptions(epoch=EPOCH), layout=layout)
    descriptor = layout.resolve("x-amd64", "amd64")
    assert descriptor.digest == built["x-amd64"].digest
    assert check_image(layout, descriptor) == []
    files = tree(layout, descriptor)
    assert files["made/copy"]["content"] == hashlib.sha256(b"hello\n").hexdigest()
    assert {entry["mtime"] for entry in files.values()} == {EPOCH}
    assert layout.config(descriptor).labels == {"made": "yes"}
    assert [p for p in layout.root.iterdir() if p.name.startswith("buildctl-docker.")] == []


@pytest.mark.usefixtures("docker_client")
def test_two_builds_agree_and_keep_the_bases_layers(tmp_path: Path, base: Layout) -> None:
    digests = []
    for number in ("1", "2"):
        layout, root = Layout(tmp_path / number / "dist"), tmp_path / number
        cell = target(root, base, WITH_RUN)
        os.utime(root / "context" / "greeting", (time.time(), int(number) * 1e9))
        options = DockerOptions(epoch=EPOCH, cache=False)
        digests.append(build_with_docker([cell], options, layout=layout)["x-amd64"].digest)
        below = base.manifest(base.resolve("a-amd64")).layers
        assert layout.manifest(layout.resolve("x-amd64")).layers[: len(below)] == below
    assert digests[0] == digests[1]


@pytest.mark.usefixtures("docker_client")
@pytest.mark.parametrize("fixed", [True, False])
def test_an_image_has_a_time_of_its_own_and_its_files_do_not(tmp_path: Path, base: Layout, fixed: bool) -> None:
    layout = Layout(tmp_path / "dist")
    cell = replace(target(tmp_path, base, WITH_RUN), created=1_794_897_324, fixed_times=fixed)
    built = build_with_docker([cell], DockerOptions(epoch=EPOCH), layout=layout)["x-amd64"]
    config = layout.config(built)
    assert config.created == "2026-11-17T06:35:24Z"
    assert check_image(layout, built) == []
    if not fixed:
        assert {entry["mtime"] for entry in tree(layout, built).values()} == {EPOCH}


@pytest.mark.usefixtures("docker_client")
@pytest.mark.parametrize("compression", [ZSTD, ZSTD.at(9), GZIP, UNCOMPRESSED], ids=lambda c: f"{c.method}-{c.level}")
def test_layers_are_compressed_as_asked(tmp_path: Path, base: Layout, compression: Compression) -> None:
    layout = Layout(tmp_path / "dist")
    options = DockerOptions(epoch=EPOCH, compression=compression)
    built = build_with_docker([target(tmp_path, base, "FROM base\nCOPY greeting /\n")], options, layout=layout)
    assert layout.manifest(built["x-amd64"]).layers[-1].media_type == compression.media_type


@pytest.mark.usefixtures("docker_client")
def test_layers_that_another_build_has_compressed_are_compressed_as_asked(tmp_path: Path, base: Layout) -> None:
    cell = target(tmp_path, base, "FROM base\nRUN echo other > /other\n")
    layout = Layout(tmp_path / "dist")
    for compression in (GZIP, ZSTD):
        options = DockerOptions(epoch=EPOCH, compression=compression)
        made = build_with_docker([replace(cell, fixed_times=True)], options, layout=layout)["x-amd64"]
        assert layout.manifest(made).layers[-1].media_type == compression.media_type
    assert check_image(layout, made) == []


def test_several_cells_are_built_at_once_and_run(
    docker_client: docker.DockerClient, tmp_path: Path, base: Layout
) -> None:
    layout = Layout(tmp_path / "dist")
    cells = [
        target(tmp_path, base, f'FROM base\nCMD ["cat", "/etc/passwd"]\nENV N={n}\n', name=f"c-2.{n}-amd64")
        for n in (1, 2)
    ]
    built = build_with_docker(cells, DockerOptions(epoch=EPOCH), layout=layout)
    assert set(layout.names()) == set(built) == {"c-2.1-amd64", "c-2.2-amd64"}
    load(layout, built["c-2.1-amd64"], "buildctl-test-build:x", client=docker_client)
    assert b"root:x:0:0" in docker_client.containers.run("buildctl-test-build:x", remove=True)
    docker_client.images.remove("buildctl-test-build:x", force=True)


@pytest.mark.usefixtures("docker_client")
def test_a_step_that_fails_is_shown_with_what_it_said(tmp_path: Path, base: Layout) -> None:
    layout = Layout(tmp_path / "dist")
    cell = target(tmp_path, base, "FROM base\nRUN echo the reason >&2; exit 7\n")
    with pytest.raises(EngineError, match=r"(?s)the reason.*exit code: 7"):
        build_with_docker([cell], DockerOptions(epoch=EPOCH), layout=layout)
    assert layout.names() == ()
    assert [p for p in layout.root.iterdir() if p.name.startswith("buildctl-docker.")] == []


@pytest.mark.usefixtures("docker_client")
def test_an_unknown_builder_is_named(tmp_path: Path, base: Layout) -> None:
    options = DockerOptions(epoch=EPOCH, builder="nobody")
    with pytest.raises(EngineError, match="no usable builder 'nobody'"):
        build_with_docker([target(tmp_path, base, "FROM base\n")], options, layout=Layout(tmp_path / "dist"))


@pytest.mark.usefixtures("docker_client")
def test_secrets_are_there_for_a_step_and_nowhere_else(tmp_path: Path, base: Layout) -> None:
    layout, secret = Layout(tmp_path / "dist"), tmp_path / "secret"
    secret.write_text("the password")
    step = "cat /run/secrets/ca-bundle > /copy && test -s /copy && echo > /copy"
    text = f"FROM base\nRUN --mount=type=secret,id=ca-bundle {step}\n"
    options = DockerOptions(epoch=EPOCH, secrets={"ca-bundle": secret})
    built = build_with_docker([target(tmp_path, base, text)], options, layout=layout)
    assert check_image(layout, built["x-amd64"]) == []
    for blob in layout.blobs.iterdir():
        data = blob.read_bytes()
        assert b"the password" not in data
        if data[:4] == b"\x28\xb5\x2f\xfd":
            assert b"the password" not in zstandard.ZstdDecompressor().decompressobj().decompress(data)


@contextmanager
def own_index(_: str, folder: Path) -> Iterator[DockerOptions]:
    """BuildKit fetches as this machine's user does: the company's CA bundle and index, as secrets."""
    yield DockerOptions(epoch=EPOCH, secrets=user_secrets(folder, uv_environment()))


@contextmanager
def own_store(cell: str, folder: Path) -> Iterator[DockerOptions]:
    """BuildKit fetches gigabytes from an index on loopback that holds what the assemble engine was made from."""
    name, _, arch = cell.rpartition("-")
    with wheelhouse(read_wheel_lock(Project.find(ROOT).wheel_lock(name, arch)).wheels, Store.default()) as url:
        secrets = user_secrets(folder, {"UV_DEFAULT_INDEX": url})
        yield DockerOptions(epoch=EPOCH, secrets=secrets, network="host")


@pytest.mark.network
@pytest.mark.parametrize(
    ("cell", "source"),
    [
        ("cpu-2.6-arm64", own_store),
        pytest.param("cuda-2.6-amd64", own_store, marks=pytest.mark.big),
        pytest.param("cpu-2.6-arm64", own_index, marks=pytest.mark.big),
    ],
    ids=["cpu-2.6", "cuda-2.6", "cpu-2.6 from the index"],
)
def test_both_engines_make_the_same_image(
    cell: str,
    source: Callable[[str, Path], AbstractContextManager[DockerOptions]],
    docker_engine: Engine,
    docker_client: docker.DockerClient,
    built_store: dict[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    layouts: Callable[[str], Path],
) -> None:
    with loopback_port(docker_client, 1) as port:
        if source is own_store and port != 1:
            pytest.skip("NOT RUN: this Docker Engine is on another machine, and the index on this one's loopback")
    built = layouts(cell)
    name, _, arch = cell.rpartition("-")
    ours, theirs = Layout(built), Layout(built.parent / f"buildkit-{tmp_path.name}")  # on the disk, not in /tmp
    request.addfinalizer(lambda: shutil.rmtree(theirs.root))
    bases = buildctl("--layout", theirs.root, "bases", name, env=built_store)  # of this machine's architecture too
    assert bases.returncode == 0, bases.stderr
    put_tool(theirs)
    contexts = {
        context: f"oci-layout://{theirs.root}:{image}" for context, image in (("base", "base-debian13"), ("uv", "uv"))
    }
    project = Project.find(ROOT)
    (locked,) = load_locked(project, [found for found in project.matrix.cells if found.id == cell])
    wanted = BakeTarget(
        name=cell,
        arch=arch,
        dockerfile=f"{name}/Dockerfile",
        context=str(ROOT / "images"),
        contexts=contexts,
        created=locked.created,
    )
    with source(cell, tmp_path) as options:
        made = build_with_docker([with_fixed_times(wanted)], options, layout=theirs)[cell]
    if docker_engine.own:  # 11 GB of build cache
        subprocess.run(["docker", "buildx", "prune", "-af"], check=True, capture_output=True)
    assert check_image(theirs, made) == []
    descriptor = ours.resolve(cell, arch)
    files = tree(ours, descriptor)
    assert len(files) > 10_000
    assert file_differences(files, tree(theirs, made)) == []
    configurations = raw_configuration(ours, descriptor), raw_configuration(theirs, made)
    assert {"User", "Env", "Entrypoint", "Cmd", "WorkingDir", "Labels"} <= set(configurations[0]["config"])
    assert configuration_differences(*configurations) == []
    tag = "buildctl-test-load:both"
    load(theirs, made, tag, client=docker_client)
    request.addfinalizer(lambda: docker_client.images.remove(tag, force=True))
    # the files are those of the other engine, from which torch is imported in test_main_job.py
    script = "from importlib.metadata import version; print(version('torch'))"
    environment = dict(EMULATION_ENV[arch]) if arch != native_arch() else {}
    said = docker_client.containers.run(
        tag, ["python", "-c", script], environment=environment, platform=f"linux/{arch}", remove=True
    )
    assert said.decode().split()[-1].partition("+")[0] == configurations[0]["config"]["Labels"]["dev.buildctl.torch"]
