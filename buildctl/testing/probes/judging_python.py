"""Findings about what people do with Python in an image: pip and uv keep its tag's versions, programs are found."""

from __future__ import annotations

from typing import Any

from packaging.requirements import Requirement

from buildctl.dockerfile.constraints import KEPT
from buildctl.matrix.arch import ARCHES
from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.judging import Verdict, differs, failed, passed


def kept(expected: Expected, value: Any) -> Verdict:
    if missing := [name for name, path in value["variables"].items() if not path]:
        return failed(f"expected {' and '.join(missing)} to name a constraints file, image sets none")
    if len(set(value["variables"].values())) != 1 or not value["text"]:
        return failed(f"expected one constraints file, image has none at {', '.join(value['variables'].values())}")
    wanted, found = _claimed(expected), _constrained(value["text"], ARCHES[expected.arch].machine)
    for name, version in wanted.items():
        if found.get(name) != version:
            return differs(f"{name} to be constrained to", version, found.get(name, "no constraint"))
    for tool in ("pip", "uv") if "uv" in value else ("pip",):
        codes = value[tool]
        if not codes:
            return failed(f"{tool} cannot run\n{value['said']}")
        if codes["kept"] == 0:
            return failed(f"{tool} would replace torch for a package that wants a newer one\n{value['said']}")
        if codes["changed"] != 0:
            return failed(f"{tool} does not replace torch when its constraint is disabled\n{value['said']}")
    if "PIP_CONSTRAINT" not in value["said"]:
        return failed(f"expected pip's refusal to name PIP_CONSTRAINT\n{value['said']}")
    tools = "pip and uv keep" if "uv" in value else "pip keeps"
    return passed(f"{tools} {', '.join(wanted)}, unless the variable is empty")


def login_shell(_: Expected, value: Any) -> Verdict:
    wanted = f"{value['home']}/.local/bin"
    if wanted not in value["path"]:
        return differs("PATH of a login shell to have", wanted, ":".join(value["path"]))
    return passed(f"finds programs in {wanted}")


def standard_library(_: Expected, value: Any) -> Verdict:
    if value["missing"]:
        return failed("expected the whole standard library" + "".join(f"\n  {m}" for m in value["missing"].values()))
    if not value["tried"]:
        return failed("expected modules to be imported, image tried none")
    return passed(f"imports {', '.join(value['tried'])}")


def _claimed(expected: Expected) -> dict[str, str]:
    claimed = {
        "torch": expected.torch,
        "torchaudio": expected.torchaudio,
        "torchvision": expected.torchvision,
        "triton": expected.distributions.get("triton"),
    }
    return {name: version for name in KEPT if (version := claimed[name])}


def _constrained(text: str, machine: str) -> dict[str, str]:
    """Exact versions by name, of the lines for `machine`."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found: dict[str, str] = {}
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"platform_machine": machine}):
            exact = [s.version for s in requirement.specifier if s.operator in {"==", "==="}]
            found[requirement.name] = ", ".join(exact)
    return found
