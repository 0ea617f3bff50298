"""Comparing answers of somebody else's environment, where our images and environments promise more."""

from __future__ import annotations

from typing import Any

from packaging.utils import canonicalize_name

from buildctl.testing.probes import judging
from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.judging import Verdict, failed, passed
from buildctl.testing.report import Status

COMPANIONS = frozenset({"torch", "torchvision", "torchaudio", "triton"})


def distributions(expected: Expected, value: list[list[str]]) -> Verdict:
    """The metadata it imports against the contents of its folders; nothing installed twice into one folder."""
    have: dict[str, set[str]] = {}
    places: dict[tuple[str, str], list[str]] = {}
    for name, version, folder in value:
        if name != "?":  # a folder left by an interrupted installation
            have.setdefault(name, set()).add(version)
            places.setdefault((name, folder), []).append(version)
    problems = [
        f"{name}: installed {len(found)} times in {folder} ({', '.join(found)})"
        for (name, folder), found in sorted(places.items())
        if len(found) > 1
    ]
    for name in sorted(expected.distributions.keys() | have.keys()):
        want, found = expected.distributions.get(name, "none"), have.get(name, set())
        if want not in found:
            problems.append(f"{name}: its folders have {want}, its Python reports {', '.join(sorted(found)) or 'none'}")
    if problems:
        return failed("differs from what is installed" + "".join(f"\n  {line}" for line in problems[:20]))
    return passed(f"{len(have)} distributions, each once, as its folders list them")


def pip_check(_: Expected, value: Any) -> Verdict:
    """Only complaints about what torch and its companions need count; of the others the first is shown."""
    if "check" not in value:
        return Status.NOT_RUN, "this environment has no pip"
    lines = [line for line in value["check"]["text"].splitlines() if line.strip()]
    if value["check"]["code"] == 0:
        return passed(lines[0] if lines else "no complaint")
    sbsa = {name for name, tags in value["check"]["tags"].items() if any("_sbsa" in tag for tag in tags)}
    lines = [x for x in lines if not (x.endswith("is not supported on this platform") and x.split()[0] in sbsa)]
    ours = [line for line in lines if _about_torch(line)]
    if ours:
        return failed("pip check: " + "\n  ".join(ours))
    rest = f"; {len(lines)} complaints about other packages, the first: {lines[0]}" if lines else ""
    return passed(f"nothing that torch needs is missing{rest}")


def _about_torch(line: str) -> bool:
    name = canonicalize_name(line.split(maxsplit=1)[0])
    return name in COMPANIONS or name.startswith("nvidia-")


def compiled(expected: Expected, value: Any) -> Verdict:
    """An environment promises no compiler."""
    if not value["compiler"]:
        return Status.NOT_RUN, "no g++ on PATH, which torch.compile calls for the CPU"
    return judging.compiled(expected, value)
