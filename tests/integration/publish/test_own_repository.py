"""CI of a repository with nothing but a matrix.yaml, walked from locks to promoted tags: the reusable workflow with the
action, and what `buildctl init --ci` writes for GitHub and for GitLab.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from buildctl.matrix.initial import Wish, files
from buildctl.registry.client import open_repository
from buildctl.registry.reference import Reference
from tests.conftest import ROOT, fresh_store
from tests.support.bsd import mac_like
from tests.support.registry import Proxy
from tests.support.tiny import CELL, NAME, tiny
from tests.support.workflows import FailedError, Runner, evaluate

COMMIT = "c0ffee" * 6 + "beef"
TEMPLATE = yaml.safe_load((ROOT / "buildctl/matrix/github.yml").read_text())
PROGRAM = ROOT / ".venv" / "bin" / "buildctl"
RESTRICTED = ROOT / "tests" / "support" / "restricted.py"
# tiny's torch is noise, so nobody can be asked: everything but `test` is the program itself
TESTED = f"""\
[ "$1" = test ] || exec {PROGRAM} "$@"
{ROOT}/.venv/bin/python - <<'END'
import json, pathlib
digest = next(m["digest"] for m in json.load(open("dist/index.json"))["manifests"]
              if m["annotations"]["org.opencontainers.image.ref.name"] == "{CELL}")
finding = {{"name": "torch", "status": "PASSED", "detail": "", "seconds": 0.1}}
report = {{"schema": 1, "cell": "{CELL}", "digest": digest, "arch": "arm64", "runtime": "sandbox", "emulated": None,
          "gpus": False, "findings": [finding]}}
pathlib.Path("dist/reports").mkdir(exist_ok=True)
pathlib.Path("dist/reports/{CELL}.json").write_text(json.dumps(report))
END
for last in "$@"; do :; done
mkdir -p "$(dirname "$last")" && touch "$last"
"""


@pytest.mark.parametrize(
    ("handed", "said"),
    [
        (
            ["handed-a/a.json", "handed-b/b.json"],
            ["--expect=handed/handed-a/a.json", "--expect=handed/handed-b/b.json"],
        ),
        (["handed-a/a --allow-not-run x.json"], ["--expect=handed/handed-a/a --allow-not-run x.json"]),
        ([], None),
    ],
    ids=["all", "a name is one word", "nothing"],
)
def test_promote_of_the_template_expects_all_that_was_handed_on(
    handed: list[str], said: list[str] | None, tmp_path: Path
) -> None:
    """And never nothing: then it would take whatever the registry has."""
    for name in handed:
        path = tmp_path / "handed" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    program = tmp_path / "bin" / "torch-buildctl"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    (step,) = (s["run"] for s in TEMPLATE["jobs"]["promote"]["steps"] if "torch-buildctl promote" in s.get("run", ""))
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}", "REGISTRY": "r.example/p", "GITHUB_SHA": COMMIT}
    done = subprocess.run(
        ["bash", "-e", "-c", step], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    if said is None:
        assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (1, "", "nothing was handed on")
    else:
        words = done.stdout.splitlines()
        assert words[:5] == ["promote", "--to", "r.example/p", "--revision", COMMIT]
        assert sorted(words[5:]) == said


@pytest.fixture(scope="module")
def layers(stores: Path) -> dict[str, str]:
    """The environment of one store: what the first walk makes, the others find."""
    return fresh_store(stores / "own-repository")


@pytest.fixture
def runner(tmp_path: Path, front: Proxy, layers: dict[str, str]) -> Runner:
    """The repository is `repository`; `.buildctl` in a workspace is this checkout with a buildctl that asks nobody."""
    repository = tiny(tmp_path / "repository", Path(layers["BUILDCTL_CACHE"]))

    def clone(target: Path) -> None:
        if target.name == ".buildctl":
            buildctl(target)
        else:
            shutil.copytree(repository, target, dirs_exist_ok=True, symlinks=True)

    made = Runner(
        root=tmp_path / "runner",
        clone=clone,
        env={**layers, "GITHUB_SHA": COMMIT},
        contexts={
            "github": {
                "repository": "Team/own", "repository_owner": "Team", "sha": COMMIT, "server_url": "https://github.com",
                "ref": "refs/heads/main", "run_id": "7", "run_attempt": "1",
            },
            "vars": {"REGISTRY": f"{front.netloc}/team/own"},
            "secrets": {"GITHUB_TOKEN": "secret"},
        },
    )  # fmt: skip
    made.tool("torch-buildctl", TESTED)
    return made


def buildctl(target: Path) -> None:
    (target / "scripts").mkdir(parents=True)
    for name in ("action", "pipeline", "ci-jobs"):
        shutil.copy(ROOT / "scripts" / name, target / "scripts" / name)
    (target / "scripts" / "runner").write_text("#!/bin/sh\n")
    (target / "scripts" / "runner").chmod(0o755)
    (target / "Makefile").write_text("venv:\n")
    shutil.copy(ROOT / "action.yml", target)
    (target / ".venv" / "bin").mkdir(parents=True)
    for name, script in {"python": f'exec {ROOT}/.venv/bin/python "$@"', "buildctl": TESTED}.items():
        (target / ".venv" / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (target / ".venv" / "bin" / name).chmod(0o755)


def promoted(place: str) -> None:
    """The tag that people pull leads to what was tested."""
    to = open_repository(Reference.parse_repository(place))
    tag, single = to.manifest(NAME).json(), to.manifest(f"2.6.0-cpu-py3.13-arm64-{COMMIT}")
    assert [m["digest"] for m in tag["manifests"]] == [str(single.descriptor.digest)]


@pytest.mark.network
def test_the_reusable_workflow_and_the_action(runner: Runner, front: Proxy) -> None:
    """With an owner in capitals, as GitHub allows, and with programs as a Mac has them, where people run these."""
    mac_like(runner.root / "tools")
    place = f"{front.netloc}/Team/own"
    done = runner.workflow(
        ROOT / ".github/workflows/build.yml", registry=place, buildctl="Somebody/buildctl", ref="a" * 40
    )
    assert json.loads(done["jobs"]["jobs"]) == [{"name": NAME, "arch": "arm64", "images": NAME}]
    expect = done["collect"]["expect"]
    assert json.loads(expect)["images"].keys() == {CELL}
    folder = runner.root / "promote"
    (folder / "temp").mkdir(parents=True)
    step: dict[str, Any] = {
        "uses": "./.buildctl",
        "with": {"run": "promote verify", "to": place, "expect": expect, "revision": COMMIT},
    }
    runner.clone(folder / "workspace")
    runner.clone(folder / "workspace" / ".buildctl")
    runner.steps([step], folder, {}, {})
    promoted(place.lower())
    page = (runner.root / "summary.md").read_text()
    assert f"### Published: {place.lower()}" in page
    assert f"| {NAME} | moving | new |" in page
    step["with"]["expect"] = re.sub("sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", expect, count=1)
    with pytest.raises(FailedError, match=f"{'0' * 12}|{CELL}"):
        runner.steps([step], folder, {}, {})


@pytest.mark.network
def test_what_init_writes_for_github(runner: Runner, front: Proxy, tmp_path: Path) -> None:
    path = tmp_path / "images.yml"
    path.write_text(files(Wish(accelerators=("cpu",), ci="github"))[".github/workflows/images.yml"])
    runner.workflow(path)
    promoted(f"{front.netloc}/team/own")
    assert not [line for line in runner.log if "${{" in line]


@pytest.mark.network
def test_what_init_writes_for_gitlab(runner: Runner, front: Proxy, tmp_path: Path) -> None:
    pipeline = yaml.safe_load(files(Wish(accelerators=("cpu",), ci="gitlab"))[".gitlab-ci.yml"])
    auth = tmp_path / "config.json"
    auth.write_text("{}")
    env = {"REGISTRY": f"{front.netloc}/team/own", "REGISTRY_AUTH": str(auth), "CI_COMMIT_SHA": COMMIT}
    kept = tmp_path / "artifacts"
    for stage in pipeline["stages"]:
        for name, job in pipeline.items():
            if isinstance(job, dict) and job.get("stage") == stage:
                _gitlab(runner, pipeline, name, env, kept)
    promoted(f"{front.netloc}/team/own")


def _gitlab(runner: Runner, pipeline: Mapping[str, Any], name: str, env: dict[str, str], kept: Path) -> None:
    job = pipeline[name]
    workspace = runner.root / name / "workspace"
    runner.clone(workspace)
    if kept.exists():
        shutil.copytree(kept, workspace, dirs_exist_ok=True)
    variables = {
        "BUILDCTL": str(pipeline["variables"]["BUILDCTL"]),
        "DOCKER_CONFIG": str(workspace / ".docker"),
        **({"ARCH": "arm64"} if "extends" in job else {}),
    }
    script = "\n".join([*pipeline["default"]["before_script"], *job["script"]])
    runner._run(script, workspace.parent, {**env, **variables})
    for glob in (job.get("artifacts") or {}).get("paths", ()):
        for found in workspace.glob(glob):
            target = kept / found.relative_to(workspace)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(found, target, dirs_exist_ok=True) if found.is_dir() else shutil.copy(found, target)


@pytest.mark.network
def test_an_ordinary_user_without_user_namespaces(
    runner: Runner, front: Proxy, layers: dict[str, str], tmp_path: Path
) -> None:
    """Builds and publishes, is told what is NOT RUN, and moves no tag."""
    project, home, place = tmp_path / "project", tmp_path / "home", f"{front.netloc}/team/ordinary"
    runner.clone(project)
    buildctl(home)
    (home / ".venv" / "bin" / "buildctl").write_text(f'#!/bin/sh\nexec {PROGRAM} "$@"\n')
    env = {**os.environ, **layers, "PROJECT": str(project), "REGISTRY": place, "REVISION": COMMIT}
    user = ["unshare", "--user", "--map-user=4242", "--map-group=4343"]

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        argv: list[str | Path] = [*user, sys.executable, RESTRICTED, home / "scripts" / "pipeline", *words]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=300)

    built = ask("build", "arm64", NAME)
    if "unshare failed" in built.stderr:
        pytest.skip("NOT RUN: no user namespaces here")
    assert built.returncode == 0, built.stderr
    tested = ask("test", "arm64", NAME)
    assert tested.returncode == 3, tested.stderr
    assert "NOT RUN  all " in tested.stdout
    assert "user namespaces are blocked here" in " ".join(tested.stdout.split())
    assert ask("push", "arm64", NAME).returncode == 0
    moved = ask("promote")
    assert moved.returncode == 1
    assert "every finding is NOT RUN" in " ".join(moved.stdout.split())
    assert open_repository(Reference.parse_repository(place)).head(NAME) is None


def test_the_expressions_that_the_walk_evaluates() -> None:
    values = {
        "inputs": {"a": "", "sign-keyless": "x"},
        "github": {"sha": "1"},
        "needs": {"j": {"outputs": {"o": "[1]"}}},
    }
    assert evaluate("inputs.a || github.sha", values) == "1"
    assert evaluate("inputs.a != '' && 'x' || format('g/{0}', github.sha)", values) == "g/1"
    assert evaluate("fromJSON(needs.j.outputs.o)", values) == [1]
    assert evaluate("inputs.sign-keyless", values) == "x"


BAD = {
    "run": ["", "build; rm -rf /", "deploy", "build\ntest", "$(id)"],
    "images": ["a;b", "$(id)", "a\nb", "-x", "A"],
    "arch": ["riscv", "amd64 arm64"],
    "to": ["nowhere", "r.example/a b", "r.example/a;id", "$(id)/x"],
    "revision": ["a b", "a/b"],
    "cache": ["yes", "restore", "save"],
    "project": ["/etc", "a/../..", "..", "a b"],
    "reports": ["../x", "$HOME"],
    "sign-keyless": ["1"],
    "await": ["$(id)", "a;b"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_an_input_that_is_not_what_it_should_be_is_refused_by_name(name: str, value: str, tmp_path: Path) -> None:
    inputs = {"run": "build push promote", "images": "cpu-2.6", "arch": "arm64", "to": "r.example/a"} | {name: value}
    env = {f"INPUT_{key.upper().replace('-', '_')}": text for key, text in inputs.items()}
    done = subprocess.run(
        [ROOT / "scripts" / "action", "run"], cwd=tmp_path, env={"PATH": os.environ["PATH"], **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("::error::")
    assert name in done.stderr.splitlines()[0]
