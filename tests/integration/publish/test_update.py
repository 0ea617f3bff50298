"""How an update becomes a pull request: scripts/propose, and the two jobs of update.yml that call it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.publish.test_pipeline import call, git
from tests.support.workflows import Runner


@pytest.fixture
def proposing(tmp_path: Path) -> tuple[Path, dict[str, str], Path]:
    """A checkout with a remote, and a `gh` that notes what it is asked and knows of the pull requests in `open`."""
    folder, remote, tools = tmp_path / "clone", tmp_path / "origin.git", tmp_path / "bin"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "propose").write_bytes((ROOT / "scripts" / "propose").read_bytes())
    (folder / "scripts" / "propose").chmod(0o755)
    (folder / "images").mkdir()
    (folder / "images" / "lock").write_text("torch==1\n")
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
    """Both steps, as the two jobs of update.yml."""
    patch = folder.parent / "patch"
    shutil.rmtree(patch, ignore_errors=True)
    done = call(folder, "scripts/propose", "patch", str(patch), "sh", "-c", script, env=env)
    if done.returncode or not patch.exists():
        return done
    assert git(folder, "status", "--porcelain") == ""
    return call(folder, "scripts/propose", "open", str(patch), "update/locks", "Newest versions", env=env)


def test_what_a_command_changes_becomes_a_pull_request(proposing: tuple[Path, dict[str, str], Path]) -> None:
    folder, env, notes = proposing
    done = propose(folder, env, "echo torch==2 >images/lock; echo '  torch 1 -> 2'")
    assert done.returncode == 0, done.stderr
    assert "pr create --head update/locks --title Newest versions" in (notes / "asked").read_text()
    assert "  torch 1 -> 2" in (notes / "body").read_text()
    assert git(folder, "rev-parse", "--abbrev-ref", "HEAD") == "main"
    assert git(folder, "show", "update/locks:images/lock") == "torch==2"
    assert git(folder, "ls-remote", "origin", "update/locks").split()[0] == git(folder, "rev-parse", "update/locks")
    assert "torch 1 -> 2" in git(folder, "log", "-1", "--format=%B", "update/locks")


def test_a_pull_request_that_is_open_is_renewed(proposing: tuple[Path, dict[str, str], Path]) -> None:
    folder, env, notes = proposing
    propose(folder, env, "echo torch==2 >images/lock")
    (notes / "open").write_text("7\n")
    (notes / "asked").unlink()
    done = propose(folder, env, "echo torch==3 >images/lock")
    assert done.returncode == 0, done.stderr
    asked = (notes / "asked").read_text()
    assert "pr edit update/locks" in asked
    assert "pr create" not in asked
    assert git(folder, "show", "origin/update/locks:images/lock") == "torch==3"


def test_nothing_changed_proposes_nothing(proposing: tuple[Path, dict[str, str], Path]) -> None:
    folder, env, notes = proposing
    done = propose(folder, env, "true")
    assert (done.returncode, done.stdout) == (0, "nothing changed, nothing to propose\n")
    assert not (notes / "asked").exists()


def test_a_command_that_fails_proposes_nothing(proposing: tuple[Path, dict[str, str], Path]) -> None:
    folder, env, notes = proposing
    assert propose(folder, env, "echo torch==2 >images/lock; exit 5").returncode == 5
    assert not (notes / "asked").exists()
    assert git(folder, "branch", "--list", "update/locks") == ""


WIDER = {
    "a workflow": "mkdir -p .github/workflows; echo x >.github/workflows/x.yml",
    "a script": "echo x >scripts/more",
    "a link": "ln -s /etc/passwd images/link",
    "a moved file": "git mv scripts/propose images/propose",
    "a mode": "chmod +x images/lock",
}


@pytest.mark.parametrize("script", WIDER.values(), ids=WIDER)
def test_a_patch_that_reaches_further_than_an_update_is_refused(
    script: str, proposing: tuple[Path, dict[str, str], Path]
) -> None:
    """Resolvers and project code run without a token; what they leave behind is applied to named paths alone."""
    folder, env, notes = proposing
    done = propose(folder, env, f"{script}; echo torch==2 >>images/lock")
    assert done.returncode == 1
    assert "the patch touches what an update must not change" in done.stderr
    assert not (notes / "asked").exists()
    assert git(folder, "branch", "--list", "update/locks") == ""


HOSTILE = "text\n```\n<h1>Approved</h1> Closes #1\n````\n"


def test_what_an_index_says_does_not_end_the_block_it_is_shown_in(
    proposing: tuple[Path, dict[str, str], Path],
) -> None:
    folder, env, notes = proposing
    (notes / "hostile").write_text(HOSTILE)
    done = propose(folder, env, f"echo torch==2 >images/lock; cat {notes}/hostile")
    assert done.returncode == 0, done.stderr
    lines = (notes / "body").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("`" * 5, "`" * 5)
    assert "`" * 5 not in lines[1:-1]
    assert HOSTILE in "\n".join(lines[1:-1]) + "\n"


def test_the_jobs_of_the_workflow_hand_the_patch_on(
    proposing: tuple[Path, dict[str, str], Path], tmp_path: Path
) -> None:
    """One job makes a patch, another finds it among the artifacts; of three updates one changes nothing."""
    repository, env, notes = proposing
    git(repository, "push", "-q", "origin", "main")
    (repository / "scripts" / "runner").write_text("#!/bin/sh\n")
    (repository / "scripts" / "runner").chmod(0o755)
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "runner")

    def clone(target: Path) -> None:
        shutil.copytree(repository, target, dirs_exist_ok=True, symlinks=True)

    runner = Runner(root=tmp_path / "runner", clone=clone, contexts={"secrets": {"GITHUB_TOKEN": "secret"}})
    runner.tool("gh", f'exec {env["PATH"].split(":")[0]}/gh "$@"')
    runner.tool("make", "case $* in *=1) echo torch==2 >images/lock ;; *COOLDOWN*) echo x >requirements.txt ;; esac")
    runner.workflow(ROOT / ".github/workflows/update.yml")
    opened = [line.split() for line in (notes / "asked").read_text().splitlines() if line.startswith("pr create")]
    assert [words[3] for words in opened] == ["update/locks", "update/requirements"]
    assert git(repository, "ls-remote", "origin", "update/locks")
    assert git(repository, "ls-remote", "origin", "update/requirements")
    assert not git(repository, "ls-remote", "origin", "update/bases")
