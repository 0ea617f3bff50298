"""`publish` of matrix.yaml: which findings may be NOT RUN, which must have run, and how large an image may be, before a
tag moves.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from buildctl.ground.errors import ProblemsError, did_you_mean
from buildctl.matrix.cells import Cell, Flavour
from buildctl.matrix.yamlfile import Path, YamlDocument, show

KEYS = ("allow-not-run", "require")
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Covering:
    """What holds for the images of one glob; `where` names line and key path for messages."""

    glob: str
    where: str

    def covers(self, cell: Cell) -> bool:
        return any(fnmatch.fnmatchcase(name, self.glob) for name in (cell.image, cell.id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Covering):
    finding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit(Covering):
    """How large an image may be, in bytes of its layers as they are pulled."""

    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A required finding may not be NOT RUN, whatever `allow` lists."""

    allow: tuple[Rule, ...] = ()
    require: tuple[Rule, ...] = ()
    sizes: tuple[Limit, ...] = ()

    def allowed(self, cell: Cell) -> frozenset[str]:
        return frozenset(r.finding for r in self.allow if r.covers(cell)) - self.required(cell)

    def required(self, cell: Cell) -> frozenset[str]:
        return frozenset(r.finding for r in self.require if r.covers(cell))

    def limit(self, cell: Cell) -> Limit | None:
        """The smallest of those that cover it."""
        return min((one for one in self.sizes if one.covers(cell)), key=lambda one: one.most, default=None)

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
    return Policy(
        allow=allow, require=require, sizes=tuple(_limits(document, value.get("max-size", {}), sorted(names)))
    )


def _rules(
    document: YamlDocument, key: str, value: Mapping[str, Sequence[str]], names: Sequence[str]
) -> Iterator[Rule]:
    for glob, findings in value.items():
        here = _matching(document, key, glob, names)
        for number, finding in enumerate(findings):
            yield Rule(glob=glob, finding=finding, where=_where(document, (*here, number)))


def _limits(document: YamlDocument, value: Mapping[str, str], names: Sequence[str]) -> Iterator[Limit]:
    for glob, text in value.items():
        here = _matching(document, "max-size", glob, names)
        number, unit = re.fullmatch(r"([0-9.]+) ?([kMG]B)", text).groups()  # type: ignore[union-attr]  # by the schema
        yield Limit(glob=glob, most=round(float(number) * _UNITS[unit]), where=_where(document, here))


def _matching(document: YamlDocument, key: str, glob: str, names: Sequence[str]) -> Path:
    here: Path = ("publish", key, glob)
    if not fnmatch.filter(names, glob):
        document.problem(here, f"no image matches {glob!r}{did_you_mean(glob, names)}")
    return here


def _where(document: YamlDocument, path: Path) -> str:
    return f"line {document.lines[path]}: {show(path)}"
