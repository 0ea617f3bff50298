"""The scripts that the workflows call, from a clean checkout to promoted tags, and what proposes an update."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from buildctl.oci.image import Index
from buildctl.registry.client import Repository, open_repository
from buildctl.registry.reference import Reference
from tests.conftest import ROOT, Asked
from tests.support.registry import docker_registry

REVISION = "r1"


def checkout(target: Path) -> Path:
    """What git would give somebody: every file that is tracked or new here, committed in a repository of its own."""
    said = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [name for name in said.stdout.split(b"\0") if name and (ROOT / os.fsdecode(name)).exists()]
    target.mkdir()
    packed = subprocess.run(
        ["tar", "--null", "--files-from=-", "-c"], cwd=ROOT, input=b"\0".join(names), capture_output=True, check=True
    )
    subprocess.run(["tar", "-x"], cwd=target, input=packed.stdout, check=True)
    git(target, "init", "-q", "-b", "main")
    git(target, "config", "user.name", "test")
    git(target, "config", "user.email", "test@example.invalid")
    git(target, "add", "-A")
    git(target, "commit", "-q", "-m", "start")
    return target


def git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def call(folder: Path, *argv: str, env: Mapping[str, str], timeout: float = 900) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "BUILDCTL_LAYOUT", "MAKEFLAGS"}}
    return subprocess.run(
        argv, cwd=folder, env={**clean, **env}, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def registry(stores: Path) -> Iterator[str]:
    with docker_registry(stores / "pipeline-registry") as netloc:
        yield netloc


@pytest.fixture
def signing(tmp_path: Path) -> dict[str, str]:
    """A fresh pair of keys, as the environment names them."""
    private = generate_private_key(SECP256R1())
    keys = tmp_path / "private.pem", tmp_path / "public.pem"
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    keys[0].write_bytes(private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    public = private.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    keys[1].write_bytes(public)
    return {"BUILDCTL_SIGN_KEY": str(keys[0]), "BUILDCTL_VERIFY_KEY": str(keys[1])}


def with_report(folder: Path, cell: str, report: Path, junit: Path) -> None:
    """The environment of this checkout, with a buildctl that does everything but `test`: it puts these files there."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in (".venv/.stamp", ".venv/.stamp-build", ".venv/bin/python", ".venv/bin/uv"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (programs / "buildctl").write_text(
        f'#!/bin/sh\n[ "$1" = test ] || exec {ROOT}/.venv/bin/buildctl "$@"\nset -e\nmkdir -p dist/reports dist/junit\n'
        f'cp {report} dist/reports/{cell}.json\nfor last in "$@"; do :; done\ncp {junit} "$last"\n'
    )
    (programs / "buildctl").chmod(0o755)


@pytest.mark.network
def test_the_jobs_of_one_image_end_in_promoted_tags(
    registry: str, built: Path, asked: Asked, built_store: dict[str, str], signing: dict[str, str], tmp_path: Path
) -> None:
    """cpu-2.6 from its locks to signed tags, in the environment of this checkout, with the one report of this run;
    linters and units aside.
    """
    assert asked.ran.returncode == 0, asked.ran.stderr
    folder = checkout(tmp_path / "clone")
    with_report(folder, "cpu-2.6-arm64", built / "reports" / "cpu-2.6-arm64.json", asked.junit)
    repository = f"{registry}/team/one"
    env = {**built_store, **signing, "REGISTRY": repository, "REVISION": REVISION}
    for words in (["image", "arm64", "cpu-2.6"], ["promote", "cpu-2.6"], ["verify", "cpu-2.6"]):
        done = call(folder, "scripts/pipeline", *words, env=env)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    to = open_repository(Reference.parse_repository(repository))
    cpu = single(to, f"2.6.0-cpu-py3.13-arm64-{REVISION}")
    assert pointed_at(to, "cpu-2.6") == {"linux/arm64": cpu}
    assert re.findall(r"^ +(PASSED|FAILED|NOT RUN) +signature ", done.stdout, flags=re.MULTILINE) == ["PASSED"]
    assert {path.name for path in (folder / "dist" / "junit").iterdir()} == {"cpu-2.6-arm64.xml"}
    assert git(folder, "status", "--porcelain").replace("?? .venv", "") == ""


@pytest.mark.network
def test_from_a_clean_checkout_to_promoted_tags(
    registry: str, everything: Path, built_store: dict[str, str], signing: dict[str, str], tmp_path: Path
) -> None:
    """`everything` has made the layers; everything else happens here, as on a fresh runner."""
    folder = checkout(tmp_path / "clone")
    repository = f"{registry}/team/pytorch"
    env = {**built_store, **signing, "REGISTRY": repository, "REVISION": REVISION}
    done = call(folder, "scripts/pipeline", "all", "cuda-2.6", "cpu-2.6", env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    to = open_repository(Reference.parse_repository(repository))
    cuda, cpu = (single(to, f"2.6.0-{name}-{REVISION}") for name in ("cuda12.4-py3.13-amd64", "cpu-py3.13-arm64"))
    assert pointed_at(to, "2.6") == {"linux/amd64": cuda, "linux/arm64": cpu}
    assert pointed_at(to, "cuda-2.6") == pointed_at(to, "2.6-cuda12.4") == {"linux/amd64": cuda}
    assert pointed_at(to, "cpu-2.6") == {"linux/arm64": cpu}
    verdicts = re.findall(r"^ +(PASSED|FAILED|NOT RUN) +signature ", done.stdout, flags=re.MULTILINE)
    assert verdicts == ["PASSED", "PASSED"]  # of cuda-2.6 and of cpu-2.6, as they were pulled
    assert {path.name for path in (folder / "dist" / "junit").iterdir()} == {"cuda-2.6-amd64.xml", "cpu-2.6-arm64.xml"}
    assert git(folder, "status", "--porcelain") == ""


def single(to: Repository, tag: str) -> str:
    return str(to.manifest(tag).descriptor.digest)


def pointed_at(to: Repository, tag: str) -> dict[str, str]:
    return {str(m.platform): str(m.digest) for m in Index.from_json(to.manifest(tag).json()).manifests}


@pytest.mark.parametrize("broken", ["check", "build", "fsck", "test", "publish", "promote", "verify"])
def test_a_step_that_fails_stops_all_that_comes_after(broken: str, tmp_path: Path) -> None:
    """The real script and job list; `make` and buildctl are stand-ins that note what they are asked."""
    names, asked = ["matrix", "build", "fsck", "test", "publish", "promote", "verify"], tmp_path / "asked"
    for folder in ("scripts", ".venv/bin", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("pipeline", "ci-jobs"):
        (tmp_path / "scripts" / name).write_bytes((ROOT / "scripts" / name).read_bytes())
        (tmp_path / "scripts" / name).chmod(0o755)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    cells = [
        {"name": n, "image": n, "arch": a, "native": False} for n, a in (("cuda-2.6", "amd64"), ("cpu-2.6", "arm64"))
    ]
    stand_in = (
        f'#!/bin/sh\ncase $1 in -s) exit 0 ;; esac\necho "$1" >>{asked}\n'
        f"[ $1 != matrix ] || echo '{json.dumps({'cells': cells})}'\n[ $1 != {broken} ] || exit 7\n"
    )
    for path in (tmp_path / ".venv/bin/buildctl", tmp_path / "bin/make"):
        path.write_text(stand_in)
        path.chmod(0o755)
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "REGISTRY": "registry.invalid/x", "REVISION": "r"}
    done = call(tmp_path, "scripts/pipeline", "all", env=env)
    assert done.returncode == 7, done.stderr
    seen = asked.read_text().split()
    assert seen[-1] == broken
    assert seen.count(broken) == 1
    assert set(names[names.index(broken) + 1 :] if broken in names else names) & set(seen) <= {"matrix"}


def test_one_job_for_each_name_and_architecture() -> None:
    """Both flavours on one machine; every image of the matrix exactly once."""
    cells = json.loads(call(ROOT, ".venv/bin/buildctl", "matrix", "--json", env={}).stdout)["cells"]
    given = json.dumps({"cells": cells})
    jobs = json.loads(
        subprocess.run(["scripts/ci-jobs"], cwd=ROOT, input=given, capture_output=True, text=True, check=True).stdout
    )
    assert all(set(job) == {"name", "arch", "images"} for job in jobs)
    said = [(job["arch"], image) for job in jobs for image in job["images"].split()]
    assert sorted(said) == sorted((cell["arch"], cell["image"]) for cell in cells if not cell["native"])
    assert len({(job["name"], job["arch"]) for job in jobs}) == len(jobs)


@pytest.fixture
def proposing(tmp_path: Path) -> tuple[Path, dict[str, str], Path]:
    """A checkout with a remote, and a `gh` that notes what it is asked and knows of the pull requests in `open`."""
    folder, remote, tools = tmp_path / "clone", tmp_path / "origin.git", tmp_path / "bin"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "propose").write_bytes((ROOT / "scripts" / "propose").read_bytes())
    (folder / "scripts" / "propose").chmod(0o755)
    (folder / "lock").write_text("torch==1\n")
    git(tmp_path, "init", "-q", "--bare", str(remote))
    for command in (["init", "-q", "-b", "main"], ["remote", "add", "origin", str(remote)], ["add", "-A"]):
        git(folder, *command)
    git(folder, "config", "user.name", "test")
    git(folder, "config", "user.email", "test@example.invalid")
    git(folder, "commit", "-q", "-m", "start")
    tools.mkdir()
    gh = tools / "gh"
    gh.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n'
        f'[ "$2" != list ] || {{ cat {tmp_path}/open 2>/dev/null || true; }}\n'
        f'while [ $# -gt 0 ]; do [ "$1" != --body-file ] || cp "$2" {tmp_path}/body; shift; done\n'
    )
    gh.chmod(0o755)
    return folder, {"PATH": f"{tools}:{os.environ['PATH']}"}, tmp_path


def propose(folder: Path, env: Mapping[str, str], script: str) -> subprocess.CompletedProcess[str]:
    return call(folder, "scripts/propose", "update/locks", "Newest versions", "sh", "-c", script, env=env)


def test_what_a_command_changes_becomes_a_pull_request(proposing: tuple[Path, dict[str, str], Path]) -> None:
    folder, env, notes = proposing
    done = propose(folder, env, "echo torch==2 >lock; echo '  torch 1 -> 2'")
    assert done.returncode == 0, done.stderr
    assert "pr create --head update/locks --title Newest versions" in (notes / "asked").read_text()
    assert "  torch 1 -> 2" in (notes / "body").read_text()
    assert git(folder, "rev-parse", "--abbrev-ref", "HEAD") == "main"
    assert git(folder, "show", "update/locks:lock") == "torch==2"
    assert git(folder, "ls-remote", "origin", "update/locks").split()[0] == git(folder, "rev-parse", "update/locks")
    assert "torch 1 -> 2" in git(folder, "log", "-1", "--format=%B", "update/locks")


def test_a_pull_request_that_is_open_is_renewed(proposing: tuple[Path, dict[str, str], Path]) -> None:
    folder, env, notes = proposing
    propose(folder, env, "echo torch==2 >lock")
    (notes / "open").write_text("7\n")
    (notes / "asked").unlink()
    done = propose(folder, env, "echo torch==3 >lock")
    assert done.returncode == 0, done.stderr
    asked = (notes / "asked").read_text()
    assert "pr edit update/locks" in asked
    assert "pr create" not in asked
    assert git(folder, "show", "origin/update/locks:lock") == "torch==3"


def test_nothing_changed_proposes_nothing(proposing: tuple[Path, dict[str, str], Path]) -> None:
    folder, env, notes = proposing
    done = propose(folder, env, "true")
    assert (done.returncode, done.stdout) == (0, "nothing changed, nothing to propose\n")
    assert not (notes / "asked").exists()


def test_a_command_that_fails_proposes_nothing(proposing: tuple[Path, dict[str, str], Path]) -> None:
    folder, env, notes = proposing
    assert propose(folder, env, "echo torch==2 >lock; exit 5").returncode == 5
    assert not (notes / "asked").exists()
    assert git(folder, "branch", "--list", "update/locks") == ""
