"""Which runtimes are tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.runtimes.choose import AUTO, RUNTIMES, runtimes


def names(name: str) -> list[str]:
    return [runtime.name for runtime in runtimes(name)]


def test_a_runtime_that_is_named_is_the_only_one_whether_it_answers_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")
    assert {name: names(name) for name in RUNTIMES} == {"docker": ["docker"], "sandbox": ["sandbox"]}


def test_auto_leaves_out_what_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")
    assert names(AUTO) == ["sandbox"]


def test_a_docker_elsewhere_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    for name in (AUTO, "docker"):
        with pytest.raises(RuntimeUnavailableError):
            runtimes(name, context=f"unix://{tmp_path}/nobody")


def test_the_sandbox_is_here() -> None:
    with pytest.raises(RuntimeUnavailableError, match="only runs on this machine"):
        runtimes("sandbox", context="gpu-box")
