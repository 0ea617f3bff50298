"""What the packages in an image are, and whether pip and the programs that they install work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packaging.version import Version

from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.judging import DEBIANS_OWN, Verdict, differs, failed, passed


def distributions(expected: Expected, value: list[list[str]]) -> Verdict:
    have: dict[str, list[str]] = {}
    for name, version, folder in value:
        if not (expected.apt and folder == DEBIANS_OWN):
            have.setdefault(name, []).append(version)
    problems = []
    for name in sorted(expected.distributions.keys() | have.keys()):
        want, found = expected.distributions.get(name), have.get(name, [])
        if len(found) > 1:
            problems.append(f"{name}: installed {len(found)} times ({', '.join(found)})")
        elif want is None:
            problems.append(f"{name}: expected to be absent, image reports {found[0]}")
        elif not found or Version(found[0]) != Version(want):
            problems.append(f"{name}: expected {want}, image reports {found[0] if found else 'none'}")
    if problems:
        return failed("differs from the lock" + "".join(f"\n  {line}" for line in problems))
    return passed(f"{len(have)} distributions, exactly those locked")


def pip_check(expected: Expected, value: Any) -> Verdict:
    if "check" not in value:
        return failed(f"pip cannot run\n{value['rest']['text']}")
    text = value["check"]["text"].strip()
    if value["check"]["code"] == 0:
        return passed(text)
    known = {name for name, tags in value["check"]["tags"].items() if _other_word(expected, name, tags)}
    lines = [line for line in text.splitlines() if line.strip()]
    unexcused = [x for x in lines if not (x.endswith("is not supported on this platform") and x.split()[0] in known)]
    if unexcused or not lines:
        return failed(f"pip check: {text}")
    return passed(
        f"only complains of {', '.join(sorted(known))}, whose WHEEL has sbsa although the locked file name has aarch64"
    )


def _other_word(expected: Expected, name: str, tags: Sequence[str]) -> bool:
    """Whether the locked wheel fits the platform but is tagged SBSA inside, NVIDIA's word for arm64 servers."""
    filename = expected.files.get(name, "")
    inside = {tag.replace("_sbsa", "_aarch64") for tag in tags if "_sbsa" in tag}
    return expected.arch == "arm64" and any(filename.endswith(f"-{tag}.whl") for tag in inside)


def pip_install(_: Expected, value: Any) -> Verdict:
    for step in ("install", "used", "uninstall"):
        if step not in value:
            return failed(f"pip: no result of {step}\n{value['rest']['text']}")
        if value[step]["code"] != 0:
            return failed(f"pip {step}: exit code {value[step]['code']}\n{value[step]['text'].strip()}")
    answer, _space, where = value["used"]["text"].strip().partition(" ")
    if answer != "42":
        return differs("the installed module to answer", 42, answer)
    return passed(f"as the default user, offline, into {where.rpartition('/')[0]}; removed again")


def console_scripts(_: Expected, value: Any) -> Verdict:
    if missing := [name for name, path in value["pythons"].items() if not path]:
        return failed(f"expected {', '.join(missing)} on PATH, image has none")
    if value["missing"]:
        return failed(f"declared, but not on PATH: {', '.join(value['missing'])}")
    if value["broken"]:
        return failed("expected interpreters that exist, image has\n  " + "\n  ".join(value["broken"]))
    return passed(", ".join(value["declared"]) or "none declared")


def helpers(_: Expected, value: Any) -> Verdict:
    """What torch asks for without an upper bound works with this torch: networkx, setuptools, sympy."""
    if value["wrong"]:
        some = "".join(f"\n  {line}" for line in value["wrong"])
        return failed(f"{len(value['wrong'])} of {value['tried']} packages do not work with this torch{some}")
    if not value["tried"]:
        return failed("expected networkx and sympy, which torch needs, image has none")
    return passed(", ".join(f"{name} {version}" for name, version in value["versions"].items()))
