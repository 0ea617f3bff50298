"""Every workflow, read as an attacker would: what a job may do, what runs before it may, where code comes from."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / ".github" / "workflows"
PATHS = sorted(FOLDER.glob("*.yml"))
READ = {"contents": "read"}
PROMOTE = {"contents": "read", "packages": "write", "id-token": "write"}

# what each job may do; a job that is not here is a failure, and so is one that may more
MAY: dict[str, dict[str, dict[str, str]]] = {
    "alert": {"issue": {"issues": "write"}},
    "build": {
        "jobs": READ,
        "image": READ,
        "push": {"contents": "read", "packages": "write"},
        "collect": READ,
        "attest": {"contents": "read", "packages": "write", "id-token": "write", "attestations": "write"},
    },
    "cache": {"jobs": READ, "fill": {"contents": "read", "packages": "write"}},
    "ci": {"check": READ, "image": READ, "native": READ, "test": READ},
    "nightly": {"test-all": READ, "audit": READ, "alert": {"issues": "write"}},
    "publish": {
        "ci": READ,
        "build": {"contents": "read", "packages": "write", "id-token": "write", "attestations": "write"},
        "gpu": READ,
        "promote": PROMOTE,
        "promote-gpu": PROMOTE,
        "verify": {"contents": "read", "packages": "read"},
        "docs": READ,
        "page": {"contents": "read", "packages": "read"},
        "pages": {"pages": "write", "id-token": "write"},
    },
    "release": {
        "build": READ,
        "attest": {"id-token": "write", "attestations": "write"},
        "pypi": {"id-token": "write"},
        "page": {"contents": "write"},
    },
    "retention": {"delete": {"contents": "read", "packages": "write"}, "alert": {"issues": "write"}},
    "update": {
        "patch": READ,
        "propose": {"contents": "write", "pull-requests": "write"},
        "alert": {"issues": "write"},
    },
}
TRIGGERS = {
    "alert": {"workflow_call"},
    "build": {"workflow_call"},
    "cache": {"push", "workflow_dispatch"},
    "ci": {"pull_request", "push", "workflow_call"},
    "nightly": {"schedule", "workflow_dispatch"},
    "publish": {"push", "workflow_dispatch"},
    "release": {"push"},
    "retention": {"schedule", "workflow_dispatch"},
    "update": {"schedule", "workflow_dispatch"},
}
RUNNERS = {"ubuntu-24.04", "ubuntu-24.04-arm", "macos-15"}
ACTIONS = {
    "actions/attest",
    "actions/cache/restore",
    "actions/cache/save",
    "actions/checkout",
    "actions/deploy-pages",
    "actions/download-artifact",
    "actions/upload-artifact",
    "actions/upload-pages-artifact",
    "astral-sh/setup-uv",
    "sigstore/cosign-installer",
}
# words that run other people's code: linters and tests, builds, resolvers, images
FOREIGN = re.compile(
    r"\bmake\b|\.venv|\buv\b(?! publish)|\bpip\b|scripts/pipeline (?:check|jobs|image|natives?|all)\b"
    r"|scripts/propose patch|scripts/release|buildctl (?:build|test|lock|native)"
    r"|action: .*\b(?:jobs|natives|build|test)\b"
)
# the words that a job with a token may call; they need no more than buildctl, its locked wheels, git, gh and cosign.
# `fill` builds without Docker: wheels are unpacked and never run, and the base's Python compiles what it reads
WITH_TOKEN = re.compile(
    r"docker login|scripts/(?:pipeline (?:push|fill|collect|newest|promote|verify|page|retention)|propose open)"
    r"|scripts/runner room"
    r"|^action: (?:push|promote)$"
    r"|\bgh (?:auth|issue|release create)|\.venv/bin/zizmor|make -s dev|uv publish|GITHUB_OUTPUT"
)


def read(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def workflow(path: Path) -> dict[str, Any]:
    value = read(path.read_text())
    value["on"] = value.pop(True)  # YAML 1.1 reads `on` so
    return dict(value)


WORKFLOWS = {path.stem: workflow(path) for path in PATHS}
TEMPLATE = read((ROOT / "buildctl/matrix/github.yml").read_text())["jobs"]
TEMPLATES = [("template", job, value) for job, value in TEMPLATE.items()]
JOBS = [(name, job, value) for name, flow in WORKFLOWS.items() for job, value in flow["jobs"].items()]
each_job = pytest.mark.parametrize(("name", "job", "value"), JOBS, ids=[f"{n}-{j}" for n, j, _ in JOBS])
each_workflow = pytest.mark.parametrize("name", WORKFLOWS)


def steps(value: dict[str, Any]) -> list[dict[str, Any]]:
    return list(value.get("steps", ()))


def used(value: dict[str, Any]) -> Iterator[str]:
    if "uses" in value:
        yield value["uses"]
    yield from (step["uses"] for step in steps(value) if "uses" in step)


def words(step: dict[str, Any]) -> str:
    """What a step runs: its script, or what it asks of action.yml."""
    ours = step.get("uses", "").startswith("./")
    return f"action: {step['with']['run']}" if ours else str(step.get("run", ""))


def test_every_job_is_known_with_all_that_it_may() -> None:
    assert {n: {j: v.get("permissions") for j, v in f["jobs"].items()} for n, f in WORKFLOWS.items()} == MAY


@each_workflow
def test_nothing_is_allowed_that_a_job_does_not_ask_for(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {}


@each_workflow
def test_the_triggers_are_those_that_were_reviewed(name: str) -> None:
    """No pull_request_target, no workflow_run, no issue_comment: they run with this repository's rights."""
    assert set(WORKFLOWS[name]["on"]) == TRIGGERS[name]


@each_workflow
def test_only_pull_requests_are_cancelled(name: str) -> None:
    concurrency = WORKFLOWS[name]["concurrency"]
    assert concurrency["group"]
    cancels = concurrency["cancel-in-progress"]
    assert cancels is False or cancels == "${{ github.event_name == 'pull_request' }}"
    if name == "ci":  # in one group a run of main that waits would be dropped for a newer one
        assert "github.run_id" in concurrency["group"]


@each_job
def test_a_job_ends_in_time_on_a_machine_that_is_pinned(name: str, job: str, value: dict[str, Any]) -> None:
    if "uses" in value:
        return
    assert 0 < value["timeout-minutes"] <= 150
    runner = value["runs-on"]
    if (name, job) == ("publish", "gpu"):
        assert runner == {"group": "${{ vars.GPU_RUNNER_GROUP || 'Default' }}", "labels": "${{ vars.GPU_RUNNER }}"}
    else:
        assert set(re.findall(r"(?:ubuntu|macos|windows)[\w.-]*", runner)) <= RUNNERS, runner


@each_job
def test_other_peoples_actions_are_pinned_by_commit(name: str, job: str, value: dict[str, Any]) -> None:
    text = (FOLDER / f"{name}.yml").read_text()
    for action in used(value):
        if action.startswith("./"):
            # .buildctl: a checkout of this repository, or of the one that the caller of build.yml names by commit
            assert (ROOT / action.replace(".buildctl", "")).exists()
            continue
        where, _, commit = action.partition("@")
        assert where in ACTIONS, f"{where}: a new action is other people's code: add it here"
        assert re.fullmatch("[0-9a-f]{40}", commit), action
        assert re.search(rf"uses: {re.escape(action)} # v\d+\.\d+\.\d+\n", text), f"{action}: which version?"


@each_job
def test_a_checkout_leaves_no_token_behind(name: str, job: str, value: dict[str, Any]) -> None:
    for step in steps(value):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@each_job
def test_no_value_of_an_event_reaches_a_shell(name: str, job: str, value: dict[str, Any]) -> None:
    assert not [step for step in steps(value) if "${{" in step.get("run", "")]


def writes(value: dict[str, Any]) -> bool:
    return "write" in (value.get("permissions") or {}).values()


@each_job
def test_no_secret_where_other_peoples_code_has_run(name: str, job: str, value: dict[str, Any]) -> None:
    """A secret is in the environment of one step, not of a job, and nothing ran before it in that job. (The audit has a
    token that may read a public repository, in a job that may no more.)
    """
    assert "secrets." not in str(value.get("env", "")) or (name, job) == ("alert", "issue")
    assert "secrets." not in str(WORKFLOWS[name].get("env", ""))
    assert "secrets" not in value, f"{job}: secrets are not inherited"
    if (name, job) == ("nightly", "audit"):
        assert value["permissions"] == READ
        return
    before: list[str] = []
    for step in steps(value):
        if "secrets." in str(step):
            assert not [line for line in before if FOREIGN.search(line)]
        before.append(words(step))


@each_job
def test_what_may_write_runs_no_foreign_code(name: str, job: str, value: dict[str, Any]) -> None:
    if not writes(value):
        return
    for step in steps(value):
        run = words(step)
        assert not FOREIGN.search(run), run
        assert not run or WITH_TOKEN.search(run), f"{job}: {run}: a new word of a job with a token: add it here"
        assert "cache" not in step.get("uses", ""), "a cache is what another run left"


@pytest.mark.parametrize("name", ["build", "publish", "release", "update"])
def test_what_is_published_is_not_restored_from_a_cache(name: str) -> None:
    assert not [a for v in WORKFLOWS[name]["jobs"].values() for a in used(v) if "actions/cache" in a]
    assert "enable-cache: true" not in (FOLDER / f"{name}.yml").read_text()


def test_only_main_saves_the_cache() -> None:
    (ours,) = (s["with"] for s in steps(WORKFLOWS["ci"]["jobs"]["image"]) if s.get("uses") == "./")
    assert ours["cache"].endswith("github.ref == 'refs/heads/main' && 'save' || 'restore' }}")
    for name in ("build", "publish"):
        given = [
            s["with"] for v in WORKFLOWS[name]["jobs"].values() for s in steps(v) if s.get("uses", "").startswith("./")
        ]
        assert given
        assert not [one for one in given if "cache" in one], "nothing is restored where something is published"


def test_the_gpu_has_no_token_and_holds_nothing_up() -> None:
    jobs = WORKFLOWS["publish"]["jobs"]
    assert "secrets." not in str(jobs["gpu"])
    assert [job for job, value in jobs.items() if "gpu" in value.get("needs", ())] == ["promote-gpu"]
    assert "gpu" not in jobs["promote"]["needs"]
    assert "!cancelled()" in jobs["promote-gpu"]["if"]
    (build,) = (step for step in steps(jobs["gpu"]) if "image" in step.get("run", ""))
    assert all("${{ runner.temp }}/" in value for value in build["env"].values())


ENVIRONMENTS = {
    ("cache", "fill"): "cache",
    ("publish", "promote"): "publish",
    ("publish", "promote-gpu"): "publish",
    ("release", "pypi"): "pypi",
    ("update", "propose"): "update",
}


def test_a_stored_secret_is_in_an_environment() -> None:
    """A secret of the repository is there for every branch; one of an environment for the branches that it allows."""
    found = {(n, j): v["environment"] for n, j, v in JOBS if isinstance(v.get("environment"), str)}
    assert found == ENVIRONMENTS
    for name, job, value in JOBS:
        stored = set(re.findall(r"secrets\.(\w+)", str(value))) - {"GITHUB_TOKEN"}
        assert not stored or (name, job) in ENVIRONMENTS, f"{job}: {stored}"
    said = (ROOT / "docs/ci-setup.md").read_text()
    assert all(f"`{environment}`" in said for environment in ENVIRONMENTS.values())


@each_job
def test_what_is_started_by_hand_writes_on_main_alone(name: str, job: str, value: dict[str, Any]) -> None:
    """Anyone who can push can start a workflow on a branch of their own."""
    if "workflow_dispatch" not in WORKFLOWS[name]["on"] or not writes(value) or job == "alert":
        return
    jobs, asked = WORKFLOWS[name]["jobs"], [job]
    for one in asked:  # a job that waits for one that is skipped is skipped, unless it says otherwise
        if "refs/heads/main" in str(jobs[one].get("if", "")):
            return
        needs = jobs[one].get("needs", [])
        asked += [needs] if isinstance(needs, str) else needs
    pytest.fail(f"{job} runs on any branch")


def test_no_artifact_of_another_job_takes_the_place_of_a_digest() -> None:
    """Merged into one folder, the last file of a name wins, whichever job uploaded it."""
    jobs = [*WORKFLOWS["build"]["jobs"].values(), *TEMPLATE.values()]
    given = [step.get("with", {}) for value in jobs for step in steps(value)]
    handed = [one for one in given if one.get("pattern") == "handed-*"]
    assert len(handed) == 2
    assert not [one for one in handed if "merge-multiple" in one]


def test_tags_move_on_main_alone_after_ci_by_what_the_builders_handed_on() -> None:
    jobs = WORKFLOWS["publish"]["jobs"]
    assert jobs["ci"]["if"] == "github.ref == 'refs/heads/main'"
    assert (jobs["build"]["needs"], jobs["promote"]["needs"]) == ("ci", "build")
    for job in ("promote", "promote-gpu"):
        assert jobs[job]["environment"] == "publish"
        said = [words(step) for step in steps(jobs[job])]
        assert said.index("scripts/pipeline newest") < said.index("action: promote")
        assert steps(jobs[job])[-1]["with"]["expect"] == "${{ needs.build.outputs.expect }}"


def test_ci_and_publish_share_out_the_commits_of_main() -> None:
    """What publish is triggered by ci leaves to it, and an old run is recognized by the same paths."""
    paths = WORKFLOWS["publish"]["on"]["push"]["paths"]
    assert WORKFLOWS["ci"]["on"]["push"]["paths-ignore"] == paths
    script = (ROOT / "scripts" / "pipeline").read_text()
    listed = set(script.partition("\npublishing='")[2].partition("'")[0].split())
    assert listed == {path.removesuffix("/**") for path in paths}
    assert all((ROOT / path).exists() for path in listed)


ACTION = read((ROOT / "action.yml").read_text())


def test_the_action_gives_its_inputs_to_a_script_that_checks_them_first() -> None:
    """No value reaches a shell by interpolation; every input is passed on, under one name."""
    text, found = (ROOT / "action.yml").read_text(), steps(ACTION["runs"])
    assert not [step for step in found if "${{" in step.get("run", "")]
    passed = {name: f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"]}
    variables = {f"INPUT_{name.upper().replace('-', '_')}": value for name, value in passed.items()}
    by_id = {step.get("id"): step for step in found}
    assert by_id["check"]["env"] == by_id["run"]["env"] == variables
    assert found[0] == by_id["check"], "nothing runs before the inputs are checked"
    for action in used(ACTION["runs"]):
        assert re.search(rf"uses: {re.escape(action)} # v\d+\.\d+\.\d+\n", text)


def test_a_cache_is_saved_as_it_is_restored() -> None:
    """The paths are part of the key: with others nothing is ever found."""
    restore, save = (s["with"] for s in steps(ACTION["runs"]) if "actions/cache" in s.get("uses", ""))
    assert restore["path"] == save["path"]
    assert restore["key"] == save["key"]


@pytest.mark.parametrize("name", ["build", "publish", "ci"])
def test_steps_give_the_action_inputs_that_it_has(name: str) -> None:
    for value in WORKFLOWS[name]["jobs"].values():
        for step in steps(value):
            if step.get("uses", "").startswith("./"):
                assert step["with"].keys() <= ACTION["inputs"].keys()


def test_the_examples_for_other_repositories_use_inputs_that_there_are() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/ci-own.md").read_text(), re.MULTILINE | re.DOTALL)
    jobs = [job for block in blocks for job in (read(block).get("jobs") or {}).values()]
    called = [job for job in jobs if "/build.yml@" in job.get("uses", "")]
    ours = [step for job in jobs for step in steps(job) if step.get("uses") == "BUILDCTL_OWNER/buildctl@COMMIT"]
    assert (len(called), len(ours)) == (1, 2)
    for one in called:
        assert one["with"].keys() <= WORKFLOWS["build"]["on"]["workflow_call"]["inputs"].keys()
        assert one["permissions"] == WORKFLOWS["publish"]["jobs"]["build"]["permissions"]
    for one in ours:
        assert one["with"].keys() <= ACTION["inputs"].keys()


def test_what_runs_with_a_token_has_owners() -> None:
    """Whatever a job with a token starts from this repository: the workflow, the action, the script, `make venv`."""
    owned = [line.split()[0] for line in (ROOT / ".github/CODEOWNERS").read_text().splitlines() if line[:1] == "/"]
    for name in (".github/workflows/publish.yml", "action.yml", "scripts/pipeline", "Makefile", "pyproject.toml",
                 "hatch_build.py", "requirements.txt", "buildctl/publish/publish.py"):  # fmt: skip
        assert (ROOT / name).is_file()
        assert any(fnmatch(f"/{name}", f"{one}*") for one in owned), name


def test_root_knows_the_list_of_skips_too() -> None:
    """sudo drops variables that it is not told to keep."""
    test = WORKFLOWS["ci"]["jobs"]["test"]
    for one in test["strategy"]["matrix"]["include"]:
        assert (ROOT / ".github" / "skips" / one["user"]).is_file()
        assert not one["command"].startswith("sudo") or "--preserve-env=ALLOWED_SKIPS," in one["command"]
    assert test["env"]["ALLOWED_SKIPS"] == ".github/skips/${{ matrix.user }}"


def test_a_scheduled_run_that_fails_is_reported() -> None:
    for name, flow in WORKFLOWS.items():
        if "schedule" in flow["on"]:
            alert = flow["jobs"]["alert"]
            assert alert["uses"] == "./.github/workflows/alert.yml"
            assert alert["if"] == "failure()"
            needs = [alert["needs"]] if isinstance(alert["needs"], str) else alert["needs"]
            assert set(needs) == set(flow["jobs"]) - {"alert"}, name


def test_the_documentation_lists_every_job_with_all_that_it_may() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \| `([\w-]+)` \| ([^|]*) \|", (ROOT / "docs/ci-setup.md").read_text(), re.MULTILINE
    )
    said = {(name, job): may for name, job, may in rows}
    assert len(said) == len(rows)
    assert said == {
        (name, job): ", ".join(f"{what} {how}" for what, how in value["permissions"].items())
        for name, job, value in JOBS
    }


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What shellcheck, which takes a while to start, has to ask about the steps of each job: WORKFLOW-JOB -> lines."""
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("NOT RUN: shellcheck is not in this environment")
    root = tmp_path_factory.mktemp("steps")
    for name, job, value in [*JOBS, *TEMPLATES]:
        for number, step in enumerate(steps(value)):
            if run := step.get("run"):
                (root / f"{name}-{job}-{number}").write_text(run)
    argv = [program, "-s", "bash", "-f", "gcc", *sorted(path.name for path in root.iterdir())]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        found.setdefault(line.partition(":")[0].rpartition("-")[0], []).append(line)
    return found


@pytest.mark.parametrize("job", [f"{n}-{j}" for n, j, _ in [*JOBS, *TEMPLATES]])
def test_shellcheck_has_no_question_about_a_step(job: str, questions: dict[str, list[str]]) -> None:
    assert job not in questions
