"""`wheels`, `files`, `user`, `env` and `labels` under `images` of matrix.yaml: a team's own code in an image."""

from __future__ import annotations

import os
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
_WRITABLE = "is in a folder that every user may write to (use /app or /opt/NAME)"
# Where a layer must bring no file: it would also bring the folder above, with an owner and a mode of its own.
FORBIDDEN = {
    **dict.fromkeys((HOME, "/workspace", "/tmp", "/var/tmp"), _WRITABLE),  # noqa: S108 - paths inside the image
    **dict.fromkeys(("/dev", "/proc", "/run", "/sys"), "is hidden in a container, which mounts its own there"),
    **{f"/{name}": f"is a link in the image (use /usr/{name})" for name in ("bin", "lib", "lib32", "lib64", "sbin")},
    "/root": "is root's own folder (use /etc or /opt/NAME)",
    "/var/run": "is a link in the image (use /opt/NAME)",
    "/var/lock": "is a link in the image (use /opt/NAME)",
}
RESERVED = ("dev.buildctl.", *(f"org.opencontainers.image.{name}" for name in ("base.", "title", "version")))


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
            for file in newest:
                _refuse_outside(document, here, f"{name}/{file}")
            if not inside:
                document.problem(here, f"no wheel in {CONTEXT}/{name}")
        elif full.is_file() and full.suffix == ".whl":
            found += [name for _ in _newest(document, here, [full.name])]
            _refuse_outside(document, here, name)
        else:
            document.problem(here, f"{CONTEXT}/{name} is neither a wheel nor a folder of wheels")
    return tuple(dict.fromkeys(found))


def _refuse_outside(document: yamlfile.YamlDocument, here: yamlfile.Path, name: str) -> None:
    folder = _context(document)
    if not (folder / name).exists():
        document.problem(here, f"{CONTEXT}/{name} is a link to nothing")
    elif not (folder / name).resolve().is_relative_to(folder.resolve()):
        document.problem(here, f"{CONTEXT}/{name} leads out of {CONTEXT}/, which is all that a build sees")


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
        if not os.path.lexists(full):
            document.problem(here, f"no such file or folder: {CONTEXT}/{name}")
        else:
            _refuse_outside(document, here, name)
        target = posixpath.normpath(place)
        if place.endswith("/") and not full.is_dir():
            target = posixpath.join(target, posixpath.basename(name))
        for problem in _place_problems(full, target):
            document.problem(here, problem)
        found.append((f"{name}/" if full.is_dir() else name, f"{target}/" if full.is_dir() else target))
    return tuple(found)


def _place_problems(full: Path, target: str) -> Iterator[str]:
    """What is wrong with bringing `full` to `target`, which for a folder is where its content goes."""
    if full.is_dir() and not any(full.iterdir()):
        yield "the folder is empty"
    for folder, why in FORBIDDEN.items():
        inside = posixpath.relpath(folder, target)
        if target == folder or target.startswith(f"{folder}/"):
            yield f"{target} {why}"
        elif not inside.startswith("../") and full.is_dir() and os.path.lexists(full / inside):
            yield f"{folder} {why}"


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
