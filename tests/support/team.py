"""A team's project off the beaten track: two Pythons, two CUDA versions of one torch from an index each, a base from a
registry on loopback, an own wheel, files, user, variables and labels. Every wheel is a few kilobytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildctl.matrix.arch import ARCHES
from buildctl.matrix.project import Project
from buildctl.oci.image import ImageConfig
from buildctl.runtimes.sandbox.emulation import native_arch
from tests.conftest import ROOT, Ran
from tests.support.command import run_command
from tests.support.images import Member, folder, tar
from tests.support.programs import programs
from tests.support.publishing import skopeo
from tests.support.pythons import base_python, put_image, python_config, python_members
from tests.support.servers import Site, site, torch_wheel, wheel
from tests.support.tiny import lock_base

MATRIX = """\
python: [{pythons}]
versions: {{"2.10": 2.10.0}}
packages: [numpy]
flavours: [runtime]
bases:
  debian13: {{debian: trixie, packages: [apt, python3.13, tzdata]}}
  team: {{image: "{registry}/team/base:1"}}
accelerators:
  cu126: {{arch: [{arch}], base: [debian13, team], index: {cu126}}}
  cu128: {{arch: [{arch}], base: [debian13, team], index: {cu128}}}
images:
  "*":
    wheels: [wheels]
    files: {{app: /app, app/run.toml: /etc/team/}}
    user: "1234:1234"
    env: {{TEAM_MODE: production}}
    labels: {{org.example.team: ml}}
exclude:
  - {{accelerator: cu128, python: "!=3.13", reason: the team needs it nowhere, instead: cu126-2.10}}
publish:
  allow-not-run: {{"*": [torch.compile, works on the gpu, without a gpu]}}
"""
HEALTH = {"Test": ["CMD-SHELL", "python --version"], "Interval": 30_000_000_000}
OTHER = base_python().version  # of the base in the registry: this machine's
PYTHONS = tuple(dict.fromkeys(("3.13", OTHER)))
SUFFIX = "" if PYTHONS[0] == OTHER else f"-py{OTHER.replace('.', '')}"
NAMES = tuple(dict.fromkeys(("cu126-2.10", f"cu126-2.10{SUFFIX}", "cu128-2.10")))
# what install-wheels calls under BuildKit
TOOLS = ("sh", "cp", "mktemp", "mkdir", "mv", "rm")


def team(root: Path, server: Site, registry: str) -> Path:
    """The project, with nothing locked but the Debian base, which would need an archive. Returns its folder."""
    push_base(root / "base", f"{registry}/team/base:1")
    machine = ARCHES[native_arch()].machine
    values = {name: torch_index(server, name, machine) for name in ("cu126", "cu128")}
    pythons = ", ".join(f'"{python}"' for python in PYTHONS)
    project = root / "project"
    (project / "images" / "wheels").mkdir(parents=True)
    (project / "matrix.yaml").write_text(
        MATRIX.format(pythons=pythons, registry=registry, arch=native_arch(), **values)
    )
    (project / "templates").symlink_to(ROOT / "templates")
    own = "team_lib-1.2-py3-none-any.whl"
    (project / "images" / "wheels" / own).write_bytes(wheel(own, more={"team_lib/core.py": "ANSWER = 42\n"}))
    _files(project / "images" / "app")
    lock_base(Project.find(project))
    return project


def _files(app: Path) -> None:
    """With modes that a clone may have, and that no image should."""
    (app / "sub").mkdir(parents=True)
    (app / "sub").chmod(0o2775)
    for name, mode in (("main.py", 0o664), ("run.toml", 0o600), ("sub/tool", 0o700)):
        (app / name).write_text(f"# {name}\n")
        (app / name).chmod(mode)
    (app / "link.py").symlink_to("main.py")


def torch_index(server: Site, local: str, machine: str) -> str:
    """The URL of an index that has nothing but torch, for each Python."""
    files = {}
    for python in PYTHONS:
        tag = f"cp{python.replace('.', '')}"
        name = f"torch-2.10.0+{local}-{tag}-{tag}-manylinux_2_28_{machine}.whl"
        files[name] = torch_wheel(name, cuda=f"{local[2:4]}.{local[4]}", requires=["numpy"])
    return server.publish(local, files)


def default_index(server: Site) -> str:
    """The URL of the index of everything else."""
    names = [f"numpy-2.3.1-{tag}-manylinux_2_28_{ARCHES[native_arch()].machine}.whl" for tag in _tags()]
    return server.publish("default", {name: wheel(name) for name in names})


def _tags() -> list[str]:
    return [f"cp{python.replace('.', '')}-cp{python.replace('.', '')}" for python in PYTHONS]


def push_base(root: Path, reference: str) -> None:
    """An image with this machine's Python, a HEALTHCHECK and a user of its own, in a registry."""
    local = [folder(f"usr/local{name}") for name in ("", "/bin", "/share")]
    members: dict[str, Member] = {m.name: m for m in (*programs(*TOOLS), *local, *python_members(base_python()))}
    config = python_config().to_json()
    config["config"] |= {"Healthcheck": HEALTH, "StopSignal": "SIGINT", "Entrypoint": None}
    put_image(root, tar(*members.values()), config=ImageConfig.from_json(config), name="base")
    skopeo("copy", "--dest-tls-verify=false", f"oci:{root / 'dist'}:base", f"docker://{reference}")
    shutil.rmtree(root)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The project, and HOST:PORT of the registry that has its base."""

    project: Path
    registry: str

    def run(self, *argv: str) -> Ran:
        """Of a command that must succeed."""
        done = run_command(*argv, cwd=self.project)
        assert done.returncode == 0, done.stderr
        return done


@contextmanager
def team_world(root: Path, registry: str, store: Mapping[str, str]) -> Iterator[World]:
    """With indexes of nothing but fixture wheels. The `store` has the default base's Debian packages."""
    with site() as server, pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("PIP_", "UV_"))]:
            patch.delenv(name)
        for name, value in store.items():
            patch.setenv(name, value)
        patch.setenv("UV_DEFAULT_INDEX", default_index(server))
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield World(project=team(root, server, registry), registry=registry)
