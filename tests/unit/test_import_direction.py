"""Imports point one way: the table of docs/design.md, "Shape of the code", as a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import buildctl

PACKAGE = Path(buildctl.__file__).parent

# Lowest first; a module reaches, directly or through others, only its own row and lower ones. Modules that the table
# does not name stand between these wherever they fit.
ROWS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("log", "run"),
    ("oci", "matrix"),
    ("wheel", "deb"),
    ("lock", "claims"),
    ("dockerfile",),
    ("engines", "runtimes", "registry"),
    ("probes", "report", "publish"),
    ("cli",),
)
FORMAT_MAY_IMPORT = ("buildctl.oci", "buildctl.ground.errors")
FORMAT_MAY_NOT_TOUCH = {"socket", "http", "urllib", "requests", "docker", "subprocess", "torch"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph() -> dict[str, set[str]]:
    """Each module of the package with the modules of the package that it imports, less the packages it lies in."""
    paths = {module_of(path): path for path in PACKAGE.rglob("*.py") if "inside" not in path.parts}
    return {
        name: {m for m in imports(path) if m in paths and not f"{name}.".startswith(f"{m}.")}
        for name, path in paths.items()
    }


def reached(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen, todo = set[str](), [start]
    while todo:
        for name in edges[todo.pop()] - seen:
            seen.add(name)
            todo.append(name)
    return seen


def row(module: str) -> int | None:
    name = module.split(".")[1] if "." in module else ""
    return next((number for number, names in enumerate(ROWS) if name in names), None)


def test_no_module_imports_itself_through_others() -> None:
    edges = graph()
    assert sorted(name for name in edges if name in reached(name, edges)) == []


def test_nothing_reaches_upwards() -> None:
    edges = graph()
    upwards = [
        f"{name} -> {other}"
        for name in edges
        for other in reached(name, edges)
        if (mine := row(name)) is not None and (theirs := row(other)) is not None and theirs > mine
    ]
    assert upwards == []


@pytest.mark.parametrize(("one", "other"), [("engines", "runtimes"), ("runtimes", "engines"), ("matrix", "oci")])
def test_neighbours_do_not_know_each_other(one: str, other: str) -> None:
    edges = graph()
    known = {n: reached(n, edges) for n in edges if n.startswith(f"buildctl.{one}")}
    assert known
    found = {n: sorted(m for m in r if m.startswith(f"buildctl.{other}")) for n, r in known.items()}
    assert {n: m for n, m in found.items() if m} == {}


STAGES = ("locking", "rendering", "build", "testing", "publish")


@pytest.mark.parametrize("stage", ["rendering", "build", "publish"])
def test_no_stage_hides_in_a_later_one(stage: str) -> None:
    """The command calls one after the other, so what is built is what was locked and rendered before."""
    seen = reached(f"buildctl.{stage}", graph())
    assert seen & {f"buildctl.{other}" for other in STAGES} == set()


def test_only_the_entry_point_imports_the_command_line() -> None:
    assert [name for name, imported in graph().items() if "buildctl.cli.program" in imported] == ["buildctl.__main__"]


FORMAT = sorted((PACKAGE / "oci").glob("*.py"))


@pytest.mark.parametrize("path", FORMAT, ids=lambda path: path.name)
def test_the_format_imports_nothing_of_buildctl_but_itself_and_errors(path: Path) -> None:
    own = [name for name in imports(path) if name.split(".")[0] == "buildctl" and name != "buildctl"]
    assert [name for name in own if not name.startswith(FORMAT_MAY_IMPORT)] == []


@pytest.mark.parametrize("path", FORMAT, ids=lambda path: path.name)
def test_the_format_knows_no_network_and_no_programs(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)} & FORMAT_MAY_NOT_TOUCH == set()
