"""Runs workflows of GitHub Actions on this machine as far as ours need it: jobs in order, each in a fresh clone;
matrices, outputs, artifacts, expressions, composite actions. Programs that would change a machine are replaced on PATH.

Not here: conditions of jobs and steps (a run of main that publishes is assumed), permissions, secrets, caches.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

REPLACED = ("sudo", "docker", "pipx", "pip", "systemctl")
Values = Mapping[str, Any]
_NAME = re.compile(r"'[^']*'|[A-Za-z_][\w-]*(?:\.[\w-]+)*(?!\()\b|\|\||&&|!(?!=)")


class FailedError(AssertionError):
    """A step failed; the text is what it said."""


def evaluate(expression: str, values: Values) -> Any:
    """An expression without its braces."""

    def python(found: re.Match[str]) -> str:
        word = found[0]
        if word[0] == "'" or word in {"or", "and", "not"}:
            return word
        return {"||": " or ", "&&": " and ", "!": " not "}.get(word) or f"value({word!r})"

    def value(path: str) -> Any:
        if path in {"true", "false"}:
            return path == "true"
        here: Any = values
        for part in path.split("."):
            here = here.get(part, "") if isinstance(here, Mapping) else ""
        return here

    functions = {
        "value": value,
        "fromJSON": json.loads,
        "format": lambda text, *words: text.format(*words),
        "hashFiles": lambda *_: "hash",
    }
    return eval(_NAME.sub(python, expression), {"__builtins__": {}}, functions)  # expressions of this repository


def filled(text: Any, values: Values) -> str:
    if not isinstance(text, str):
        return str(text).lower() if isinstance(text, bool) else str(text)
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: _shown(evaluate(found[1].strip(), values)), text, flags=re.DOTALL)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(kw_only=True)
class Runner:
    """`clone` makes the checkout of a job in a folder; `tools` is the folder of replaced programs, first on PATH."""

    root: Path
    clone: Callable[[Path], None]
    env: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        (self.root / "tools").mkdir(parents=True)
        for name in REPLACED:
            self.tool(name, "[ -t 0 ] || cat > /dev/null")  # whoever writes to it is not ended by SIGPIPE

    def tool(self, name: str, script: str) -> None:
        path = self.root / "tools" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def workflow(self, path: Path, **inputs: Any) -> dict[str, dict[str, str]]:
        """Every job whose `uses` is empty, in the order of the file. Returns the outputs by job."""
        flow = yaml.safe_load(path.read_text())
        needs: dict[str, Any] = {}
        declared = (flow[True].get("workflow_call") or {}).get("inputs", {}) if isinstance(flow[True], dict) else {}
        given = {name: one.get("default", "") for name, one in declared.items()} | inputs
        values = {**self.contexts, "inputs": given, "needs": needs}
        shared = {key: filled(text, values) for key, text in flow.get("env", {}).items()}
        for name, job in flow["jobs"].items():
            if "uses" in job:
                continue
            outputs: dict[str, str] = {}
            for entry in self._entries(job, values):
                outputs |= self._job(name, job, {**values, "matrix": entry}, shared)
            needs[name] = {"outputs": outputs, "result": "success"}
        return {name: one["outputs"] for name, one in needs.items()}

    def _entries(self, job: Values, values: Values) -> list[dict[str, Any]]:
        ((name, text),) = (job.get("strategy") or {}).get("matrix", {"": ""}).items()
        if name == "include":
            return list(text)
        found = evaluate(text.strip().removeprefix("${{").removesuffix("}}").strip(), values) if name else [{}]
        return [{name: one} for one in found]

    def _job(self, name: str, job: Values, values: Values, shared: Mapping[str, str]) -> dict[str, str]:
        folder = self.root / f"{next(self.numbers)}-{name}"
        (folder / "workspace").mkdir(parents=True)
        (folder / "temp").mkdir()
        env = dict(shared) | {key: filled(text, {**values, "env": shared}) for key, text in job.get("env", {}).items()}
        steps = self.steps(job["steps"], folder, {**values, "env": env}, env)
        return {key: filled(text, {**values, "steps": steps}) for key, text in job.get("outputs", {}).items()}

    def steps(self, steps: Any, folder: Path, values: Values, env: Mapping[str, str]) -> dict[str, Any]:
        done: dict[str, Any] = {}
        for step in steps:
            now = {**values, "steps": done}
            given = {key: filled(text, now) for key, text in step.get("with", {}).items()}
            mine = {**env, **{key: filled(text, now) for key, text in step.get("env", {}).items()}}
            outputs: dict[str, str] = {}
            if "run" in step:
                outputs = self._run(step["run"], folder, mine)
            elif step["uses"].startswith("./"):
                outputs = self._action(folder / "workspace" / step["uses"], folder, given, mine, now)
            else:
                self._known(step["uses"].partition("@")[0], given, folder)
            done[step.get("id", "")] = {"outputs": outputs}
        return done

    def _action(
        self, place: Path, folder: Path, given: Mapping[str, str], env: Mapping[str, str], values: Values
    ) -> dict[str, str]:
        action = yaml.safe_load((place / "action.yml").read_text())
        assert given.keys() <= action["inputs"].keys()
        inputs = {name: given.get(name, filled(one.get("default", ""), {})) for name, one in action["inputs"].items()}
        plain = [step for step in action["runs"]["steps"] if "if" not in step]  # the others are about caches
        here = {**env, "GITHUB_ACTION_PATH": str(place.resolve())}
        steps = self.steps(plain, folder, {**values, "inputs": inputs}, here)
        return {n: filled(one["value"], {**values, "steps": steps}) for n, one in action["outputs"].items()}

    def _run(self, script: str, folder: Path, env: Mapping[str, str]) -> dict[str, str]:
        noted = folder / "output"
        noted.write_text("")
        machine = {
            **{key: os.environ[key] for key in ("HOME", "LANG") if key in os.environ},
            "PATH": f"{self.root / 'tools'}:{os.environ['PATH']}",
            "GITHUB_OUTPUT": str(noted),
            "GITHUB_STEP_SUMMARY": str(self.root / "summary.md"),
            "RUNNER_TEMP": str(folder / "temp"),
            "GITHUB_ACTOR": "somebody",
        }
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script], cwd=folder / "workspace",
            env={**machine, **self.env, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=600,
        )  # fmt: skip
        self.log.append(script)
        if done.returncode:
            raise FailedError(f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return dict(line.split("=", 1) for line in noted.read_text().splitlines())

    def _known(self, action: str, given: Mapping[str, str], folder: Path) -> None:
        workspace, kept = folder / "workspace", self.root / "artifacts"
        match action:
            case "actions/checkout":
                self.clone(workspace / given.get("path", "."))
            case "actions/upload-artifact":
                self._upload(kept / given["name"], workspace, given["path"])
            case "actions/download-artifact":
                self._download(kept, workspace / given.get("path", "."), given)
            case _:
                assert action in {
                    "actions/cache/restore",
                    "actions/cache/save",
                    "actions/attest",
                    "sigstore/cosign-installer",
                }, action

    def _download(self, kept: Path, target: Path, given: Mapping[str, str]) -> None:
        """As download-artifact v8: a folder for each, unless one is named, they are merged, or one alone is found."""
        wanted = given.get("pattern") or given["name"]
        found = sorted(p for p in kept.iterdir() if fnmatch(p.name, wanted)) if kept.exists() else []
        assert found or "pattern" in given, wanted
        plain = "name" in given or given.get("merge-multiple") == "true" or len(found) == 1
        for place in found:
            shutil.copytree(place, target if plain else target / place.name, dirs_exist_ok=True)

    def _upload(self, target: Path, workspace: Path, path: str) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for found in workspace.glob(path):
            if found.is_dir():
                shutil.copytree(found, target, dirs_exist_ok=True)
            else:
                shutil.copy(found, target)
