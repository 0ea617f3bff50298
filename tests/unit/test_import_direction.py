"""Imports point one way: a folder imports lower folders and itself. What a folder may import is in its `__init__`."""

from __future__ import annotations

import ast
import functools
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sources import PACKAGE, nodes, parsed

# Lowest first. Folders of one row do not know each other, except the modules of the first row.
ROWS: tuple[tuple[str, ...], ...] = (
    ("__init__", "ground", "console"),
    ("oci", "matrix"),
    ("artifacts", "registry", "docker"),
    ("lock",),
    ("dockerfile", "runtimes"),
    ("host",),
    ("build",),
    ("testing",),
    ("publish",),
    ("cli",),
    ("__main__",),
)
FORMAT_MAY_IMPORT = ("buildctl.oci", "buildctl.ground.errors", "buildctl.ground.cores")
FORMAT_MAY_NOT_TOUCH = {"socket", "http", "urllib", "requests", "docker", "subprocess", "torch"}


def imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def graph() -> dict[str, set[str]]:
    """Each module of the package with the modules of the package that it imports, less the packages it lies in."""
    paths = {module_of(path): path for path in PACKAGE.rglob("*.py") if "inside" not in path.parts}
    return {
        name: {m for m in imports(path) if m in paths and not f"{name}.".startswith(f"{m}.")}
        for name, path in paths.items()
    }


def place(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def row(module: str) -> int:
    return next(number for number, names in enumerate(ROWS) if place(module) in names)


def rule(folder: str) -> str:
    return importlib.import_module("buildctl" if folder == "__init__" else f"buildctl.{folder}").__doc__ or ""


def reached(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen, todo = set[str](), [start]
    while todo:
        for name in edges[todo.pop()] - seen:
            seen.add(name)
            todo.append(name)
    return seen


def test_the_rows_are_the_folders() -> None:
    there = {p.stem if p.suffix == ".py" else p.name for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert {name for names in ROWS for name in names} == there - {"__pycache__"}
    assert len(there - {"__pycache__", "__init__", "__main__"}) <= 15


def test_no_module_imports_itself_through_others() -> None:
    edges = graph()
    assert sorted(name for name in edges if name in reached(name, edges)) == []


@pytest.mark.parametrize("folder", sorted(name for names in ROWS for name in names))
def test_a_folder_imports_only_lower_ones(folder: str) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        if place(name) == folder
        for other in sorted(others)
        if place(other) != folder and row(other) >= row(name) and row(name) > 0
    ]
    assert wrong == [], f"buildctl.{folder}: {rule(folder)}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=module_of)
def test_each_folder_says_what_it_is_for(path: Path) -> None:
    assert len((ast.get_docstring(parsed(path)) or "").splitlines()) in range(1, 13)


def test_classes_of_different_things_have_different_names() -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if "inside" not in path.parts]
    names = Counter(node.name for path in paths for node in nodes(path) if isinstance(node, ast.ClassDef))
    assert [name for name, times in names.items() if times > 1] == []


def test_no_folder_and_no_file_is_large() -> None:
    paths = list(PACKAGE.rglob("*.py"))
    assert [folder for folder, files in Counter(path.parent for path in paths).items() if files > 16] == []
    assert [path for path in paths if len(path.read_bytes().splitlines()) > 400] == []


FORMAT = sorted((PACKAGE / "oci").glob("*.py"))


@pytest.mark.parametrize("path", FORMAT, ids=lambda path: path.name)
def test_the_format_imports_only_itself_errors_and_processors(path: Path) -> None:
    own = [name for name in imports(path) if name.split(".")[0] == "buildctl" and name != "buildctl"]
    assert [name for name in own if not name.startswith(FORMAT_MAY_IMPORT)] == []


@pytest.mark.parametrize("path", FORMAT, ids=lambda path: path.name)
def test_the_format_knows_no_network_and_no_programs(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)} & FORMAT_MAY_NOT_TOUCH == set()
