from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import docker
import pytest
import zstandard

from buildctl.engines.docker import DockerOptions, Target, build_with_docker, put_uv, user_secrets
from buildctl.errors import EngineError
from buildctl.index import uv_environment
from buildctl.load import load
from buildctl.oci.check import check_image
from buildctl.oci.entry import EPOCH
from buildctl.oci.image import Descriptor, MediaType
from buildctl.oci.layer import Compression
from buildctl.oci.layout import Layout
from tests.conftest import ROOT
from tests.images import image, tar
from tests.programs import programs

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout, _ = image(tmp_path_factory.mktemp("base"), tar(*programs("sh", "cat", "mkdir")))
    return layout


def target(root: Path, base: Layout, dockerfile: str, *, name: str = "x-amd64") -> Target:
    context = root / "context"
    (context / name).mkdir(parents=True, exist_ok=True)
    (context / name / "Dockerfile").write_text(dockerfile)
    (context / "greeting").write_text("hello\n")
    contexts = {"base": f"oci-layout://{base.root}:a-amd64"}
    return Target(name=name, arch="amd64", dockerfile=f"{name}/Dockerfile", context=str(context), contexts=contexts)


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
    assert [p for p in layout.root.iterdir() if p.name.startswith(".docker-")] == []


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
@pytest.mark.parametrize(
    ("compression", "kind"), [(Compression.ZSTD, MediaType.LAYER_ZSTD), (Compression.GZIP, MediaType.LAYER_GZIP)]
)
def test_layers_are_compressed_as_asked(tmp_path: Path, base: Layout, compression: Compression, kind: str) -> None:
    layout = Layout(tmp_path / "dist")
    options = DockerOptions(epoch=EPOCH, compression=compression)
    built = build_with_docker([target(tmp_path, base, "FROM base\nCOPY greeting /\n")], options, layout=layout)
    assert layout.manifest(built["x-amd64"]).layers[-1].media_type == kind


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
    assert [p for p in layout.root.iterdir() if p.name.startswith(".docker-")] == []


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


# What may differ between the engines, by the end of the path, and why.
MAY_DIFFER = {
    ".dist-info/RECORD": "lists what each installer wrote",
    ".dist-info/INSTALLER": "uv or buildctl",
}
ONLY_UV = {"usr/local/bin/pip3.13": "uv adds pip's third name, as pip itself does; the wheel does not declare it"}


@pytest.mark.network
@pytest.mark.usefixtures("docker_client")
def test_both_engines_make_the_same_file_system(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cell, arch = "cpu-2.6-arm64", "arm64"
    dockerfile = ROOT / "images" / "cpu-2.6" / "Dockerfile"
    environment = uv_environment()
    secrets = user_secrets(tmp_path, environment)
    if secrets and "type=secret" not in dockerfile.read_text():
        pytest.skip("NOT RUN: this machine's index needs secrets, which the Dockerfile does not take")
    built: Path = request.getfixturevalue("built")  # expensive, so only when the test is to run
    layout = Layout(tmp_path / "dist")
    layout.create()
    put_uv(layout, ["amd64", "arm64"], env=environment)
    contexts = {"base": f"oci-layout://{built}:base-debian13", "uv": f"oci-layout://{layout.root}:uv"}
    wanted = Target(
        name=cell, arch=arch, dockerfile="cpu-2.6/Dockerfile", context=str(ROOT / "images"), contexts=contexts
    )
    made = build_with_docker([wanted], DockerOptions(epoch=EPOCH, secrets=secrets), layout=layout)[cell]
    assert check_image(layout, made) == []
    ours, theirs = Layout(built), layout
    one, other = tree(ours, ours.resolve(cell, arch)), tree(theirs, made)
    assert set(other) - set(one) == set(ONLY_UV)
    assert set(one) - set(other) == set()
    differing = {path for path in one if one[path] != other[path] and not path.endswith(tuple(MAY_DIFFER))}
    assert differing == set()
    a, b = ours.config(ours.resolve(cell, arch)), theirs.config(made)
    for name in ("platform", "user", "env", "entrypoint", "cmd", "working_dir", "labels", "volumes", "exposed_ports"):
        assert getattr(a, name) == getattr(b, name), name


def tree(layout: Layout, descriptor: Descriptor) -> dict[str, Mapping[str, Any]]:
    """Every path of the image with type, mode, owner, time, link target and content; no layer here has whiteouts."""
    found: dict[str, Mapping[str, Any]] = {}
    for layer in layout.manifest(descriptor).layers:
        with (
            layout.open_blob(layer.digest) as blob,
            tarfile.open(fileobj=plain(blob, layer.media_type), mode="r|") as t,
        ):
            found.update(entries(t))
    return found


def plain(blob: IO[bytes], media_type: str) -> IO[bytes]:
    if media_type == MediaType.LAYER_ZSTD:
        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(blob))
    return cast("IO[bytes]", gzip.GzipFile(fileobj=blob)) if media_type == MediaType.LAYER_GZIP else blob


def entries(archive: tarfile.TarFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for member in archive:
        body = archive.extractfile(member) if member.isfile() else None
        yield (
            member.name.rstrip("/"),
            {
                "type": member.type,
                "mode": member.mode,
                "owner": (member.uid, member.gid),
                "mtime": member.mtime,
                "target": member.linkname,
                "content": hashlib.sha256(body.read()).hexdigest() if body else "",
            },
        )
