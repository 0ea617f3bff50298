"""The names of findings, for options and matrix.yaml that name some."""

from __future__ import annotations

from buildctl.testing.merge import LABELS


def known_findings() -> tuple[str, ...]:
    """The names of all findings that a report on a cell can have, from the probes themselves."""
    from buildctl.testing.probes import checks, native_checks  # noqa: PLC0415 - only where findings are named
    from buildctl.testing.probes.commands import COMMANDS  # noqa: PLC0415

    asked = (*checks.CHECKS, *native_checks.CHECKS)
    return (*dict.fromkeys(check.name for check in asked), *(name for name, _ in COMMANDS), LABELS)
