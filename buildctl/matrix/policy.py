"""`publish` of matrix.yaml: which findings may be NOT RUN, and which must have run, before a tag moves."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from buildctl.ground.errors import ProblemsError, did_you_mean
from buildctl.matrix.cells import Cell, Flavour
from buildctl.matrix.yamlfile import Path, YamlDocument, show

KEYS = ("allow-not-run", "require")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One finding for the images of one glob; `where` names line and key path for messages."""

    glob: str
    finding: str
    where: str

    def covers(self, cell: Cell) -> bool:
        return any(fnmatch.fnmatchcase(name, self.glob) for name in (cell.image, cell.id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A required finding may not be NOT RUN, whatever `allow` lists."""

    allow: tuple[Rule, ...] = ()
    require: tuple[Rule, ...] = ()

    def allowed(self, cell: Cell) -> frozenset[str]:
        return frozenset(r.finding for r in self.allow if r.covers(cell)) - self.required(cell)

    def required(self, cell: Cell) -> frozenset[str]:
        return frozenset(r.finding for r in self.require if r.covers(cell))

    def check(self, known: Collection[str], source: str) -> None:
        """Raises ProblemsError for unknown finding names."""
        problems = [
            f"{rule.where}: no finding {rule.finding!r}{did_you_mean(rule.finding, known)}"
            for rule in (*self.allow, *self.require)
            if rule.finding not in known
        ]
        if problems:
            raise ProblemsError(source, problems)


def read_policy(document: YamlDocument, cells: Iterable[Cell]) -> Policy:
    """From a document that satisfies the schema; records globs that match no image. Names of findings: see `check`.

    A flavour that the matrix omits still counts: a rule about it has no effect, and is not a mistake.
    """
    value: Mapping[str, Any] = document.value.get("publish", {})
    flavours = [replace(cell, flavour=flavour) for cell in cells for flavour in Flavour]
    names = {name for cell in flavours for name in (cell.image, cell.id)}
    allow, require = (tuple(_rules(document, key, value.get(key, {}), sorted(names))) for key in KEYS)
    return Policy(allow=allow, require=require)


def _rules(
    document: YamlDocument, key: str, value: Mapping[str, Sequence[str]], names: Sequence[str]
) -> Iterator[Rule]:
    for glob, findings in value.items():
        here: Path = ("publish", key, glob)
        if not fnmatch.filter(names, glob):
            document.problem(here, f"no image matches {glob!r}{did_you_mean(glob, names)}")
        for number, finding in enumerate(findings):
            path = (*here, number)
            yield Rule(glob=glob, finding=finding, where=f"line {document.lines[path]}: {show(path)}")
