"""How matrix.yaml declares an accelerator: its name, `kind`, `cuda`, `rocm` and `devices`, compared with each other
before anything is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from buildctl.matrix import yamlfile
from buildctl.matrix.accelerators import KINDS, MPS, VERSION_KEYS, AcceleratorKind, agrees, claim_in_name
from buildctl.matrix.cells import VersionClaim


def read_kind(
    document: yamlfile.YamlDocument, name: str, value: Mapping[str, Any]
) -> tuple[AcceleratorKind | None, tuple[VersionClaim, ...]]:
    """The kind that an accelerator claims to be, and the versions. Records contradicting claims."""
    said = list(_kinds(name, value))
    for key, other in said[1:]:
        if other != said[0][1]:
            first = _shown(name, said[0][0])
            where: yamlfile.Path = ("accelerators", name, key) if key else ("accelerators", name)
            document.problem(where, f"{_shown(name, key)} means {other.label}, but {first} means {said[0][1].label}")
    kind = said[0][1] if said else None
    if kind is not None and kind.native and "native" not in value:
        document.problem(("accelerators", name), f"{kind.label} does not work in a container (native: macos)")
    claims = tuple(_claims(document, name, value))
    for one, two in pairwise(claims):
        if not any(agrees(a, b) for a in one.versions for b in two.versions):
            document.problem(
                ("accelerators", name),
                f"{one.where} claims {' or '.join(one.versions)}, but {two.where} {' or '.join(two.versions)}",
            )
    return kind, claims


def declared_kind(name: str, value: Mapping[str, Any]) -> AcceleratorKind | None:
    """What the keys say, else the name; contradictions are for `read_kind` to find."""
    return next((kind for _, kind in _kinds(name, value)), None)


def _kinds(name: str, value: Mapping[str, Any]) -> Iterator[tuple[str, AcceleratorKind]]:
    """(key that declares it, or nothing for the name, kind), in order of declaration."""
    yield from ((key, KINDS[key]) for key in VERSION_KEYS if key in value)
    if "kind" in value:
        yield "kind", KINDS[value["kind"]]
    if "native" in value:
        yield "native", MPS
    if (claim := claim_in_name(name)) is not None:
        yield "", claim.kind


def _shown(name: str, key: str) -> str:
    return f"the key '{key}'" if key else f"the name {name!r}"


def _claims(document: yamlfile.YamlDocument, name: str, value: Mapping[str, Any]) -> Iterator[VersionClaim]:
    for key in VERSION_KEYS:
        if key in value:
            yield VersionClaim(versions=(value[key],), where=_place(document, name, key))
    claim = claim_in_name(name)
    if claim is not None and claim.versions:
        yield VersionClaim(versions=claim.versions, where=f"the name {name} in {_place(document, name)}")


def read_devices(
    document: yamlfile.YamlDocument, name: str, value: Mapping[str, Any], kind: AcceleratorKind | None
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Backends that must and must not be built in, as far as `devices` tells; records contradictions with itself or the
    kind.
    """
    devices: Mapping[str, Any] = value.get("devices", {})
    built, never = (tuple(devices[key]) if key in devices else None for key in ("built", "never"))
    here: yamlfile.Path = ("accelerators", name, "devices")
    for device in sorted(set(built or ()) & set(never or ())):
        document.problem(here, f"{device} is both under built and under never")
    if kind is None:
        return built, never
    if kind.backend in (never or ()) and kind.backend not in (built or ()):
        document.problem(here, f"{kind.backend} is under never, but the accelerator is of kind {kind.name}")
    if built is not None and kind.backend is not None and kind.backend not in built:
        document.problem(here, f"{kind.backend} is not under built, but the accelerator is of kind {kind.name}")
    for device in built or ():
        if device in kind.never and device not in (never or ()):
            document.problem(here, f"{device} is under built, but the accelerator is of kind {kind.name}")
    return built, never


def places(document: yamlfile.YamlDocument, name: str, value: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """See `Accelerator.places`."""
    keys = ("", *(key for key in value if key in {*VERSION_KEYS, "kind", "index"}))
    return tuple((key, _place(document, name, key)) for key in keys)


def _place(document: yamlfile.YamlDocument, name: str, key: str = "") -> str:
    path: yamlfile.Path = ("accelerators", name, key) if key else ("accelerators", name)
    return f"{yamlfile.show(path)} ({Path(document.source).name} line {document.lines[path]})"
