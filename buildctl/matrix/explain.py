"""`buildctl matrix --explain`: every setting that counts, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildctl.matrix import yamlfile
from buildctl.matrix.read import read_document

DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixSetting:
    """`line` is that of matrix.yaml, None for a default."""

    key: str
    value: Any
    line: int | None

    @property
    def source(self) -> str:
        return DEFAULT if self.line is None else f"line {self.line}"

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "value": self.value, "line": self.line, "default": self.line is None}

    def shown(self) -> str:
        """In one line of YAML."""
        return _flow(self.value)


def settings(path: Path) -> tuple[MatrixSetting, ...]:
    """In the order of the file, defaults where they were filled in. Raises as `load_matrix`."""
    return tuple(_settings(read_document(path)))


def _settings(document: yamlfile.YamlDocument) -> Iterator[MatrixSetting]:
    for path, value in _leaves((), document.value):
        yield MatrixSetting(key=yamlfile.show(path), value=value, line=document.lines.get(path))


def _leaves(path: yamlfile.Path, value: Any) -> Iterator[tuple[yamlfile.Path, Any]]:
    """Mappings are opened, and lists of mappings; a list of words is one value."""
    match value:
        case dict() if value and not (path and path[0] == "exclude" and len(path) == 2):
            for key, child in value.items():
                yield from _leaves((*path, key), child)
        case list() if path == ("exclude",):
            for number, child in enumerate(value):
                yield from _leaves((*path, number), child)
        case _:
            yield path, value


def _flow(value: Any) -> str:
    match value:
        case dict() if set(value) >= {"reason", "instead"}:
            return ", ".join(f"{k} {v}" for k, v in value.items() if k not in {"reason", "instead"})
        case dict():
            return "{" + ", ".join(f"{key}: {_flow(child)}" for key, child in value.items()) + "}"
        case list():
            return "[" + ", ".join(_flow(child) for child in value) + "]"
        case _:
            return str(value)
