"""What a digest must have passed before a moving tag may point at it."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from buildctl.oci.digest import Digest
from buildctl.testing.report import Report, Status


def objection(
    report: Report | None, digest: Digest, allow_not_run: AbstractSet[str], require: AbstractSet[str] = frozenset()
) -> str | None:
    """Why that digest does not pass, None if it does. NOT RUN counts as passed only if allowed by name, and
    never if required.
    """
    if report is None:
        return "not tested: run `buildctl test`"
    if report.digest != digest:
        return f"the report is about sha256:{report.digest.short}, not sha256:{digest.short}: run `buildctl test` again"
    failed = [f.name for f in report.findings if f.status is Status.FAILED]
    if failed:
        return f"FAILED: {', '.join(failed)}"
    if report.verdict is not Status.PASSED:
        return "every finding is NOT RUN" if report.findings else "no finding applies to it"
    answered = {f.name for f in report.findings if f.status is not Status.NOT_RUN}
    missing = [name for name in not_run(report) if name not in allow_not_run | require]
    wrong = {"required and NOT RUN": sorted(require - answered), "NOT RUN without permission": missing}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong.items() if names) or None


def not_run(report: Report | None) -> tuple[str, ...]:
    return tuple(f.name for f in report.findings if f.status is Status.NOT_RUN) if report else ()
