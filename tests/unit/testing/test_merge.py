from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.ground.errors import BuildctlError
from buildctl.oci.digest import Digest
from buildctl.testing.merge import completed, joined, merged, parse_report, read_report, report_bytes
from buildctl.testing.report import Finding, Report, Status, following

IMAGE, OTHER = Digest("a" * 64), Digest("b" * 64)
PASSED, FAILED, NOT_RUN = Status.PASSED, Status.FAILED, Status.NOT_RUN


def report(digest: Digest = IMAGE, *, gpus: bool = False, made: str = "", **findings: Status) -> Report:
    found = tuple(Finding(name=n, status=s, detail="d", seconds=1.5) for n, s in findings.items())
    return Report(
        cell="c", digest=digest, arch="amd64", runtime="r", emulated=None, gpus=gpus, findings=found, made=made
    )


def statuses(found: Report | None) -> dict[str, Status]:
    assert found is not None
    return {finding.name: finding.status for finding in found.findings}


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (PASSED, FAILED, FAILED),
        (PASSED, NOT_RUN, PASSED),
        (FAILED, NOT_RUN, FAILED),
        (NOT_RUN, NOT_RUN, NOT_RUN),
    ],
)
def test_the_worst_that_was_seen_counts_and_not_run_the_least(one: Status, other: Status, both: Status) -> None:
    for pair in ((one, other), (other, one)):
        assert statuses(merged([report(a=status) for status in pair])) == {"a": both}


def test_findings_of_one_machine_alone_are_kept_and_a_gpu_counts() -> None:
    found = merged([report(a=PASSED, made="2026-01-01"), report(b=PASSED, gpus=True, made="2026-01-02")])
    assert statuses(found) == {"a": PASSED, "b": PASSED}
    assert found is not None
    assert (found.gpus, found.made) == (True, "2026-01-02")
    assert merged([]) is None


def test_what_did_not_run_keeps_its_earlier_answer_of_the_same_image_only() -> None:
    now = report(a=PASSED, gpu=NOT_RUN)
    assert statuses(completed(now, report(a=FAILED, gpu=PASSED, gpus=True))) == {"a": PASSED, "gpu": PASSED}
    assert completed(now, report(gpu=PASSED, gpus=True)).gpus
    assert completed(now, report(OTHER, gpu=PASSED)) == now
    assert completed(now, None) == now


def test_of_two_images_the_report_of_what_is_built_stays() -> None:
    kept, brought = report(IMAGE, a=PASSED, made="2026-01-01"), report(OTHER, a=FAILED, made="2026-01-02")
    assert joined(None, brought, IMAGE) == brought
    assert joined(kept, brought, IMAGE).digest == IMAGE
    assert joined(kept, brought, OTHER).digest == OTHER
    assert joined(kept, brought, None).digest == OTHER, "the newer one, where neither is built"
    assert statuses(joined(kept, report(IMAGE, a=FAILED), IMAGE)) == {"a": FAILED}


def test_no_file_is_no_report_and_a_bad_one_is_an_error(tmp_path: Path) -> None:
    assert read_report(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BuildctlError, match=r"bad\.json is not a report"):
        read_report(tmp_path / "bad.json")


def test_reports_about_different_images_are_not_merged() -> None:
    with pytest.raises(BuildctlError, match="different images"):
        merged([report(), report(OTHER)])


def test_times_do_not_change_the_attached_report() -> None:
    one = report(a=Status.PASSED)
    slow = replace(one, findings=(replace(one.findings[0], seconds=99.0),))
    dated = following(slow, None, "2026-11-22T10:00:00Z")
    assert report_bytes(one) == report_bytes(slow) == report_bytes(dated)
    assert parse_report(report_bytes(one), "x").findings[0].status is Status.PASSED


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"schema": 99}'])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(BuildctlError, match="somewhere"):
        parse_report(data, "somewhere")
