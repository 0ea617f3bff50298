"""The verdicts of `check` as a table: complete, small, and told by `decide` itself (compared with it in Chromium)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from buildctl.host.catalogue import Subject, catalogue
from buildctl.host.verdict import VerdictKind
from buildctl.publish.page import verdicts
from buildctl.publish.page.verdicts import VerdictTable, verdict_table
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    there = catalogue(ROOT, tmp_path_factory.mktemp("none") / "dist")
    return [s for s in there if s.name in {"cuda-2.15", "mps-2.15"}]


@pytest.fixture(scope="module")
def table(subjects: list[Subject]) -> VerdictTable:
    return verdict_table(subjects)


def test_every_branch_leads_to_a_verdict(table: VerdictTable) -> None:
    kinds = {str(kind) for kind in VerdictKind}
    for node in table.nodes:
        if len(node) == 2:
            fact, branches = node
            assert branches.keys() == table.facts[fact].classes.keys()
            assert all(0 <= number < len(table.nodes) for number in branches.values())
        else:
            assert node[0] in kinds


def test_no_text_has_a_value_that_was_only_tried(table: VerdictTable) -> None:
    texts = " ".join(text for node in table.nodes if len(node) == 3 for text in node[1:])
    assert "77777" not in texts
    assert "⟦gpu " not in texts
    for word in ("driver", "covered", "uncovered", "macos", "kernel", "toolkit"):
        assert f"⟦{word}⟧" in texts


def test_machines_that_count_as_alike_have_the_same_answers(
    table: VerdictTable, subjects: list[Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts._Exploration, "_alike", lambda _, gpus: gpus)
    assert json.dumps(verdict_table(subjects).to_json()) == json.dumps(table.to_json())


def test_gpus_passed_as_device_files_are_left_to_the_command(subjects: list[Subject]) -> None:
    """Which files there are has no classes."""
    claims = replace(subjects[0].claims[0], versions={"rocm": "6.2"}, facts=None)
    found = verdict_table([Subject(name="rocm-2.6", claims=(claims,), built=True)])
    assert None in found.nodes


def test_without_images_there_is_nothing_to_tell() -> None:
    assert verdict_table([]).to_json()["nodes"] == []
