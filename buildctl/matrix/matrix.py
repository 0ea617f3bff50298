"""matrix.yaml: what is built, what cannot exist and why. Parsed once, everything beyond is values."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import Version

from buildctl.ground.errors import ImpossibleError, MatrixError, UnknownNameError, did_you_mean
from buildctl.matrix.additions import Addition
from buildctl.matrix.arch import ARCHES, arch_named
from buildctl.matrix.cells import (
    Accelerator,
    Base,
    Cell,
    Combination,
    Flavour,
    Os,
)
from buildctl.matrix.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """`cache` of matrix.yaml: repositories to `read`, files of public `keys` in the project, keys and digests to
    `refuse`.
    """

    read: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    refuse: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """`cells` are all that exist, in the order of the file; `combinations` is the whole product, with reasons.

    The first of `pythons` is the default, which no name mentions.
    """

    path: Path
    pythons: tuple[str, ...]
    versions: tuple[tuple[str, Version], ...]
    flavours: tuple[Flavour, ...]
    bases: tuple[Base, ...]
    accelerators: tuple[Accelerator, ...]
    combinations: tuple[Combination, ...]
    cells: tuple[Cell, ...]
    debian_mirror: str | None
    additions: tuple[Addition, ...] = ()
    publish: Policy = field(default_factory=Policy)
    cache: CacheSettings = field(default_factory=CacheSettings)
    compression: str = "zstd"

    @property
    def images(self) -> tuple[str, ...]:
        """Names of all images, each once; without native environments."""
        return tuple(dict.fromkeys(cell.image for cell in self.cells if not cell.native))

    def select(self, names: Iterable[str] = (), arch: str | None = None) -> tuple[Cell, ...]:
        """The cells of these image names (globs allowed; none stands for all), on one architecture or on every one.

        Raises MatrixError for an unknown name (with a suggestion) and for what cannot exist (with the reason
        and what to use instead).
        """
        arch = None if arch is None else parse_arch(arch)
        wanted: set[str] = set()
        for name in tuple(names) or ("*",):
            wanted.update(cell.id for cell in self._named(name, arch))
        return tuple(cell for cell in self.cells if cell.id in wanted)

    def explain(self, accelerator: str, key: str, *, os: Os, arch: str, suffix: str = "") -> Combination:
        """Whether that combination exists, else why not. Raises MatrixError for names that are in no combination."""
        arch = parse_arch(arch)
        wanted = (f"{accelerator}-{key}{suffix}", os, arch)
        for combination in self.combinations:
            if (combination.name, combination.os, combination.arch) == wanted:
                return combination
        raise self._unknown(wanted[0])

    def images_of(self, names: Iterable[str] = (), arch: str | None = None) -> tuple[Cell, ...]:
        """As `select`, for images: naming a native environment is an error, a glob skips it."""
        names = tuple(names)
        for cell in self.cells:
            if cell.native and cell.image in names:
                answer = self.explain(cell.accelerator.name, cell.key, os=Os.LINUX, arch=cell.arch, suffix=cell.suffix)
                raise _impossible([answer])
        return tuple(cell for cell in self.select(names, arch) if not cell.native)

    def _named(self, name: str, arch: str | None) -> list[Cell]:
        here = [cell for cell in self.cells if arch in {None, cell.arch}]
        glob = any(mark in name for mark in "*?[")
        found = [cell for cell in here if (fnmatch.fnmatchcase(cell.image, name) if glob else cell.image == name)]
        if found:
            return found
        if glob:
            on = f" on {arch}" if arch else ""
            raise UnknownNameError(f"no image matches {name!r}{on}", hint=f"names: {', '.join(self._names())}")
        why = [c for c in self.combinations if name in self._images(c) and arch in {None, c.arch} and not c.exists]
        ours = [c for c in why if c.os is self._os(c.accelerator)]
        for cell in here:
            if name in {f"{cell.name}-{flavour}" for flavour in Flavour}:
                raise UnknownNameError(
                    f"{cell.name} has no {name.removeprefix(f'{cell.name}-')} flavour", hint=f"use {cell.name}"
                )
        raise _impossible(ours or why) if why else self._unknown(name)

    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.image for cell in self.cells))

    def _os(self, accelerator: str) -> Os:
        return next(a.os for a in self.accelerators if a.name == accelerator)

    def _images(self, combination: Combination) -> set[str]:
        suffixes = {"" if flavour is Flavour.RUNTIME else f"-{flavour}" for flavour in self.flavours}
        return {combination.name + suffix for suffix in suffixes}

    def _unknown(self, name: str) -> MatrixError:
        keys = [key for key, _ in self.versions]
        for accelerator in sorted(self.accelerators, key=lambda a: len(a.name), reverse=True):
            rest = name.removeprefix(f"{accelerator.name}-")
            if rest != name and rest[:1].isdigit():
                version, _, more = rest.partition("-")
                if version in keys:
                    if match := re.match(r"py3(\d+)(?![^-])", more):
                        return self._no_python(f"3.{match[1]}")
                    break
                return UnknownNameError(
                    f"torch {version} is not in {self.path.name}, which has {', '.join(keys)}",
                    hint=f'to add it: one line under versions, "{version}": and its full release; then `buildctl lock`',
                )
        return UnknownNameError(
            f"unknown image name {name!r}{did_you_mean(name, self._names())}", hint=f"names: {', '.join(self._names())}"
        )

    def _no_python(self, python: str) -> MatrixError:
        if python == self.pythons[0]:
            return UnknownNameError(
                f"Python {python} is the first in {self.path.name}, which no name mentions",
                hint=f"leave out -py{python.replace('.', '')}",
            )
        return UnknownNameError(
            f"Python {python} is not in {self.path.name}, which has {', '.join(self.pythons)}",
            hint=f"to add it: python: [{', '.join(json.dumps(p) for p in (*self.pythons, python))}]; "
            "then `buildctl lock`",
        )


def _impossible(answers: Sequence[Combination]) -> MatrixError:
    distinct = {(a.reason, a.instead): a for a in answers}
    return ImpossibleError(
        "; ".join(a.sentence() for a in distinct.values()),
        hint="; ".join(dict.fromkeys(a.instead for a in distinct.values() if a.instead)) or None,
    )


def parse_arch(text: str) -> str:
    """Docker's name of an architecture; the kernel's names and `linux/...` are understood. Raises MatrixError."""
    name = arch_named(text.lower().removeprefix("linux/"))
    if name not in ARCHES:
        raise UnknownNameError(
            f"unknown architecture {text!r}{did_you_mean(name, ARCHES)}", hint=f"one of {', '.join(ARCHES)}"
        )
    return name
