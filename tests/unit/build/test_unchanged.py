"""What an answer that is remembered depends on; the rest is in tests/integration/build/test_unchanged.py."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from buildctl.build import unchanged
from buildctl.build.unchanged import ENVIRONMENT, _contents, remembered
from buildctl.matrix.project import Project
from tests.support.sources import PACKAGE, nodes, that_say

MAKERS = ("matrix", "lock", "dockerfile", "build", "artifacts", "oci")
# read where something is fetched or handed to a program, which a build with nothing to do does not reach
LATER = {
    *("buildctl/lock/apt_sources.py", "buildctl/lock/index.py"),
    *("buildctl/build/buildkit/buildkit.py", "buildctl/build/cache/settings.py"),
}


def names_read(tree: list[ast.AST]) -> set[str]:
    """The names in `os.environ.get("NAME")` and `os.environ["NAME"]`."""
    found = set()
    for node in tree:
        match node:
            case ast.Call(func=ast.Attribute(attr="get", value=value), args=[ast.Constant(value=str(name)), *_]):
                found |= {name} if ast.unparse(value).endswith("environ") else set()
            case ast.Subscript(value=value, slice=ast.Constant(value=str(name))):
                found |= {name} if ast.unparse(value).endswith("environ") else set()
    return found


@pytest.mark.parametrize("folder", MAKERS)
def test_every_variable_that_decides_what_is_built_is_one_of_those_that_are_compared(folder: str) -> None:
    read = {
        name
        for path in that_say("environ")
        if path.is_relative_to(PACKAGE / folder) and str(path.relative_to(PACKAGE.parent)) not in LATER
        for name in names_read(list(nodes(path)))
    }
    assert {name for name in read if not name.startswith(ENVIRONMENT)} == set()


def test_links_that_lead_round_in_circles_are_followed_once(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "common").mkdir(parents=True)
    (images / "common" / "file").write_text("x")
    for name in ("a", "b", "c"):
        (images / "common" / name).symlink_to("..")
    before = list(_contents(tmp_path))
    assert len(before) < 100
    (images / "common" / "file").write_text("y")
    assert list(_contents(tmp_path)) != before


def test_a_link_to_a_folder_of_many_files_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build with so much to compare is not remembered; it takes its usual way."""
    (tmp_path / "project/images").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    for number in range(20):
        (tmp_path / "data" / str(number)).touch()
    (tmp_path / "project/images/data").symlink_to(tmp_path / "data")
    project = Project(root=tmp_path / "project", layout=tmp_path / "dist")
    assert remembered(project, load=False) is not None
    monkeypatch.setattr(unchanged, "_MOST", 10)
    assert remembered(project, load=False) is None
