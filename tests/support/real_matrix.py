"""A matrix of real wheels off the beaten track: three Pythons, torch for two CUDA versions, a base in a registry that
BuildKit made, own wheel, files, user, variables, labels, and Debian packages with recorded scripts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from buildctl.build.buildkit.buildkit import DockerOptions, build_with_docker
from buildctl.dockerfile.bake import BakeTarget
from buildctl.oci.compression import GZIP
from buildctl.oci.entry import EPOCH
from buildctl.oci.image import Index, MediaType, Platform, canonical_json
from buildctl.oci.layout import Layout
from buildctl.registry.client import open_repository
from buildctl.registry.reference import Reference
from buildctl.runtimes.sandbox.emulation import native_arch
from tests.conftest import Ran, buildctl
from tests.support.publishing import skopeo
from tests.support.servers import wheel

ARCHES = ("amd64", "arm64")
DEBIAN = "apt, ca-certificates, libgomp1, libstdc++6, netbase, passwd, procps, python-is-python3, python3, tzdata"
BASE = f"""\
python: "3.11"
versions: {{"2.6": 2.6.0}}
packages: []
flavours: [runtime]
bases:
  debian12: {{debian: bookworm, packages: [{DEBIAN}, python3.11]}}
accelerators:
  cuda: {{arch: [amd64], base: debian12}}
  cpu: {{arch: [arm64], base: debian12}}
"""
# above that base; the RUN is only for this machine's architecture, as no other can run in BuildKit everywhere
ABOVE = """\
FROM base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
HEALTHCHECK --interval=30s --timeout=5s CMD python3 -c "import sys"
ENV TEAM_BASE=1
STOPSIGNAL SIGINT
COPY team-release /etc/team-release
{run}USER 4321:4321
"""
RUN = "RUN groupadd -g 4321 team && useradd -u 4321 -g 4321 -m team && echo bash | cat >/etc/team-shell\n"
KEPT = {"Healthcheck", "Shell", "StopSignal"}  # of its configuration, in what is built on it

MATRIX = """\
python: ["3.13", "3.11", "3.14"]
versions: {{"2.6": 2.6.0, "2.10": 2.10.0}}
packages: [torchvision, numpy, {{name: numpy, version: "<2.3", torch: "<2.9"}}, pip]
flavours: [runtime]
bases:
  debian13: {{debian: trixie, packages: [{debian}, python3-gdbm, python3.13, tini]}}
  team: {{image: "{registry}/team/base:1"}}
  debian14: {{debian: forky, packages: [{debian}, python3-gdbm, python3.14, tini]}}
accelerators:
  cu124: {{arch: [amd64], base: [debian13, team]}}
  cu128: {{arch: [amd64], base: [debian13, debian14]}}
  cpu: {{arch: [arm64], base: [debian13, team, debian14]}}
images:
  "*":
    wheels: [wheels]
    files: {{app: /app, app/run.toml: /etc/team/}}
    env: {{TEAM_MODE: production}}
    labels: {{org.example.team: ml}}
  "cu*": {{user: "1234:1234"}}
  cu124-2.6: {{apt: [vim, mtr-tiny]}}
exclude:
  - {{accelerator: cu124, versions: ">=2.7", reason: PyPI has 2.10 for CUDA 12.8, instead: cu128-2.10-py314}}
  - {{accelerator: cu124, python: ">=3.14", reason: before 2.9 torch has no wheel for 3.14, instead: cu128-2.10-py314}}
  - {{accelerator: cu128, versions: "<2.7", reason: PyPI has 2.6 for CUDA 12.4, instead: cu124-2.6}}
  - {{accelerator: cu128, python: "<3.14", reason: only new services have a Python of their own, instead: cu124-2.6}}
  - {{accelerator: cpu, versions: "<2.7", reason: one torch is enough, instead: cpu-2.10}}
publish:
  allow-not-run: {{"*": [torch.compile, works on the gpu, without a gpu]}}
"""
CELLS = (
    "cu124-2.6-amd64",
    "cu124-2.6-py311-amd64",
    "cu128-2.10-py314-amd64",
    "cpu-2.10-arm64",
    "cpu-2.10-py311-arm64",
    "cpu-2.10-py314-arm64",
)
TAGS = {"2.6", "2.6-py311", "2.6-cuda12.4", "2.6-cuda12.4-py311", "2.10-cuda12.8-py314", "2.10", "2.10-py311"}


def push_base(root: Path, registry: str) -> None:
    """`team/base:1`, an index of both architectures: Debian 12 with a Dockerfile above it, built by BuildKit."""
    (root / "context").mkdir(parents=True)
    (root / "context" / "team-release").write_text("team base 1\n")
    (root / "matrix.yaml").write_text(BASE)
    run(root, "bases")
    layout, reference = Layout(root / "dist"), Reference.parse(f"{registry}/team/base")
    repository = open_repository(reference, write=True)
    options = DockerOptions(epoch=EPOCH, compression=GZIP)
    members = []
    for arch in ARCHES:
        (root / "context" / arch).write_text(ABOVE.format(run=RUN if arch == native_arch() else ""))
        base = f"oci-layout://{layout.root}:base-debian12"
        target = BakeTarget(
            name=arch, arch=arch, dockerfile=arch, context=str(root / "context"), contexts={"base": base}
        )
        built = build_with_docker([target], options, layout=layout)[arch]
        skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.root}:{arch}", f"docker://{reference.name}:{arch}")
        members.append(replace(built, annotations={}, platform=Platform(architecture=arch)))
    index = Index(manifests=tuple(members))
    repository.put_manifest(canonical_json(index.to_json()), MediaType.INDEX, "1")


def project(root: Path, registry: str) -> Path:
    """The team's project, nothing locked. Returns its folder."""
    app, wheels = root / "images" / "app", root / "images" / "wheels"
    (app / "sub").mkdir(parents=True)
    wheels.mkdir()
    for name in ("main.py", "run.toml", "sub/tool"):
        (app / name).write_text(f"# {name}\n")
    (app / "sub" / "tool").chmod(0o700)
    name = "team_lib-1.2-py3-none-any.whl"
    (wheels / name).write_bytes(wheel(name, requires=["einops"], more={"team_lib/core.py": "ANSWER = 42\n"}))
    (root / "matrix.yaml").write_text(MATRIX.format(registry=registry, debian=DEBIAN))
    return root


def seed(data: Path, repository: str, layout: Layout, cells: Iterable[str]) -> None:
    """Give docker-registry, whose storage is `data`, the layers of the images as hard links: gigabytes less to copy."""
    for layer in {layer.digest for cell in cells for layer in layout.manifest(layout.resolve(cell)).layers}:
        digest = layer.hex
        blob = data / "docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"
        link = data / "docker/registry/v2/repositories" / repository / "_layers/sha256" / digest / "link"
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            blob.hardlink_to(layout.blob_path(layer))
        link.write_text(str(layer))


def run(project: Path, *argv: str | Path, code: int = 0, timeout: float = 3600) -> Ran:
    """`buildctl`, as a user starts it, in the machine's own store."""
    done = buildctl(*argv, cwd=project, timeout=timeout)
    assert done.returncode == code, done.stdout + done.stderr
    return done
