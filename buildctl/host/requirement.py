"""NVIDIA_REQUIRE_CUDA of an image against a driver, as NVIDIA's container toolkit compares them before it starts it.

`cuda>=12.4 brand=tesla,driver>=535,driver<536`: alternatives with blanks between, conditions with commas.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence

from packaging.version import InvalidVersion, Version

_CONDITION = re.compile(r"([a-z]+)(>=|<=|!=|=|>|<)(\S+)")
_OPERATORS: Mapping[str, Callable[[Version, Version], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "!=": operator.ne,
}
# The CUDA version of a driver branch (CUDA Toolkit release notes, "CUDA Toolkit and Corresponding Driver Versions").
# A driver newer than these supports at least the last of them.
CUDA_OF_DRIVER: Mapping[int, str] = {
    450: "11.0", 455: "11.1", 460: "11.2", 465: "11.3", 470: "11.4", 495: "11.5", 510: "11.6", 515: "11.7",
    520: "11.8", 525: "12.0", 530: "12.1", 535: "12.2", 545: "12.3", 550: "12.4", 555: "12.5", 560: "12.6",
    565: "12.7", 570: "12.8", 575: "12.9", 580: "13.0", 590: "13.1", 595: "13.2",
}  # fmt: skip


def unmet(text: str, driver: str) -> str:
    """Why a container that requires `text` does not start with that driver; empty if it does, or may."""
    alternatives = [alternative.split(",") for alternative in text.split()]
    if not alternatives or any(all(_holds(c, driver) for c in conditions) for conditions in alternatives):
        return ""
    brands = [c.removeprefix("brand=") for a in alternatives if _but_for_brand(a, driver) for c in a if "brand=" in c]
    unless = f", unless the GPU's brand is {' or '.join(dict.fromkeys(brands))}" if brands else ""
    asked = asked_cuda(text)
    wants = f"CUDA {asked}" if asked else " or ".join(text.split()[:3])
    return f"it requires {wants}, driver {driver} has CUDA {cuda_of(driver) or 'before 11'}{unless}"


def _but_for_brand(conditions: Sequence[str], driver: str) -> bool:
    return all(condition.startswith("brand=") or _holds(condition, driver) for condition in conditions)


def cuda_of(driver: str) -> str | None:
    """The newest CUDA known to come with that driver; None if it is older than all of them."""
    branch = Version(driver).major
    return next((cuda for known, cuda in sorted(CUDA_OF_DRIVER.items(), reverse=True) if branch >= known), None)


def asked_cuda(text: str) -> str | None:
    """MAJOR.MINOR of the first `cuda>=`."""
    found = re.search(r"\bcuda>=(\d+\.\d+)", text)
    return found[1] if found else None


def _holds(condition: str, driver: str) -> bool:
    """The brand is unknown, so a condition that depends on one counts as unmet."""
    match = _CONDITION.fullmatch(condition)
    if match is None:
        return False
    key, how, text = match.groups()
    have: str | None = {"driver": driver, "cuda": cuda_of(driver)}.get(key)
    newer = Version(driver).major > max(CUDA_OF_DRIVER)
    if key == "cuda" and newer and how in {">=", ">"}:
        return True
    try:
        return have is not None and _OPERATORS[how](Version(have), Version(text))
    except InvalidVersion:
        return False
