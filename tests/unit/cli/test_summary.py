"""What is written for the page of a run: tables that nothing from an image can break out of."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.cli.answers.markdown import markdown
from buildctl.cli.answers.summary import add_summary, summary_wanted
from buildctl.console import log
from buildctl.oci.digest import Digest
from buildctl.testing.images import TestResult as Result
from buildctl.testing.report import Finding, Report, Status


def result_of(**findings: tuple[Status, str]) -> Result:
    found = tuple(Finding(name=n, status=s, detail=d) for n, (s, d) in findings.items())
    report = Report(
        cell="cpu-2.6-arm64", digest=Digest("a" * 64), arch="arm64", runtime="sandbox", emulated=None, gpus=False,
        findings=found,
    )  # fmt: skip
    return Result(reports=(report,))


def test_what_failed_comes_before_what_was_not_run_and_what_passed_is_counted() -> None:
    result = result_of(gpu=(Status.NOT_RUN, "none"), torch=(Status.PASSED, "2.6"), user=(Status.FAILED, "root"))
    assert list(markdown(result)) == [
        "### Tested\n",
        "| image |  | PASSED | FAILED | NOT RUN | where |",
        "|---|---|---|---|---|---|",
        "| cpu-2.6-arm64 | FAILED | 1 | 1 | 1 | sandbox |",
        "",
        "| image |  | finding | why |",
        "|---|---|---|---|",
        "| cpu-2.6-arm64 | FAILED | user | root |",
        "| cpu-2.6-arm64 | NOT RUN | gpu | none |",
    ]


@pytest.mark.parametrize(
    "detail",
    ["a | b", "one\ntwo\r\n\n# Passed", "<img src=x>", "</details>\u2028x", "[x](https://evil.example)", "`a`"],
)
def test_what_an_image_says_stays_text_in_its_cell(detail: str) -> None:
    *_, row = markdown(result_of(user=(Status.FAILED, detail)))
    assert len(row.splitlines()) == 1
    assert row.replace("\\|", "").count("|") == 5
    assert not any(mark in row.replace(r"\[", "").replace(r"\`", "") for mark in "<[`")


def test_without_the_variable_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert not summary_wanted()
    add_summary(result_of())


def test_a_page_is_appended_to_and_one_that_cannot_be_written_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "say", said.append)
    page = tmp_path / "page.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    add_summary(result_of(torch=(Status.FAILED, "caf\udce9")))  # a name that is not UTF-8
    assert page.read_text().startswith("before\n### Tested\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "page.md"))
    add_summary(result_of(torch=(Status.PASSED, "")))
    assert "GITHUB_STEP_SUMMARY cannot be written" in said[0]
