"""Who hears of findings as soon as they are known."""

from __future__ import annotations

from typing import Protocol

from buildctl.testing.report import Finding, Report


class Listener(Protocol):
    """Each report is told once: when its image or environment is begun, its findings, and the whole."""

    def began(self, name: str) -> None: ...

    def found(self, finding: Finding) -> None:
        """As soon as it is known. What is found out afterwards is only in the report."""

    def ended(self, report: Report) -> None: ...


class Nobody:
    """A `Listener` that says nothing."""

    def began(self, name: str) -> None:
        pass

    def found(self, finding: Finding) -> None:
        pass

    def ended(self, report: Report) -> None:
        pass


NOBODY = Nobody()
