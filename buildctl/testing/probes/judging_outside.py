"""Compares what an image answers and claims with what its layers hold (`testing.outside`)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

from buildctl.matrix.accelerators import short_version, versions_in
from buildctl.testing.outside import Outside
from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.judging import Verdict, failed, passed, same_version
from buildctl.testing.report import Status

_SHOWN = 10


def python(outside: Outside) -> Verdict:
    """Runs nothing."""
    return failed(outside.problem) if outside.problem else passed(f"`python` is /{outside.interpreter}, CPython")


def claims(expected: Expected, outside: Outside) -> Verdict:
    """Labels, or variables of the environment. Runs nothing."""
    torches = outside.torches()
    wrong: list[str] = []
    claimed = []
    if expected.torch:
        claimed.append(f"torch {expected.torch}")
        found = sorted({torch.version for torch in torches.values()})
        if not any(same_version(expected.torch, version) for version in found):
            wrong.append(f"torch {expected.torch} is claimed, the layers have {', '.join(found) or 'none'}")
    for name, version in (("torchvision", expected.torchvision), ("torchaudio", expected.torchaudio)):
        if version:
            claimed.append(f"{name} {version}")
            found = sorted(v for n, v, _ in outside.distributions if n == name)
            if not any(same_version(version, v) for v in found):
                wrong.append(f"{name} {version} is claimed, the layers have {', '.join(found) or 'none'}")
    for kind, version in expected.versions.items():
        claimed.append(f"{kind} {version}")
        found = sorted({short_version(said[kind]) for t in torches.values() if (said := versions_in(t.said)).get(kind)})
        if version not in found:
            wrong.append(f"{kind} {version} is claimed, the torch in the layers is for {', '.join(found) or 'none'}")
    if wrong:
        return failed(_lines("claims differ from the layers", wrong))
    return passed(", ".join(claimed)) if claimed else (Status.NOT_RUN, "the image claims nothing")


def torch(expected: Expected, value: Any) -> Verdict:
    """The torch that answered must be in the layers, and agree with its files there."""
    outside = _outside(expected)
    if outside.problem:
        return failed(outside.problem)
    wrong = list(_python(outside, value["python"]))
    answered, folder = value["torch"], outside.real(value["torch"]["path"])
    there = outside.torches().get(folder) if folder else None
    if there is None:
        return failed(_lines(f"no torch/version.py is at {answered['path']} in the layers", wrong))
    if answered["version"] != there.version:
        wrong.append(f"torch: the image reports {answered['version']}, its file says {there.version}")
    for name in sorted(there.said.keys() & answered.keys() - {"__version__"}):
        if there.said[name] != answered[name]:
            wrong.append(f"torch.version.{name}: the image reports {answered[name]}, its file says {there.said[name]}")
    flags = value["gpu_architectures"]
    if there.architectures is not None and sorted(flags) != sorted(there.architectures):
        wrong.append(f"the image reports {' '.join(flags) or 'none'}, libtorch has {' '.join(there.architectures)}")
    return failed(_lines("differs from the layers", wrong)) if wrong else passed(f"torch {there.version} at /{folder}")


def _python(outside: Outside, answered: Any) -> Iterator[str]:
    if outside.real(answered["executable"]) != outside.interpreter:
        yield f"Python: the image reports {answered['executable']}, `python` is /{outside.interpreter}"
    named = re.fullmatch(r"python(\d+\.\d+)", posixpath.basename(outside.interpreter or ""))
    if named and not f"{answered['version']}.".startswith(f"{named[1]}."):
        yield f"Python: the image reports {answered['version']}, `python` is /{outside.interpreter}"


def distributions(expected: Expected, value: Any) -> Verdict:
    """They must be exactly those in the folders that the image's Python searches."""
    outside = _outside(expected)
    if outside.problem:
        return failed(outside.problem)
    reported = {(name, version, _real(outside, folder)) for name, version, folder in value}
    folders = {folder for _, _, folder in reported}
    there = {(name, version, at) for name, version, at in outside.distributions if at in folders}
    wrong = [f"{n} {v}: reported, but not in /{at} in the layers" for n, v, at in sorted(reported - there)]
    wrong += [f"{n} {v}: in /{at} in the layers, but not reported" for n, v, at in sorted(there - reported)]
    if wrong:
        return failed(_lines("differs from the layers", wrong))
    return passed(f"{len(there)} distributions, as in the layers") if there else failed("the image reports none")


def _real(outside: Outside, folder: str) -> str:
    real = outside.real(folder)
    return folder.strip("/") if real is None else real


def _outside(expected: Expected) -> Outside:
    if expected.outside is None:
        raise TypeError("nothing was read from outside")
    return expected.outside


def _lines(what: str, lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - _SHOWN} more"] * (len(lines) > _SHOWN)
    return what + "".join(f"\n  {line}" for line in [*lines[:_SHOWN], *more])
