"""What never ran, for how long, and what another machine found out: reports that are kept and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from buildctl.ground.errors import BuildctlError
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.testing.debt import debt_text, debts
from buildctl.testing.kept import bring, built_digest, keep
from buildctl.testing.merge import read_report
from buildctl.testing.overview import overview
from buildctl.testing.report import Finding, Report, Status
from tests.conftest import ROOT
from tests.support.projects import Small, small

P, F, N = Status.PASSED, Status.FAILED, Status.NOT_RUN
DAY = "2026-11-{:02}T12:00:00Z"
NOW = datetime(2026, 11, 20, 13, tzinfo=UTC)
CELL = "cpu-2.6-arm64"


@pytest.fixture
def project(tmp_path: Path) -> Small:
    found = small(tmp_path / "project")
    for cell in found.cells():
        found.project.report(cell).unlink()
    return found


def report(project: Small, statuses: Mapping[str, Status], *, digest: Digest | None = None) -> Report:
    found = tuple(Finding(name=name, status=status, detail=f"about {name}") for name, status in statuses.items())
    about = digest or project.layout.resolve(CELL).digest
    return Report(cell=CELL, digest=about, arch="arm64", runtime="r", emulated=None, gpus=False, findings=found)


def asked(project: Small, day: int, digest: Digest | None = None, **statuses: Status) -> Report:
    made = report(project, statuses, digest=digest)
    return keep(project.project, project.cell(CELL), made, at=DAY.format(day))


def kept(project: Small) -> Report:
    found = read_report(project.project.report(project.cell(CELL)))
    assert found is not None
    return found


def states(project: Small) -> dict[str, str]:
    cell = project.cell(CELL)
    found = debts(project.project, cell, built_digest(project.project, cell))
    return {debt.finding or "everything": debt.state(NOW) for debt in found}


def test_a_cell_without_a_report_never_ran(project: Small) -> None:
    assert states(project) == {"everything": "never ran"}


def test_a_finding_that_never_ran_counts_the_days_since_it_was_first_not_run(project: Small) -> None:
    for day in (8, 12, 19):
        asked(project, day, torch=P, gpu=N)
    assert states(project) == {"gpu": "never ran (NOT RUN for 12 days)"}


def test_what_ran_on_an_earlier_image_is_remembered_with_its_digest(project: Small) -> None:
    old = project.layout.resolve(CELL).digest
    asked(project, 1, torch=P, gpu=P)
    project.build(CELL)
    assert states(project) == {"everything": f"last ran 19 days ago, at sha256:{old.short}"}
    asked(project, 10, torch=P, gpu=N)
    project.build(CELL)
    asked(project, 15, torch=P, gpu=N)
    assert states(project) == {"gpu": f"last ran 19 days ago, at sha256:{old.short}"}
    (gpu,) = [f for f in kept(project).findings if f.name == "gpu"]
    assert (gpu.since, gpu.ran and gpu.ran.status) == (DAY.format(10), P)


def test_a_run_without_a_gpu_does_not_wipe_out_what_one_with_a_gpu_found_out(project: Small) -> None:
    asked(project, 1, torch=P, gpu=P)
    shown = asked(project, 2, torch=P, gpu=N)
    assert [f.status for f in shown.findings] == [P, N], "what is shown is what was asked now"
    assert [f.status for f in kept(project).findings] == [P, P]
    assert states(project) == {}


def test_a_failure_is_not_mended_by_not_asking_again_but_by_passing(project: Small) -> None:
    asked(project, 1, torch=P, gpu=F)
    asked(project, 2, torch=P, gpu=N)
    assert kept(project).verdict is F
    asked(project, 3, torch=P, gpu=P)
    assert kept(project).verdict is P


def test_a_report_in_which_nothing_ran_leaves_the_last_time(project: Small) -> None:
    old = project.layout.resolve(CELL).digest
    asked(project, 1, torch=P)
    project.build(CELL)
    asked(project, 19, torch=N)
    assert states(project) == {"everything": f"last ran 19 days ago, at sha256:{old.short}"}


def test_a_report_of_before_there_were_dates_still_says_what_ran(project: Small) -> None:
    project.report(CELL, gpu=P)
    old = project.layout.resolve(CELL).digest
    project.build(CELL)
    asked(project, 20, torch=P, gpu=N)
    assert states(project) == {"gpu": f"last ran at an unknown time, at sha256:{old.short}"}


def test_a_kept_file_that_is_no_report_is_replaced(project: Small) -> None:
    path = project.project.report(project.cell(CELL))
    path.write_text("{")
    assert states(project) == {"everything": "never ran"}
    asked(project, 20, torch=P)
    assert states(project) == {}


# what other machines bring


def brought(project: Small, made: Report, tmp_path: Path) -> list[str]:
    file = tmp_path / "brought.json"
    file.write_text(json.dumps(made.to_json()))
    return list(bring(project.project, [str(file)]))


def test_a_gpu_servers_report_on_the_same_digest_is_merged(project: Small, tmp_path: Path) -> None:
    asked(project, 2, torch=P, gpu=N, net=P)
    (line,) = brought(project, report(project, {"torch": P, "gpu": P, "net": F}), tmp_path)
    assert line.startswith(f"{CELL}  sha256:")
    assert {f.name: f.status for f in kept(project).findings} == {"torch": P, "gpu": P, "net": F}
    assert states(project) == {}


def test_a_report_on_another_digest_tells_when_it_last_ran(project: Small, tmp_path: Path) -> None:
    asked(project, 12, torch=P, gpu=N)
    other = replace(report(project, {"torch": F, "gpu": P}, digest=Digest("b" * 64)), made=DAY.format(5))
    (line,) = brought(project, other, tmp_path)
    assert "the kept report is about" in line
    assert kept(project).verdict is P
    assert states(project) == {"gpu": "last ran 15 days ago, at sha256:bbbbbbbbbbbb"}


def test_a_report_on_what_is_built_takes_the_place_of_one_on_what_was(project: Small, tmp_path: Path) -> None:
    asked(project, 1, digest=Digest("b" * 64), torch=P, gpu=P)
    brought(project, replace(report(project, {"torch": P, "gpu": N}), made=DAY.format(3)), tmp_path)
    assert states(project) == {"gpu": "last ran 19 days ago, at sha256:bbbbbbbbbbbb"}


def test_the_output_of_test_json_is_read_too_and_a_foreign_name_is_found_by_its_digest(
    project: Small, tmp_path: Path
) -> None:
    made = replace(report(project, {"torch": P}), cell="registry.example/x:y linux/arm64")
    file = tmp_path / "out.json"
    file.write_text(json.dumps({"reports": [made.to_json()]}))
    assert len(list(bring(project.project, [str(file)]))) == 1
    assert kept(project).digest == made.digest


def test_nothing_is_taken_in_when_one_is_about_nothing_here(project: Small, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(report(project, {"torch": P}).to_json()))
    bad.write_text(json.dumps(replace(report(project, {"a": P}, digest=Digest("c" * 64)), cell="x").to_json()))
    with pytest.raises(BuildctlError, match=r"is about x .*, which is not a cell"):
        list(bring(project.project, [str(good), str(bad)]))
    assert not project.project.report(project.cell(CELL)).exists()
    bad.write_text("[]")
    with pytest.raises(BuildctlError, match=r"bad\.json"):
        list(bring(project.project, [str(bad)]))
    with pytest.raises(BuildctlError, match="does not exist"):
        list(bring(project.project, [str(tmp_path / "nowhere.json")]))


# what `buildctl matrix` shows

NATIVE = "  mps: {native: macos, arch: [arm64], devices: {built: [mps]}}\n"
PUBLISH = 'publish: {allow-not-run: {"cpu-*": [torch.compile]}}\n'


def with_native(project: Small) -> Project:
    path = project.project.root / "matrix.yaml"
    path.write_text(path.read_text() + NATIVE + PUBLISH)
    return Project.find(project.project.root)


def test_matrix_shows_the_debt_and_json_all_of_it(project: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    reread = with_native(project)
    statuses = {"torch": P, "torch.compile": N, "torchrun": N}
    keep(reread, project.cell(CELL), report(project, statuses), at=DAY.format(8))
    view = replace(overview(reread, [], None), now=NOW)
    rows = [line.split("  ") for line in view.text().split("NOT RUN is not PASSED:\n")[1].split("\n\n")[0].splitlines()]
    shown = [[word.strip() for word in row if word] for row in rows]
    assert shown == [
        ["NOT RUN", "STATE", "CELLS"],
        ["everything", "never ran", "cuda-2.6-amd64, mps-2.6-arm64"],
        ["torchrun", "never ran (NOT RUN for 12 days)", CELL],
        ["torch.compile", "never ran (NOT RUN for 12 days); allowed", CELL],
    ]
    by_name = {(d["cell"], d["finding"]): d for d in view.to_json()["debt"]}
    assert by_name["mps-2.6-arm64", None]["lastRan"] is None
    assert by_name[CELL, "torchrun"] == {
        "cell": CELL, "finding": "torchrun", "lastRan": None, "notRunSince": DAY.format(8), "days": 12,
        "allowed": False, "reason": "about torchrun",
    }  # fmt: skip


def test_matrix_fits_into_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    view = overview(Project.find(ROOT, layout=ROOT / "no-layout"), [], None)
    assert max(map(len, view.text().splitlines())) <= 80


def test_no_debt_no_table() -> None:
    assert debt_text([], NOW) == ""


def test_a_policy_with_a_finding_that_is_not_there_is_an_error_of_matrix(project: Small) -> None:
    path = project.project.root / "matrix.yaml"
    path.write_text(path.read_text() + 'publish: {require: {"*": [torchrum]}}\n')
    with pytest.raises(BuildctlError, match="did you mean 'torchrun'"):
        overview(Project.find(project.project.root), [], None)
