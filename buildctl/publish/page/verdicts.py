"""What `buildctl check` answers on any machine, as a table that a page can look up.

The answers are not written a second time: `decide` itself runs on a host that has no facts. Whenever it asks for one,
the run ends and is repeated with each value that could make a difference. What it asks, and where the answers lead, is
the table: a graph whose nodes are facts and whose leaves are verdicts, with ⟦driver⟧ where the host's own words belong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from packaging.version import Version

from buildctl.host.catalogue import Subject
from buildctl.host.facts import DRIVER, SCHEMA, WRITTEN, ContainerEngine, Gpu, Host
from buildctl.host.verdict import JETPACK7_KERNEL, MPS_MACOS, Verdict, capability_word, covers, decide
from buildctl.lock.claims import Claims
from buildctl.matrix.arch import ARCHES

_MARK = "⟦{}⟧"
_BEYOND = ".77777"  # makes a version that is just above a bound, and that no text contains by chance
_NAMES = re.compile(r"⟦gpu (\d+)⟧ \([^)]*\)(?:, ⟦gpu (\d+)⟧ \([^)]*\))*")
_TOGETHER = 2  # how many GPUs that differ in what runs on them the table knows of in one machine
_MAJORS, _MINORS = range(1, 21), range(10)

Facts = Mapping[str, str]  # the class of each fact that is known, by the fact's name
Classes = Mapping[str, tuple[str, ...]]  # capabilities by class


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something of a host: its `classes` with a value for each. A page finds the class by `how`, a rule as data."""

    classes: Mapping[str, Any]
    how: Mapping[str, Any]


class _AskedError(Exception):
    """`decide` needs a fact that is not known yet."""


class _UntoldError(Exception):
    """`decide` needs what has no classes: which device files there are."""


class _Asking(Host):
    """A host that answers what is known of it, and ends the run at anything else."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"tegra", "virtual_engine"} or name.startswith("__"):
            return object.__getattribute__(self, name)
        return _answer(name)


class _AskingEngine(ContainerEngine):
    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name) if name.startswith("__") else _answer(f"engine.{name}")


_facts: Mapping[str, Fact] = {}
_known: Facts = {}


def _answer(name: str) -> Any:
    if name == "nodes":
        raise _UntoldError
    if name == "engine.name":  # what `engine` tells
        return _facts["engine"].classes[_known["engine"]]
    if name not in _known:
        raise _AskedError(name)
    value = _facts[name].classes[_known[name]]
    return object.__new__(_AskingEngine) if name == "engine" and value is not None else value


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictTable:
    """`nodes` are [fact, {class: node}] or [verdict, reason, next step]; None where only `buildctl check` can tell."""

    facts: Mapping[str, Fact]
    nodes: tuple[Any, ...]
    roots: Mapping[str, int]
    covered: Mapping[str, Mapping[str, frozenset[str]]]
    capabilities: Mapping[str, tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "systems": ["linux", "macos", "windows"],
            "facts": {name: dict(fact.how) for name, fact in self.facts.items()},
            "nodes": list(self.nodes),
            "roots": dict(self.roots),
            "covered": {name: {arch: sorted(c) for arch, c in each.items()} for name, each in self.covered.items()},
            "capabilities": {text: list(found) for text, found in self.capabilities.items()},
        }


def verdict_table(subjects: Sequence[Subject]) -> VerdictTable:
    """Of each subject, with the others as what may be proposed instead."""
    classes = _capability_classes(subjects)
    facts = _facts_of(subjects, classes)
    nodes: dict[Any, int] = {}
    covered = {s.name: {c.arch: _covered(c, classes) for c in s.claims} for s in subjects}
    roots = {}
    for subject in subjects:
        same = [covered[o.name][c.arch] for o in subjects for c in o.claims if c.kind == subject.claims[0].kind]
        roots[subject.name] = _Exploration(subject, subjects, facts, covered[subject.name], tuple(same), nodes).explore(
            {}
        )
    return VerdictTable(
        facts=facts,
        nodes=tuple(_plain(node) for node in nodes),
        roots=roots,
        covered=covered,
        capabilities={
            text: (name, capability_word(Gpu(name="", capability=text or None)))
            for name, texts in classes.items()
            for text in texts
        },
    )


@dataclass(frozen=True, slots=True)
class _Exploration:
    subject: Subject
    others: Sequence[Subject]
    facts: Mapping[str, Fact]
    covered: Mapping[str, frozenset[str]]
    kin: tuple[frozenset[str], ...]
    nodes: dict[Any, int]

    def explore(self, known: Facts) -> int:
        """The number of the node for what is known. Equal nodes are one, so the tree becomes a small graph."""
        try:
            return self._node(self._leaf(known))
        except _AskedError as asked:
            fact = str(asked)
        alike = {name: self._alike(name) if fact == "gpus" else name for name in self.facts[fact].classes}
        explored = {one: self.explore({**known, fact: name}) for one, name in {v: k for k, v in alike.items()}.items()}
        branches = {name: explored[one] for name, one in alike.items()}
        if len(set(branches.values())) == 1 and fact != "gpus":  # of a machine with stranger GPUs nothing is known
            return next(iter(branches.values()))
        return self._node((fact, tuple(branches.items())))

    def _alike(self, gpus: str) -> Any:
        """Equal for machines with GPUs that no image of this kind tells apart: whether one of them, and whether all
        have code there. A fourth of the runs, and the same table (a test compares).
        """
        there = set(gpus.split(",")) - {""}
        return bool(there), *((bool(there & covered), there <= covered) for covered in self.kin)

    def _node(self, node: Any) -> int:
        return self.nodes.setdefault(node, len(self.nodes))

    def _leaf(self, known: Facts) -> Any:
        global _facts, _known  # a host of frozen slots has no room for them
        _facts, _known = self.facts, known
        try:
            verdict = decide(self.subject, object.__new__(_Asking), self.others)
        except _UntoldError:
            return None
        return self._template(verdict, known)

    def _template(self, verdict: Verdict, known: Facts) -> tuple[str, str, str]:
        def text(filled: str) -> str:
            for name in ("driver", "macos", "kernel", "toolkit"):
                value = self.facts[name].classes.get(known.get(name, ""))
                filled = filled.replace(str(value), _MARK.format(name)) if value else filled
            return _NAMES.sub(lambda found: self._names(found[0], known), filled)

        return str(verdict.kind), text(verdict.reason), text(verdict.next_step)

    def _names(self, text: str, known: Facts) -> str:
        """Which of the host's GPUs a text lists: those this torch has code for, or those it has none for."""
        listed = set(re.findall(r"⟦gpu (\d+)⟧", text))
        arch = known.get("engine.arch", known.get("arch", ""))
        covered = self.covered.get(arch, frozenset())
        there = set(known["gpus"].split(","))
        which = {"covered": there & covered, "uncovered": there - covered}
        return _MARK.format(next(name for name, members in which.items() if members == listed))


def _covered(claims: Claims, classes: Classes) -> frozenset[str]:
    return frozenset(name for name, texts in classes.items() if covers(claims, _gpu(texts[0])))


def _gpu(capability: str, name: str = "") -> Gpu:
    return Gpu(name=name, capability=capability or None)


def _capability_classes(subjects: Iterable[Subject]) -> Classes:
    """Compute capabilities for which every image gives the same answer; "" is one that the driver does not tell."""
    claims = [c for subject in subjects for c in subject.claims]
    grouped: dict[tuple[bool, ...], list[str]] = {}
    for text in [f"{major}.{minor}" for major in _MAJORS for minor in _MINORS]:
        grouped.setdefault(tuple(covers(c, _gpu(text)) for c in claims), []).append(text)
    return {str(number): tuple(texts) for number, texts in enumerate([[""], *grouped.values()])}


def _facts_of(subjects: Iterable[Subject], classes: Classes) -> dict[str, Fact]:
    claims = [c for subject in subjects for c in subject.claims]
    floors = {c.driver_floor for c in claims if c.driver_floor}
    systems = {c.macos for c in claims if c.macos} | {str(MPS_MACOS), "11.0"}
    words = [("arch", tuple(ARCHES)), ("engine.arch", tuple(ARCHES)), ("system", ("linux", "macos", "windows"))]
    flags = ("wsl", "virtual", "engine.desktop", "engine.gpus", "engine.cdi")
    texts = ("translated", "chip", "gpu_problem", "engine_problem")
    return {
        **{name: _word(name, known) for name, known in words},
        **{name: Fact(classes={"": False, "1": True}, how={**_path(name), "by": "flag"}) for name in flags},
        **{name: _text(name) for name in texts},
        "engine": Fact(
            classes={"": None, "podman": "podman", "*": _MARK.format("engine")},
            how={"path": [["engine"], ["name"]], "by": "word", "words": ["podman"]},
        ),
        "driver": _version("driver", floors, clean=DRIVER.pattern),
        "macos": _version("macos", systems),
        "kernel": _version("kernel", {str(JETPACK7_KERNEL)}, suffix="-tegra", other="6.1"),
        "toolkit": Fact(
            classes={"": None, "CDI": "CDI " + _MARK.format("toolkit"), "*": _MARK.format("toolkit")},
            how={**_path("toolkit"), "by": "prefix", "words": ["CDI"]},
        ),
        "emulates": Fact(
            classes={" ".join(some): some for n in range(len(ARCHES) + 1) for some in combinations(ARCHES, n)},
            how={**_path("emulates"), "by": "set", "words": list(ARCHES)},
        ),
        "gpus": Fact(classes=_gpus(classes), how={**_path("gpus"), "by": "gpus"}),
    }


def _gpus(classes: Classes) -> dict[str, tuple[Gpu, ...]]:
    """Machines with GPUs of up to so many classes, one of each."""
    some = [c for n in range(_TOGETHER + 1) for c in combinations(classes, n)]
    return {",".join(names): tuple(_gpu(classes[n][0], _MARK.format(f"gpu {n}")) for n in names) for names in some}


def _path(name: str) -> dict[str, Any]:
    """Where a file of facts has it: the names of each step, the one that is written now first."""
    return {"path": [[WRITTEN[step], step] if step in WRITTEN else [step] for step in name.split(".")]}


def _word(name: str, known: tuple[str, ...]) -> Fact:
    other: dict[str, str] = {} if name == "system" else {"*": _MARK.format(name)}
    how = {**_path(name), "by": "word", "words": list(known)}
    return Fact(classes={word: word for word in known} | other, how=how)


def _text(name: str) -> Fact:
    """Only whether it is there, which for problems is whether they are empty."""
    empty = "" if name.endswith("problem") else None
    return Fact(classes={"": empty, "*": _MARK.format(name)}, how={**_path(name), "by": "word", "words": []})


def _version(name: str, bounds: Iterable[str], **more: str) -> Fact:
    """The class of a version is how many bounds it reaches; "" if it is unknown, or lacks the suffix."""
    ordered = sorted(bounds, key=Version)
    suffix = more.get("suffix", "")
    values = [f"{text}{_BEYOND}{suffix}" for text in ("1", *ordered)]
    how: dict[str, Any] = {**_path(name), "by": "version", "bounds": ordered, **more}
    return Fact(classes={"": more.get("other")} | {str(n): value for n, value in enumerate(values)}, how=how)


def _plain(node: Any) -> Any:
    match node:
        case (str() as fact, tuple() as branches):
            return [fact, dict(branches)]
        case None:
            return None
        case _:
            return list(node)
