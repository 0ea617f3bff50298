"""What the docker engine tells buildx; with a real one: tests/integration/docker/test_docker_build.py."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.build.buildkit.buildkit import DockerOptions, build_with_docker, has_fixed_times, user_secrets
from buildctl.dockerfile.bake import BakeTarget, bake_definition, bake_name
from buildctl.dockerfile.parse import parse_dockerfile, read_dockerfile
from buildctl.ground.errors import EngineError, ToolError
from buildctl.oci.compression import ZSTD
from buildctl.oci.layout import Layout
from tests.conftest import ROOT

CELL = BakeTarget(
    name="cpu-2.6-arm64",
    arch="arm64",
    dockerfile="cpu-2.6/Dockerfile",
    context="images",
    contexts={"uv": "oci-layout://dist:uv", "base": "oci-layout://dist:base-debian13"},
    args={"BASE": "base"},
    tags=("pytorch:cpu-2.6",),
)


def test_every_cell_is_a_target_of_the_default_group() -> None:
    definition = bake_definition(
        [CELL, BakeTarget(name="x", arch="amd64", dockerfile="x/Dockerfile", context="images")]
    )
    assert definition["group"]["default"]["targets"] == ["cpu-2_6-arm64", "x"]
    assert definition["target"]["cpu-2_6-arm64"] == {
        "context": "images",
        "dockerfile": "cpu-2.6/Dockerfile",
        "platforms": ["linux/arm64"],
        "contexts": {"base": "oci-layout://dist:base-debian13", "uv": "oci-layout://dist:uv"},
        "args": {"BASE": "base"},
        "tags": ["pytorch:cpu-2.6"],
        "attest": [{"type": "provenance", "disabled": "true"}, {"type": "sbom", "disabled": "true"}],
    }


def test_a_targets_name_has_only_what_bake_allows() -> None:
    assert bake_name("cuda-2.10-devel-amd64") == "cuda-2_10-devel-amd64"


def test_without_docker_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("buildctl.build.buildkit.buildkit.which", lambda program: None)
    with pytest.raises(ToolError) as caught:
        build_with_docker([CELL], DockerOptions(epoch=0), layout=Layout(tmp_path / "dist"))
    assert "--engine assemble" in str(caught.value.hint)


def test_a_docker_without_buildx_is_told_apart(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho \"docker: 'buildx' is not a docker command.\" >&2\nexit 1\n")
    docker.chmod(0o755)
    with pytest.raises(ToolError, match="no buildx: docker: 'buildx' is not") as caught:
        build_with_docker(
            [CELL], DockerOptions(epoch=0, env={"PATH": f"{tmp_path}:/bin"}), layout=Layout(tmp_path / "dist")
        )
    assert "docker-buildx" in str(caught.value.hint)


def test_no_secrets_where_nothing_is_configured(tmp_path: Path) -> None:
    assert user_secrets(tmp_path, {}) == {}
    assert user_secrets(tmp_path, {"SSL_CERT_FILE": f"{tmp_path}/not-there"}) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_users_index_and_certificates_become_secrets(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("x")
    url = "https://user:pass@mirror.invalid/simple"
    environment = {"SSL_CERT_FILE": str(bundle), "UV_DEFAULT_INDEX": url}
    secrets = user_secrets(tmp_path, environment, index="https://torch.invalid/cpu")
    assert secrets["ca-bundle"] == bundle
    config = tomllib.loads(secrets["uv-config"].read_text())
    assert config["index"] == [{"url": "https://torch.invalid/cpu"}, {"url": url, "default": True}]
    assert secrets["uv-config"].stat().st_mode & 0o777 == 0o600


STAGES = """\
ARG BASE=base
FROM --platform=$BUILDPLATFORM ${BASE} AS installer
FROM installer AS torch
RUN --mount=type=secret,id=uv-config ["install-wheels", "torch==2.6.0"]
FROM installer AS own
COPY file /out/file
FROM ${BASE} AS image
COPY --link --from=torch /out/ /
ENV A=b
"""


def test_nothing_is_rewritten_where_install_wheels_has_set_all_time_stamps() -> None:
    assert has_fixed_times(parse_dockerfile(STAGES, path="Dockerfile"))
    rendered = sorted((ROOT / "images").glob("*/Dockerfile"))
    assert rendered
    assert all(has_fixed_times(read_dockerfile(path)) for path in rendered)


@pytest.mark.parametrize(
    "more",
    [
        "RUN true\n",
        "COPY file /\n",
        "COPY --from=own /out/ /\n",
        "COPY --from=torch /lock/ /\n",
        "ADD file /\n",
        "COPY --from=elsewhere /out/ /\n",
        "FROM image\nENV B=c\n",
    ],
)
def test_what_may_bring_a_time_of_its_own_is_rewritten(more: str) -> None:
    assert not has_fixed_times(parse_dockerfile(STAGES + more, path="Dockerfile"))
    assert not has_fixed_times(parse_dockerfile(STAGES.replace('"install-wheels", ', '"sh", '), path="Dockerfile"))


def test_a_registry_cache_is_handed_on(tmp_path: Path) -> None:
    """A docker that keeps the bake file and fails."""
    docker, seen = tmp_path / "docker", tmp_path / "seen.json"
    docker.write_text(f'#!/bin/sh\n[ "$2" = version ] || {{ cp "$4" {seen}; exit 1; }}\n')
    docker.chmod(0o755)
    options = DockerOptions(
        epoch=0,
        env={"PATH": f"{tmp_path}:/bin:/usr/bin"},
        cache_from=("r.example/a", "r.example/b"),
        cache_to="r.example/a",
    )
    with pytest.raises(EngineError):
        build_with_docker([CELL], options, layout=Layout(tmp_path / "dist"))
    target = json.loads(seen.read_text())["target"]["cpu-2_6-arm64"]
    assert target["cache-from"] == [f"type=registry,ref=r.example/{r}:buildkit-cpu-2.6-arm64" for r in "ab"]
    (to,) = target["cache-to"]
    assert to.startswith("type=registry,ref=r.example/a:buildkit-cpu-2.6-arm64,mode=max,image-manifest=true")
    assert "ignore-error=true" in to
    assert dict(pair.split("=") for pair in to.split(","))["compression"] == "zstd"
    assert "compression-level" not in to
    with pytest.raises(EngineError):
        build_with_docker([CELL], replace(options, compression=ZSTD.at(3)), layout=Layout(tmp_path / "dist"))
    (to,) = json.loads(seen.read_text())["target"]["cpu-2_6-arm64"]["cache-to"]
    assert "compression=zstd,compression-level=3" in to
