"""Files that two wheels bring to one path: pip and uv install both, and the one that comes last stays.

Where nobody can tell the difference, one of them is kept. Where code would be another, the wheels are refused.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from buildctl.artifacts.wheels.wheel import Placed, Site, Wheel
from buildctl.ground.errors import ArtifactError

# Folders that projects put into their wheels by accident: nothing imports them from where packages are.
_ACCIDENTAL = frozenset({"tests", "test", "docs", "doc", "examples", "example", "benchmarks", "benchmark"})
_OF_A_PROJECT = frozenset({"setup.py", "conftest.py", "noxfile.py"})
_RUNS = (".py", ".pth", ".so", ".pyd", ".pyc", ".egg-link")
_DOCUMENTS = ("share/doc/", "share/man/", "share/licenses/")
_MAX_INIT = 1 << 16  # bytes


def harmless(one: Placed, other: Placed, site: Site) -> bool:
    """Whether it makes no difference to programs which of these two files stays."""
    if by_place(one.path, site):
        return True
    inside = one.path.startswith(f"{site.purelib}/")
    return inside and one.path.endswith("/__init__.py") and _same_code(one, other)


def by_place(full: str, site: Site) -> bool:
    """Whether nothing that runs depends on a file there, whatever is in it."""
    path = full.removeprefix(f"{site.purelib}/")
    if path == full:
        return path.removeprefix(f"{site.data}/").startswith(_DOCUMENTS)
    top, slash, _ = path.partition("/")
    return top in _ACCIDENTAL if slash else top in _OF_A_PROJECT or not top.endswith(_RUNS)


def _same_code(one: Placed, other: Placed) -> bool:
    """Comments and docstrings aside; two ways to declare a namespace package are the same."""
    first, second = _code(one), _code(other)
    return first is not None and first == second


def _code(file: Placed) -> str | None:
    if file.size > _MAX_INIT:
        return None
    source = b"".join(file.body.chunks())
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    plain = [node for node in body if not _declares_namespace(node)]
    return "\n".join(ast.dump(node) for node in plain)


def _declares_namespace(node: ast.stmt) -> bool:
    """Idioms of pkgutil and setuptools, also in a `try`, and the imports that they need."""
    match node:
        case ast.Try(body=body, handlers=handlers):
            inner = [*body, *(statement for handler in handlers for statement in handler.body)]
            return all(_declares_namespace(statement) for statement in inner)
        case ast.Import(names=names):
            return all(name.name in {"pkgutil", "pkg_resources"} for name in names)
        case ast.ImportFrom(module="pkgutil" | "pkg_resources"):
            return True
        case ast.Assign(targets=[ast.Name(id="__path__")]):
            return "extend_path" in ast.dump(node)
        case ast.Expr(value=ast.Call()):
            return "declare_namespace" in ast.dump(node)
        case _:
            return False


def refused(one: Placed, other: Placed, wheels: Sequence[Wheel]) -> ArtifactError:
    """Two files at one path of which only one can be right."""
    if one.label == other.label:
        return ArtifactError(
            f"{one.label} would install different files at /{one.path}",
            hint=f"ask for another version of {one.label.partition('-')[0]} under packages in matrix.yaml",
        )
    first, second = sorted((one.label, other.label))
    pair = [wheel for label in (first, second) for wheel in wheels if wheel.label == label]
    return ArtifactError(
        f"{first} and {second} would install different files at /{one.path}",
        hint=f"keep one of them: {'; '.join(asked_by(wheel, wheels) for wheel in pair)}",
    )


def asked_by(wheel: Wheel, wheels: Iterable[Wheel]) -> str:
    """Where a person has to change something to be without `wheel`."""
    needing = sorted({other.name for other in wheels if wheel.name in other.requires and other.name != wheel.name})
    if needing:
        return f"{wheel.name} is needed by {', '.join(needing)}"
    return f"{wheel.name} is under packages in matrix.yaml"


def notes_of(shared: Sequence[tuple[Placed, Placed]], site: Site) -> list[str]:
    """One line for each pair of wheels that share files."""
    pairs: dict[tuple[str, ...], list[str]] = {}
    for one, other in shared:
        labels = tuple(sorted((one.label, other.label)))
        pairs.setdefault(labels, []).append(one.path.removeprefix(f"{site.purelib}/"))
    return [
        f"{' and '.join(labels)} both bring {paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: "
        "nothing depends on which of them stays"
        for labels, paths in pairs.items()
    ]
