"""`wheels`, `files`, `user`, `env` and `labels` under `images` of matrix.yaml: a team's own code in an image."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from buildctl.matrix import yamlfile
from buildctl.matrix.account import HOME

CONTEXT = "images"  # the folder that Docker sees, next to matrix.yaml
# Every user may write there: a folder that an image brings along would take that away.
OPEN = (HOME, "/workspace")
RESERVED = ("dev.buildctl.", "org.opencontainers.image.base.")


def read_wheels(document: yamlfile.YamlDocument, path: yamlfile.Path, value: Mapping[str, Any]) -> tuple[str, ...]:
    """Wheel files below images/, of a folder its newest version of each package. Records what is not there."""
    found: list[str] = []
    for number, name in enumerate(value.get("wheels", ())):
        here: yamlfile.Path = (*path, "wheels", number)
        full = _context(document) / name
        if full.is_dir():
            inside = sorted(file.name for file in full.glob("*.whl"))
            newest = _newest(document, here, inside)
            found += [f"{name}/{file}" for file in newest]
            if not inside:
                document.problem(here, f"no wheel in {CONTEXT}/{name}")
        elif full.is_file() and full.suffix == ".whl":
            found += [name for _ in _newest(document, here, [full.name])]
        else:
            document.problem(here, f"{CONTEXT}/{name} is neither a wheel nor a folder of wheels")
    return tuple(dict.fromkeys(found))


def _newest(document: yamlfile.YamlDocument, here: yamlfile.Path, names: list[str]) -> list[str]:
    versions: dict[str, Version] = {}
    parsed: list[tuple[str, str, Version]] = []
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9._+-]+", name):
            document.problem(here, f"{name!r}: only letters, digits and ._+- may be in a wheel's name")
            continue
        try:
            package, version, _, _ = parse_wheel_filename(name)
        except InvalidWheelFilename as error:
            document.problem(here, str(error))
            continue
        parsed.append((name, package, version))
        versions[package] = max(version, versions.get(package, version))
    return [name for name, package, version in parsed if version == versions[package]]


def requirements_of(wheels: tuple[str, ...]) -> Iterator[str]:
    """`NAME==VERSION` of the packages in these files."""
    for path in wheels:
        name, version, _, _ = parse_wheel_filename(posixpath.basename(path))
        yield f"{canonicalize_name(name)}=={version}"


def read_files(
    document: yamlfile.YamlDocument, path: yamlfile.Path, value: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    """(file or folder below images/, absolute place). Records what is not there, and places that it must not go to."""
    found = []
    for name, place in value.get("files", {}).items():
        here: yamlfile.Path = (*path, "files", name)
        full = _context(document) / name
        if not full.exists():
            document.problem(here, f"no such file or folder: {CONTEXT}/{name}")
        elif not full.resolve().is_relative_to(_context(document).resolve()):
            document.problem(here, f"{CONTEXT}/{name} leads out of {CONTEXT}/, which is all that a build sees")
        target = posixpath.normpath(place)
        if any(target == folder or target.startswith(f"{folder}/") for folder in OPEN):
            document.problem(here, f"{place} is in a folder that every user may write to (use /app or /opt/NAME)")
        found.append((f"{name}/" if full.is_dir() else name, f"{target}/" if full.is_dir() else target))
    return tuple(found)


def read_labels(
    document: yamlfile.YamlDocument, path: yamlfile.Path, value: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    """Records labels that buildctl itself claims something with."""
    for key in value.get("labels", {}):
        if key.startswith(RESERVED):
            document.problem((*path, "labels", key), "this label is buildctl's own claim about the image")
    return tuple(value.get("labels", {}).items())


def _context(document: yamlfile.YamlDocument) -> Path:
    return Path(document.source).parent / CONTEXT
