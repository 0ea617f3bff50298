"""The scripts that the workflows call, from a clean checkout to promoted tags, and a release."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
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
    place = repository.replace("team", "Team")  # an owner on GitHub may be written so, a repository may not
    env = {**built_store, **signing, "REGISTRY": place, "REVISION": REVISION}
    arm = ["arm64", "cpu-2.6"]
    for words in (["image", *arm], ["push", *arm], ["promote", "cpu-2.6"], ["verify", "cpu-2.6"]):
        done = call(folder, "scripts/pipeline", *words, env=env)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    to = open_repository(Reference.parse_repository(repository))
    cpu = single(to, f"2.6.0-cpu-py3.13-arm64-{REVISION}")
    assert pointed_at(to, "cpu-2.6") == {"linux/arm64": cpu}
    assert re.findall(r"^ +(PASSED|FAILED|NOT RUN) +signature ", done.stdout, flags=re.MULTILINE) == ["PASSED"]
    assert {path.name for path in (folder / "dist" / "junit").iterdir()} == {"cpu-2.6-arm64.xml"}
    assert json.loads((folder / "dist" / "handed" / "cpu-2.6-arm64.json").read_text())["images"].keys() == {
        "cpu-2.6-arm64"
    }
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


CELLS = [{"name": n, "image": n, "arch": a, "native": False} for n, a in (("cuda-2.6", "amd64"), ("cpu-2.6", "arm64"))]
MATRIX = {"cells": CELLS, "jobs": [{"name": c["name"], "arch": c["arch"], "images": c["image"]} for c in CELLS]}
ORDER = ["matrix", "build", "fsck", "test", "publish", "promote", "verify"]


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """The real scripts; `make` and buildctl note what they are asked, and fail at the word in `broken`."""
    for folder in ("scripts", ".venv/bin", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("pipeline", "ci-jobs"):
        (tmp_path / "scripts" / name).write_bytes((ROOT / "scripts" / name).read_bytes())
        (tmp_path / "scripts" / name).chmod(0o755)
    (tmp_path / ".venv/bin/python").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    (tmp_path / "broken").touch()
    stand_in = (
        f'#!/bin/sh\ncase $1 in -s) exit 0 ;; esac\necho "$*" >>{tmp_path}/asked\n'
        f"[ $1 != matrix ] || echo '{json.dumps(MATRIX)}'\n"
        f'[ $1 != "$(cat {tmp_path}/broken)" ] || exit 7\n'
    )
    for path in (tmp_path / ".venv/bin/buildctl", tmp_path / "bin/make"):
        path.write_text(stand_in)
        path.chmod(0o755)
    return tmp_path


def asked_of(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def pipeline(folder: Path, *words: str, shell: Sequence[str] = (), **env: str) -> subprocess.CompletedProcess[str]:
    base = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "REGISTRY": "registry.invalid/x", "REVISION": "r"}
    return call(folder, *shell, "scripts/pipeline", *words, env={**base, **env})


@pytest.mark.parametrize("broken", ["check", *ORDER[1:]])
def test_a_step_that_fails_stops_all_that_comes_after(broken: str, stand_ins: Path) -> None:
    (stand_ins / "broken").write_text(broken)
    done = pipeline(stand_ins, "all")
    assert done.returncode == 7, done.stderr
    seen = [line.split()[0] for line in asked_of(stand_ins)]
    assert seen[-1] == broken
    assert seen.count(broken) == 1
    later = ORDER[ORDER.index(broken) + 1 :] if broken in ORDER else ORDER
    assert set(later) & set(seen) <= {"matrix"}


def test_nothing_is_pushed_before_it_is_tested_and_by_another_word(stand_ins: Path) -> None:
    """`image` runs other people's code and never asks a registry, so its job needs no token."""
    done = pipeline(stand_ins, "image", "amd64", "cuda-2.6")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in asked_of(stand_ins)] == ["build", "fsck", "test"]
    assert "registry.invalid" not in (stand_ins / "asked").read_text()
    done = pipeline(
        stand_ins, "push", "amd64", "cuda-2.6", SOURCE="git+https://x@1", INVOCATION="urn:1", BUILDER_ID="u"
    )
    assert asked_of(stand_ins)[3] == (
        "publish cuda-2.6 --arch amd64 --to registry.invalid/x --tags immutable --revision r "
        "--hand-on dist/handed/cuda-2.6-amd64.json --builder-id u --source git+https://x@1 --invocation urn:1"
    )


def test_what_builders_handed_on_is_what_promote_believes(stand_ins: Path) -> None:
    handed = stand_ins / "dist" / "handed"
    handed.mkdir(parents=True)
    for n, cell in enumerate(("a", "b"), 1):
        value = {"digest": f"sha256:{str(n) * 64}", "documents": {}, "there": []}
        (handed / f"{cell}.json").write_text(json.dumps({"images": {cell: value}}))
    both = pipeline(stand_ins, "collect", "dist/handed/a.json", "dist/handed/b.json")
    assert both.stdout.count("\n") == 1
    assert json.loads(both.stdout)["images"].keys() == {"a", "b"}
    (handed / "c.json").write_text((handed / "a.json").read_text().replace("11", "33"))
    assert "handed on before" in pipeline(stand_ins, "collect", "dist/handed/a.json", "dist/handed/c.json").stderr
    # as artifacts come: each in its folder, so that one cannot take another's place under its name
    for place, name in (("handed-a", "a"), ("handed-b", "b"), ("handed-zz", "c")):
        (stand_ins / "got" / place).mkdir(parents=True)
        (handed / f"{name}.json").rename(stand_ins / "got" / place / f"{name.replace('c', 'a')}.json")
    assert "handed on before" in pipeline(stand_ins, "collect", "got").stderr
    (stand_ins / "got/handed-zz/a.json").unlink()
    assert pipeline(stand_ins, "collect", "got").stdout == both.stdout
    assert pipeline(stand_ins, "collect", "scripts").stderr == "nothing was handed on\n"
    for name in "ab":
        (stand_ins / f"got/handed-{name}/{name}.json").rename(handed / f"{name}.json")
    assert pipeline(stand_ins, "collect", "no-such.json").returncode != 0
    reports = stand_ins / "gpu"
    reports.mkdir()
    (reports / "cuda.json").touch()
    pipeline(stand_ins, "promote")
    pipeline(stand_ins, "promote", EXPECT="all.json", GPU_REPORTS="gpu", SIGN_KEYLESS="1", AWAIT="works on the gpu")
    to = "--to registry.invalid/x --revision r"
    assert asked_of(stand_ins) == [
        f"promote --expect dist/handed/a.json --expect dist/handed/b.json {to}",
        f"promote --expect all.json --report gpu/cuda.json {to} --await works on the gpu --sign-keyless",
    ]


@pytest.mark.parametrize("place", ["ghcr.io/Some-Owner/pytorch", "GHCR.io/x/y"])
def test_an_owner_in_capitals_is_put_in_lower_case(place: str, stand_ins: Path) -> None:
    assert pipeline(stand_ins, "jobs", REGISTRY=place).returncode == 0
    pipeline(stand_ins, "promote", REGISTRY=place)
    assert f"--to {place.lower()} " in asked_of(stand_ins)[-1]


@pytest.mark.parametrize("place", ["ghcr.io/some_-owner/x", "ghcr.io/x/y:tag", "ghcr.io//y"])
def test_a_place_that_no_registry_takes_ends_the_first_job(place: str, stand_ins: Path) -> None:
    done = pipeline(stand_ins, "jobs", REGISTRY=place)
    assert done.returncode == 1
    assert done.stderr.startswith("REGISTRY: ")
    assert not (stand_ins / "asked").exists(), "nothing was built"


def test_the_page_of_a_run_shows_what_was_verified(stand_ins: Path) -> None:
    page = stand_ins / "page.md"
    (stand_ins / "broken").write_text("verify")
    done = pipeline(stand_ins, "verify", GITHUB_STEP_SUMMARY=str(page))
    assert done.returncode == 7, "what is shown does not hide that it failed"
    assert page.read_text() == "### verified\n\n```\n```\n"


def test_no_text_of_a_registry_ends_its_block_on_that_page(stand_ins: Path) -> None:
    page, program = stand_ins / "page.md", stand_ins / ".venv/bin/buildctl"
    program.write_text(program.read_text() + "[ $1 != verify ] || printf '```\\n<h1>PASSED</h1>\\n````\\n'\n")
    done = pipeline(stand_ins, "verify", "cpu-2.6", GITHUB_STEP_SUMMARY=str(page))
    assert done.returncode == 0, done.stderr
    _, _, start, *text, end = page.read_text().splitlines()
    assert start == end == "`" * 5
    assert "\n".join([*text, ""]) == done.stdout


@pytest.mark.parametrize("nothing", ["matrix", "tags"])
def test_nothing_to_verify_is_not_verified(nothing: str, stand_ins: Path) -> None:
    """A list that comes out empty is a mistake somewhere, and would make every run green."""
    answers = {"matrix": json.dumps(MATRIX), "tags": '[{"tag": "x", "kind": "moving"}]'}
    answers[nothing] = {"matrix": '{"cells": [], "jobs": []}', "tags": '[{"tag": "x", "kind": "immutable"}]'}[nothing]
    said = "".join(f"[ $1 != {word} ] || echo '{answer}'\n" for word, answer in answers.items())
    (stand_ins / ".venv/bin/buildctl").write_text(f"#!/bin/sh\n{said}")
    (stand_ins / "bin/cosign").write_text("#!/bin/sh\n")
    (stand_ins / "bin/cosign").chmod(0o755)
    done = pipeline(stand_ins, "verify", IDENTITY="https://x", ISSUER="https://issuer")
    assert done.returncode == 1
    assert "so there is nothing to verify" in done.stderr


def test_the_signature_of_every_tag_is_asked_for(stand_ins: Path) -> None:
    """And one image of each architecture is pulled and compared, unless images are named."""
    for program, text in {
        "bin/cosign": f'#!/bin/sh\necho "$*" >>{stand_ins}/cosign\n',
        ".venv/bin/buildctl": (
            f'#!/bin/sh\necho "$*" >>{stand_ins}/asked\n'
            f"[ $1 != matrix ] || echo '{json.dumps(MATRIX)}'\n"
            """[ $1 != tags ] || echo '[{"tag": "cuda-2.6", "kind": "moving"}, {"tag": "2.6", "kind": "universal"},"""
            """ {"tag": "2.6.0-r", "kind": "immutable"}]'\n"""
        ),
    }.items():
        (stand_ins / program).write_text(text)
        (stand_ins / program).chmod(0o755)
    done = pipeline(stand_ins, "verify", IDENTITY="https://x/publish.yml@refs/heads/main", ISSUER="https://issuer")
    assert done.returncode == 0, done.stderr
    who = "--certificate-identity https://x/publish.yml@refs/heads/main --certificate-oidc-issuer https://issuer"
    assert (stand_ins / "cosign").read_text().splitlines() == [
        f"verify {who} registry.invalid/x:cuda-2.6",
        f"verify {who} registry.invalid/x:2.6",
    ]
    verified = [line for line in asked_of(stand_ins) if line.startswith("verify")]
    assert [line.split()[1:4] for line in verified] == [
        ["registry.invalid/x:cuda-2.6", "--arch", "amd64"],
        ["registry.invalid/x:cpu-2.6", "--arch", "arm64"],
    ]
    assert "--require report" in verified[0]


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A clone whose origin/main has three commits: one that publishes, one of documentation, one that publishes."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    (origin / "scripts").mkdir(parents=True)
    (origin / "scripts" / "pipeline").write_bytes((ROOT / "scripts" / "pipeline").read_bytes())
    (origin / "scripts" / "pipeline").chmod(0o755)
    git(origin, "init", "-q", "-b", "main")
    for name in ("matrix.yaml", "README.md", "images/x"):
        (origin / name).parent.mkdir(exist_ok=True)
        (origin / name).write_text(name)
        git(origin, "add", "-A")
        git(origin, "-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-q", "-m", name)
    git(tmp_path, "clone", "-q", str(origin), str(clone))
    return clone


def test_an_old_run_that_is_started_again_does_not_move_tags_back(history: Path) -> None:
    answers = []
    for commit in ("main", "main~1", "main~2"):
        git(history, "checkout", "-q", commit)
        answers.append(call(history, "scripts/pipeline", "newest", env={}))
    assert [done.returncode for done in answers] == [0, 1, 1]
    assert "main has newer commits that publish" in answers[1].stderr
    assert "images/x" in answers[1].stderr


def test_documentation_alone_does_not_hold_a_run_up(history: Path) -> None:
    git(history, "update-ref", "refs/remotes/origin/main", "origin/main~1")
    git(history, "checkout", "-q", "origin/main~1")
    assert call(history, "scripts/pipeline", "newest", env={}).returncode == 0


def test_a_commit_that_is_not_on_main_publishes_nothing(history: Path) -> None:
    git(history, "-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-q", "--allow-empty", "-m", "x")
    done = call(history, "scripts/pipeline", "newest", env={})
    assert (done.returncode, done.stderr) == (1, "this commit is not on main\n")


def test_one_job_for_each_name_and_architecture() -> None:
    """Both flavours on one machine; every image of the matrix exactly once."""
    found = json.loads(call(ROOT, ".venv/bin/buildctl", "matrix", "--json", env={}).stdout)
    cells, jobs = found["cells"], found["jobs"]
    assert all(set(job) == {"name", "arch", "images"} for job in jobs)
    said = [(job["arch"], image) for job in jobs for image in job["images"].split()]
    assert sorted(said) == sorted((cell["arch"], cell["image"]) for cell in cells if not cell["native"])
    assert len({(job["name"], job["arch"]) for job in jobs}) == len(jobs)


def test_a_release_built_twice_has_the_same_bytes(tmp_path: Path) -> None:
    """At two paths, in two locales, time zones and umasks; and the tag is the version."""
    folder = checkout(tmp_path / "clone")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "make").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "make").chmod(0o755)
    version = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)[0]
    done = call(folder, "scripts/release", "build", f"v{version}", env=env)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (folder / "release").iterdir()}
    assert names == {f"buildctl-{version}-py3-none-any.whl", f"buildctl-{version}.tar.gz"}
    with zipfile.ZipFile(folder / "release" / f"buildctl-{version}-py3-none-any.whl") as wheel:
        assert {"buildctl/matrix/schema.json", "buildctl/lock/debian-archive-keys.gpg"} <= set(wheel.namelist())
        wheel.extractall(tmp_path / "installed")
    ran = call(tmp_path, str(ROOT / ".venv/bin/python"), "-m", "buildctl", "--help", env={"PYTHONPATH": "installed"})
    assert ran.returncode == 0, ran.stderr
    other = call(folder, "scripts/release", "build", "v99", env=env)
    assert (other.returncode, other.stderr) == (1, f"release: the tag is v99, pyproject.toml has version {version}\n")
    (folder / "CHANGELOG.md").write_text(
        f"# C\n\n## Unreleased\n\n- no\n\n## {version} (today)\n\n- yes\n\n## 0.0.1\n- no\n"
    )
    assert call(folder, "scripts/release", "notes", f"v{version}", env=env).stdout.strip() == "- yes"
