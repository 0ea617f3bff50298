"""What docs/examples tells people to copy, run as it stands, with each file's own settings."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import ssl
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import kubernetes_validate
import pytest
import yaml
from docker.types import Mount, Ulimit

from buildctl.docker.load import load
from buildctl.ground.net import pip_settings
from buildctl.lock.apt_sources import apt_mirrors
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import EMULATION_ENV
from buildctl.runtimes.sandbox.emulation import native_arch
from tests.conftest import ROOT
from tests.support.engine import Engine

EXAMPLES = ROOT / "docs" / "examples"
PRINTED = re.compile(r"torch 2\.6\.0\S* on cpu: loss \d+\.\d{4}")
pytestmark = pytest.mark.docker


@dataclass(frozen=True, slots=True)
class Image:
    """The image that the examples run on, its platform, and what it needs in its environment on this machine."""

    tag: str
    platform: str
    environment: dict[str, str]


@pytest.fixture(params=["cpu-2.6", pytest.param("cuda-2.6", marks=pytest.mark.big)])
def stock(docker_client: docker.DockerClient, layouts: Callable[[str], Path], request: pytest.FixtureRequest) -> Image:
    """cpu-2.6, under emulation where it has to be; and cuda-2.6, which most examples name."""
    name = str(request.param)
    layout = Layout(layouts(name))
    arch = "arm64" if name == "cpu-2.6" else "amd64"
    load(layout, layout.resolve(f"{name}-{arch}"), f"pytorch:{name}", client=docker_client)
    environment = dict(EMULATION_ENV[arch]) if arch != native_arch() else {}
    return Image(f"pytorch:{name}", f"linux/{arch}", environment)


@pytest.fixture
def code(stock: Image, docker_client: docker.DockerClient, tmp_path: Path) -> Iterator[str]:
    """A volume with the examples, in place of the folder that the files mount: this engine may not see our disk."""
    name = f"buildctl-test-examples-{tmp_path.parent.name}"
    docker_client.volumes.create(name)
    filler = docker_client.containers.create(
        stock.tag, ["true"], platform=stock.platform, mounts=[Mount("/workspace", name, type="volume")]
    )
    try:
        filler.put_archive("/workspace", archive(EXAMPLES))
        yield name
    finally:
        filler.remove(force=True, v=True)
        docker_client.volumes.get(name).remove(force=True)


def archive(folder: Path) -> bytes:
    """As it lies with somebody whose uid is not the container's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            info = tar.gettarinfo(path, str(path.relative_to(folder)))
            info.uid, info.gid, info.mode = 4321, 4321, 0o755 if path.is_dir() else 0o644
            tar.addfile(info, io.BytesIO(path.read_bytes()) if path.is_file() else None)
    return out.getvalue()


def test_compose_services_run_with_their_own_settings(
    stock: Image, code: str, docker_client: docker.DockerClient
) -> None:
    name = "cpu" if stock.tag == "pytorch:cpu-2.6" else "gpu"
    service = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"][name]
    repository, _, tag = service.pop("image").rpartition(":")
    assert (repository, f"pytorch:{tag}") == ("${IMAGE_REPOSITORY:-pytorch}", stock.tag)
    reserved = service.pop("deploy", None)
    options = {
        "image": stock.tag,
        "environment": stock.environment,
        "platform": service.pop("platform"),
        "command": service.pop("command"),
        "working_dir": service.pop("working_dir"),
        "read_only": service.pop("read_only"),
        "tmpfs": dict.fromkeys(service.pop("tmpfs"), ""),
        "shm_size": service.pop("shm_size").removesuffix("b"),
        "cap_drop": service.pop("cap_drop"),
        "security_opt": service.pop("security_opt"),
        "volumes": [volume.replace(".:", f"{code}:", 1) for volume in service.pop("volumes")],
    }
    assert service == {}
    if name == "gpu":  # what Docker makes of it: --gpus all; this engine has none, so it runs without
        assert reserved["resources"]["reservations"]["devices"] == [
            {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        ]
    said = docker_client.containers.run(**options, remove=True).decode()
    assert PRINTED.search(said), said


def test_docker_compose_itself_understands_the_file(docker_engine: Engine) -> None:
    argv = ["docker", "compose", "--file", str(EXAMPLES / "compose.yaml"), "config"]
    if subprocess.run([*argv[:2], "version"], env=dict(docker_engine.env), capture_output=True, check=False).returncode:
        pytest.skip("NOT RUN: this docker has no compose plugin")
    done = subprocess.run(argv, env=dict(docker_engine.env), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_pod_is_restricted_and_trains(stock: Image, code: str, docker_client: docker.DockerClient) -> None:
    """Pod Security Standards, profile restricted; then a container with exactly these settings."""
    manifest = yaml.safe_load((EXAMPLES / "pod.yaml").read_text())
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    spec = manifest["spec"]
    pod, (container,) = spec["securityContext"], spec["containers"]
    inside = container["securityContext"]
    assert (pod["runAsNonRoot"], pod["seccompProfile"]["type"]) == (True, "RuntimeDefault")
    assert (inside["allowPrivilegeEscalation"], inside["capabilities"]) == (False, {"drop": ["ALL"]})
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    kinds = {v["name"]: v for v in spec["volumes"]}
    assert all({"configMap", "emptyDir"} & set(v) for v in kinds.values())
    tmpfs = {
        m["mountPath"]: f"uid={pod['fsGroup']},mode=1777"
        for m in container["volumeMounts"]
        if "emptyDir" in kinds[m["name"]] and m["mountPath"] != "/dev/shm"
    }
    (mounted,) = [m for m in container["volumeMounts"] if "configMap" in kinds[m["name"]]]
    said = docker_client.containers.run(
        stock.tag,
        container["args"],
        remove=True,
        platform=stock.platform,
        environment=stock.environment,
        user=f"{pod['runAsUser']}:{pod['runAsGroup']}",
        read_only=inside["readOnlyRootFilesystem"],
        cap_drop=inside["capabilities"]["drop"],
        security_opt=["no-new-privileges:true"],
        working_dir=container["workingDir"],
        tmpfs=tmpfs,
        shm_size=kinds["shm"]["emptyDir"]["sizeLimit"].removesuffix("i"),
        mounts=[Mount(mounted["mountPath"], code, type="volume", read_only=mounted["readOnly"])],
        ulimits=[Ulimit(name="core", soft=0, hard=0)],
    ).decode()
    assert PRINTED.search(said), said


@pytest.fixture
def configured(
    stock: Image, docker_engine: Engine, docker_client: docker.DockerClient, tmp_path: Path
) -> Iterator[str]:
    """The image with this machine's package sources and certificates, which an office network needs as well."""
    context = tmp_path / "configured"
    context.mkdir()
    bundle = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    shutil.copyfile(str(bundle), context / "ca.pem")
    (debian, *_) = apt_mirrors(None)["debian"]
    (context / "debian.sources").write_text(
        f"Types: deb\nURIs: {debian}\nSuites: trixie\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    index = pip_settings(os.environ).get("index-url", "")
    (context / "Dockerfile").write_text(
        f"FROM {stock.tag}\nCOPY --chmod=0644 ca.pem /etc/ca.pem\n"
        "COPY --chmod=0644 debian.sources /etc/apt/sources.list.d/debian.sources\n"
        f"ENV PIP_CERT=/etc/ca.pem{f' PIP_INDEX_URL={index}' if index else ''}\n"
    )
    tag = "buildctl-test-examples:configured"
    build(docker_engine, context, tag)
    yield tag
    docker_client.images.remove(tag, force=True)


def build(engine: Engine, context: Path, tag: str, *options: str) -> None:
    argv = ["docker", "buildx", "build", "--load", "--tag", tag, *options, str(context)]
    done = subprocess.run(argv, env=dict(engine.env), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.network
@pytest.mark.big  # apt-get and pip take minutes under emulation; on the base of this machine: test_base_debian
@pytest.mark.parametrize("stock", ["cuda-2.6"], indirect=True)
def test_a_dockerfile_on_one_of_our_images(
    configured: str, docker_engine: Engine, docker_client: docker.DockerClient
) -> None:
    tag = "buildctl-test-examples:train"
    build(docker_engine, EXAMPLES, tag, "--build-arg", f"IMAGE={configured}", "--network", "host")
    said = docker_client.containers.run(tag, remove=True).decode()
    assert PRINTED.search(said), said
    more = "import einops, torch; print(einops.__version__, torch.__version__)"
    assert docker_client.containers.run(tag, ["python", "-c", more], remove=True).decode().split()[0] == "0.8.1"
    assert docker_client.containers.run(tag, ["git", "--version"], remove=True).startswith(b"git version")
    docker_client.images.remove(tag, force=True)


def test_the_devcontainer_has_what_an_editor_needs(stock: Image, code: str, docker_client: docker.DockerClient) -> None:
    """As the devcontainer tools start it: their own entrypoint, the given user, the folder of the project."""
    text = (EXAMPLES / ".devcontainer" / "devcontainer.json").read_text()
    value = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert value["image"].endswith(":2.6-devel")
    source, target, kind = (part.partition("=")[2] for part in value["workspaceMount"].split(","))
    assert (source, kind) == ("${localWorkspaceFolder}", "bind")
    # under emulation it takes half a minute, which the pod and the service have spent already
    trains = (
        """python -c 'compile(open("train.py").read(), "train.py", "exec")'"""
        if stock.environment
        else "python train.py"
    )
    script = f"set -e; id -un; cd && pwd; cd /workspace; command -v tar gzip sed ps; {trains}"
    said = docker_client.containers.run(
        stock.tag,
        ["-c", script],
        platform=stock.platform,
        environment=stock.environment,
        entrypoint="/bin/sh",
        user=value["containerUser"],
        mounts=[Mount(target, code, type="volume")],
        shm_size=value["runArgs"][0].partition("=")[2],
        remove=True,
    ).decode()
    assert said.splitlines()[:2] == ["torch", "/home/torch"], said
    assert stock.environment or PRINTED.search(said), said
    python = value["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    said = docker_client.containers.run(stock.tag, [python, "--version"], platform=stock.platform, remove=True).decode()
    assert said.startswith("Python 3")
