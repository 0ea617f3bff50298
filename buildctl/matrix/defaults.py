"""What matrix.yaml means where it does not say otherwise: `defaults.yaml`, filled into the document that was read.

A key that is given replaces its default whole. Only `accelerators` is filled entry by entry.
"""

from __future__ import annotations

import copy
import importlib.resources
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from buildctl.matrix import yamlfile
from buildctl.matrix.accelerator_keys import declared_kind
from buildctl.matrix.arch import ARCHES

# The base of images where matrix.yaml does not choose among its own.
BASE = "debian13"
ON_PYPI = "exclude-on-pypi"


@cache
def defaults() -> Mapping[str, Any]:
    text = importlib.resources.files("buildctl.matrix").joinpath("defaults.yaml").read_text("utf-8")
    document = yamlfile.parse(text, "defaults.yaml")
    document.check()
    value: Mapping[str, Any] = document.value
    return value


def fill(document: yamlfile.YamlDocument) -> None:
    """Add what a document that satisfies the schema leaves out. What was added has no line."""
    value: dict[str, Any] = document.value
    for key in ("python", "packages", "flavours", "bases"):
        if key not in value:
            value[key] = copy.deepcopy(defaults()[key])
    known = [*copy.deepcopy(defaults()["exclude"]), *_on_pypi(value["accelerators"])] if "exclude" not in value else []
    for name, accelerator in value["accelerators"].items():
        for key, default in _of_accelerator(name, accelerator, value["bases"]):
            accelerator.setdefault(key, default)
    value.setdefault("exclude", known)


def _of_accelerator(
    name: str, value: Mapping[str, Any], bases: Mapping[str, Any]
) -> Iterator[tuple[str, str | list[str]]]:
    kind = declared_kind(name, value)
    if kind is not None and kind.native and "base" not in value:
        yield "native", "macos"
        yield "arch", ["arm64"]
        return
    yield "arch", list(ARCHES)
    yield "base", next(iter(bases)) if len(bases) == 1 else BASE


def _on_pypi(accelerators: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What lists its architectures, or has an index of its own, is taken at its word."""
    for rule in defaults()[ON_PYPI]:
        for name, value in accelerators.items():
            kind = declared_kind(name, value)
            if not {"index", "arch"} & value.keys() and kind is not None and kind.name == rule["kind"]:
                told = {**rule, "accelerator": name, "instead": rule["instead"].replace("{accelerator}", name)}
                del told["kind"]
                yield told
