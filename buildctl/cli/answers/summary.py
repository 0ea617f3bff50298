"""The summary that GitHub shows for a run: text appended to the file $GITHUB_STEP_SUMMARY."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildctl.build.engine import BuildResult
    from buildctl.publish.result import Published
    from buildctl.testing.images import TestResult

_VARIABLE = "GITHUB_STEP_SUMMARY"


def summary_wanted() -> bool:
    return bool(os.environ.get(_VARIABLE))


def add_summary(found: BuildResult | TestResult | Published) -> None:
    """Append the summary, if there is such a file. A file that cannot be written fails nothing."""
    if not (path := os.environ.get(_VARIABLE)):
        return
    from buildctl.cli.answers.markdown import markdown
    from buildctl.console.log import say

    try:
        with Path(path).open("a", encoding="utf-8", errors="replace") as file:
            file.write("\n".join(markdown(found)) + "\n\n")
    except OSError as error:
        say(f"no summary: ${_VARIABLE} cannot be written ({error})")
