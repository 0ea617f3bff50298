"""matrix.yaml, read: every problem with its line, all of them at once."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from buildctl.ground.errors import MatrixError, did_you_mean
from buildctl.matrix import yamlfile
from buildctl.matrix.accelerator_keys import places, read_devices, read_kind
from buildctl.matrix.accelerators import KINDS
from buildctl.matrix.additions import Addition, added_to, check_additions
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import (
    Accelerator,
    Base,
    Cell,
    Combination,
    DebianBase,
    Exclusion,
    Flavour,
    ImageBase,
    Os,
    PackageRule,
)
from buildctl.matrix.defaults import fill
from buildctl.matrix.matrix import CacheSettings, Matrix
from buildctl.matrix.own_files import read_files, read_labels, read_wheels
from buildctl.matrix.policy import read_policy


@cache
def schema() -> dict[str, Any]:
    text = importlib.resources.files("buildctl.matrix").joinpath("schema.json").read_text("utf-8")
    value: dict[str, Any] = json.loads(text)
    return value


# The versions of Python in a base as far as they are known; None for a base that has not been locked yet.
PythonsOf = Callable[[Base], Collection[str] | None]


def load_matrix(path: Path, pythons_of: PythonsOf = lambda _: None) -> Matrix:
    """Read and check matrix.yaml. Raises ProblemsError with every problem, each with line and key path."""
    return _matrix(parse_document(_text(path), path), path, pythons_of)


def read_document(path: Path) -> yamlfile.YamlDocument:
    """matrix.yaml as `parse_document` has it. Raises as `load_matrix`."""
    return parse_document(_text(path), path)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise MatrixError(f"{path} does not exist", hint="run buildctl in the folder that holds matrix.yaml") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MatrixError(f"cannot read {path}: {error}") from error


def parse_matrix(text: str, path: Path, pythons_of: PythonsOf = lambda _: None) -> Matrix:
    """As `load_matrix`, from text; `path` names it in messages."""
    return _matrix(parse_document(text, path), path, pythons_of)


def parse_document(text: str, path: Path) -> yamlfile.YamlDocument:
    """What satisfies the schema, with its defaults filled in: those have no line. Raises ProblemsError."""
    document = yamlfile.parse(text, str(path))
    yamlfile.validate(document, schema())
    document.check()
    fill(document)
    return document


def _matrix(document: yamlfile.YamlDocument, path: Path, pythons_of: PythonsOf) -> Matrix:
    builder = _Builder(document, pythons_of)
    matrix = builder.matrix(path)
    document.check()
    return matrix


class _Builder:
    """From a document that satisfies the schema to values; records what a schema cannot express."""

    def __init__(self, document: yamlfile.YamlDocument, pythons_of: PythonsOf) -> None:
        self.document = document
        self.value: dict[str, Any] = document.value
        self.pythons_of = pythons_of
        said = self.value["python"]
        self.pythons: tuple[str, ...] = (said,) if isinstance(said, str) else tuple(said)

    def matrix(self, path: Path) -> Matrix:
        versions = tuple(self._versions())
        flavours = tuple(Flavour(flavour) for flavour in self.value["flavours"])
        bases = tuple(self._bases())
        accelerators = tuple(self._accelerators({base.name: base for base in bases}))
        rules = tuple(self._rules(self.value["packages"], ("packages",)))
        additions = tuple(self._additions())
        exclusions = tuple(self._exclusions([a.name for a in accelerators]))
        combinations = tuple(_combinations(versions, accelerators, self.pythons, exclusions))
        cells = tuple(_cells(combinations, accelerators, flavours, rules, additions, pythons_of=self.pythons_of))
        check_additions(self.document, additions, {cell.name: cell.accelerator for cell in cells})
        return Matrix(
            path=path,
            pythons=self.pythons,
            versions=versions,
            flavours=flavours,
            bases=bases,
            accelerators=accelerators,
            combinations=combinations,
            cells=cells,
            debian_mirror=self.value.get("mirror", {}).get("debian"),
            additions=additions,
            publish=read_policy(self.document, cells),
            cache=self._cache(),
            compression=self.value.get("compression", "zstd"),
        )

    def _cache(self) -> CacheSettings:
        value: Mapping[str, Sequence[str]] = self.value.get("cache", {})
        if value.get("from") and not value.get("keys"):
            self.document.problem(("cache",), "a cache needs `keys`, the public keys that may sign what is in it")
        return CacheSettings(
            read=tuple(value.get("from", ())), keys=tuple(value.get("keys", ())), refuse=tuple(value.get("refuse", ()))
        )

    def _versions(self) -> Iterator[tuple[str, Version]]:
        for key, text in self.value["versions"].items():
            version = Version(text)  # the schema's pattern is a subset of PEP 440
            if version.release[: key.count(".") + 1] != Version(key).release:
                self.document.problem(("versions", key), f"{text} is not a release of {key}")
            yield key, version

    def _bases(self) -> Iterator[Base]:
        for name, value in self.value["bases"].items():
            if "image" in value:
                yield ImageBase(
                    name=name,
                    image=value["image"],
                    devel=value.get("devel"),
                    layout=value.get("layout"),
                    mirrors=tuple(self.value.get("mirror", {}).get("images", {}).items()),
                )
            else:
                packages, devel = tuple(value["packages"]), tuple(value.get("devel", ()))
                yield DebianBase(name=name, suite=value["debian"], packages=packages, devel=devel)

    def _accelerators(self, bases: dict[str, Base]) -> Iterator[Accelerator]:
        for name, value in self.value["accelerators"].items():
            here: yamlfile.Path = ("accelerators", name)
            found = tuple(self._named_bases((*here, "base"), value.get("base", ()), bases))
            kind, claims = read_kind(self.document, name, value)
            built, never = read_devices(self.document, name, value, kind)
            yield Accelerator(
                name=name,
                os=Os(value.get("native", "linux")),
                arches=tuple(arch for arch in ARCHES if arch in value["arch"]),
                base=found[0] if found else None,
                bases=found,
                kind=kind,
                claims=claims,
                built=built,
                never=never,
                env=tuple(value.get("env", {}).items()),
                index=value.get("index"),
                places=places(self.document, name, value),
            )

    def _named_bases(
        self, path: yamlfile.Path, names: str | Sequence[str], bases: Mapping[str, Base]
    ) -> Iterator[Base]:
        for name in (names,) if isinstance(names, str) else names:
            if name in bases:
                yield bases[name]
            else:
                self.document.problem(path, f"no base {name!r}{did_you_mean(name, bases)}")

    def _additions(self) -> Iterator[Addition]:
        if everywhere := tuple(self.value.get("extras", ())):
            yield Addition(key="extras", pattern="*", extras=everywhere)
        for pattern, value in self.value.get("images", {}).items():
            here: yamlfile.Path = ("images", pattern)
            yield Addition(
                key=yamlfile.show(here),
                pattern=pattern,
                packages=tuple(self._rules(value.get("packages", ()), (*here, "packages"))),
                apt=tuple(value.get("apt", ())),
                extras=tuple(value.get("extras", ())),
                wheels=read_wheels(self.document, here, value),
                files=read_files(self.document, here, value),
                user=value.get("user"),
                env=tuple(value.get("env", {}).items()),
                labels=read_labels(self.document, here, value),
            )

    def _rules(self, values: Sequence[Any], path: yamlfile.Path) -> Iterator[PackageRule]:
        seen = {"torch"}
        for number, value in enumerate(values):
            here: yamlfile.Path = (*path, number)
            text = value if isinstance(value, str) else value["name"]
            try:
                requirement = Requirement(text)
            except InvalidRequirement as error:
                self.document.problem(here, f"{text!r} is not a requirement: {str(error).splitlines()[0]}")
                continue
            name = canonicalize_name(requirement.name)
            specifier, torch = str(requirement.specifier), SpecifierSet()
            if isinstance(value, dict):
                torch = self._specifiers((*here, "torch"), value.get("torch", ""))
                specifier = self._version((*here, "version"), value.get("version"))
            if name in seen and (name == "torch" or not torch):
                why = "torch comes from versions" if name == "torch" else f"{name} is listed twice"
                self.document.problem(here, why)
            if not torch:  # an entry for some versions of torch narrows another one
                seen.add(name)
            yield PackageRule(name=name, extras=tuple(sorted(requirement.extras)), specifier=specifier, torch=torch)

    def _version(self, path: yamlfile.Path, version: str | None) -> str:
        if version is None:
            return ""
        if version[0] in "<>=!~":
            return str(self._specifiers(path, version))
        try:
            if version != "{torch}":
                Version(version)
        except InvalidVersion:
            self.document.problem(path, f"{version!r} is not a version")
        return f"=={version}"

    def _specifiers(self, path: yamlfile.Path, text: str) -> SpecifierSet:
        try:
            return SpecifierSet(text)
        except InvalidSpecifier:
            self.document.problem(path, f'{text!r} is not a version range such as "<2.11"')
            return SpecifierSet()

    def _exclusions(self, known: Sequence[str]) -> Iterator[Exclusion]:
        for number, value in enumerate(self.value.get("exclude", ())):
            here: yamlfile.Path = ("exclude", number)
            accelerator, kind = value.get("accelerator"), value.get("kind")
            if accelerator is not None and kind is not None:
                self.document.problem(here, "give only one of the keys 'accelerator' and 'kind'")
            if accelerator is None and kind is None and "python" not in value:
                self.document.problem(here, "give one of the keys 'accelerator', 'kind' and 'python'")
            if accelerator is not None and accelerator not in known:
                near = did_you_mean(accelerator, known)
                self.document.problem((*here, "accelerator"), f"no accelerator {accelerator!r}{near}")
            yield Exclusion(
                accelerator=accelerator,
                kind=KINDS[kind] if kind is not None else None,
                os=Os(value["os"]) if "os" in value else None,
                arch=value.get("arch"),
                versions=self._specifiers((*here, "versions"), value.get("versions", "")),
                pythons=self._specifiers((*here, "python"), value.get("python", "")),
                reason=value["reason"],
                instead=value["instead"],
            )


def _combinations(
    versions: Sequence[tuple[str, Version]],
    accelerators: Sequence[Accelerator],
    pythons: Sequence[str],
    exclusions: Sequence[Exclusion],
) -> Iterator[Combination]:
    for accelerator, (key, torch), python, os, arch in product(accelerators, versions, pythons, Os, ARCHES):
        point = Combination(
            accelerator=accelerator.name,
            key=key,
            torch=torch,
            os=os,
            arch=arch,
            python=python,
            suffix="" if python == pythons[0] else f"-py{python.replace('.', '')}",
        )
        yield _judged(point, accelerator, exclusions)


def _judged(point: Combination, accelerator: Accelerator, exclusions: Sequence[Exclusion]) -> Combination:
    """Exclusions come first; what the accelerator does not list is impossible even without a stated reason."""
    for exclusion in exclusions:
        if exclusion.matches(point, accelerator):
            reason, instead = exclusion.reason, exclusion.instead.replace("{version}", f"{point.key}{point.suffix}")
            break
    else:
        if point.os is accelerator.os and point.arch in accelerator.arches:
            return point
        reason = f"{accelerator.name} is only offered {_offer(accelerator)}"
        instead = "what the matrix offers, or another entry under accelerators"
    return replace(point, reason=reason, instead=instead)


def _offer(accelerator: Accelerator) -> str:
    where = "in containers" if accelerator.os is Os.LINUX else "natively on macOS"
    return f"{where} on {' and '.join(accelerator.arches)}"


def _cells(
    combinations: Sequence[Combination],
    accelerators: Sequence[Accelerator],
    flavours: Sequence[Flavour],
    rules: Sequence[PackageRule],
    additions: Sequence[Addition],
    *,
    pythons_of: PythonsOf,
) -> Iterator[Cell]:
    by_name = {accelerator.name: accelerator for accelerator in accelerators}
    for combination in combinations:
        if not combination.exists:
            continue
        accelerator = _standing(by_name[combination.accelerator], combination.python, pythons_of)
        companions = [rule.requirement(combination.torch) for rule in rules]
        added = added_to(combination.name, combination.torch, accelerator, additions)
        requirements = (f"torch=={combination.torch}", *(r for r in companions if r is not None), *added.requirements)
        for flavour in _offered(accelerator, flavours):
            yield Cell(
                name=combination.name,
                flavour=flavour,
                arch=combination.arch,
                accelerator=accelerator,
                key=combination.key,
                torch=combination.torch,
                python=combination.python,
                requirements=tuple(dict.fromkeys(requirements)),
                apt=added.apt,
                extras=added.extras,
                wheels=added.wheels,
                files=added.files,
                user=added.user,
                env=added.env,
                labels=added.labels,
            )


def _standing(accelerator: Accelerator, python: str, pythons_of: PythonsOf) -> Accelerator:
    """On the first of its bases that has that Python, else on the first that may have it.

    Where no base can have it, on the first: it is refused with what the bases have once they are locked.
    """
    known = [(base, pythons_of(base)) for base in accelerator.bases]
    fitting = [base for base, pythons in known if pythons is not None and python in pythons]
    open_ = [base for base, pythons in known if pythons is None]
    return replace(accelerator, base=next(iter((*fitting, *open_)), accelerator.base))


def _offered(accelerator: Accelerator, flavours: Sequence[Flavour]) -> tuple[Flavour, ...]:
    match accelerator.base:
        case None:
            return (Flavour.RUNTIME,)
        case ImageBase(devel=None):
            return tuple(flavour for flavour in flavours if flavour is not Flavour.DEVEL)
        case _:
            return tuple(flavours)
