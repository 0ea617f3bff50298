"""The comparison of the two engines must see every kind of difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.images import Member, file, image, symlink, tar
from tests.support.sameness import configuration_differences, file_differences, raw_configuration, tree

PIP = file("usr/local/bin/pip")
THIRD_NAME = [file("usr/local/bin/pip3.13")]
INFO = "a-1.dist-info"


def differences(root: Path, ours: list[Member], buildkits: list[Member]) -> list[str]:
    one, other = image(root / "one", tar(*ours, PIP)), image(root / "other", tar(*buildkits, PIP, *THIRD_NAME))
    return file_differences(tree(*one), tree(*other))


@pytest.mark.parametrize(
    ("other", "seen"),
    [
        (file("a", b"2"), "content"),
        (file("a", b"1", mode=0o600), "mode"),
        (replace(file("a", b"1"), uid=1), "owner"),
        (replace(file("a", b"1"), mtime=1), "mtime"),
        (symlink("a", "b"), "target"),
    ],
)
def test_every_difference_of_a_file_is_named(tmp_path: Path, other: Member, seen: str) -> None:
    found = differences(tmp_path, [file("a", b"1"), file("b")], [other, file("b")])
    assert any(line.startswith(f"a: {seen} ") for line in found), found


def test_files_of_one_alone_are_named(tmp_path: Path) -> None:
    assert differences(tmp_path, [file("a"), file("b")], [file("b"), file("c")]) == [
        "a: only assembled",
        "c: only of BuildKit",
    ]


def test_what_may_differ_is_no_more_than_is_said(tmp_path: Path) -> None:
    ours = [file(f"{INFO}/INSTALLER", b"buildctl"), file(f"{INFO}/RECORD", b"a,,\n__pycache__/a.pyc,,\n")]
    same = [file(f"{INFO}/INSTALLER", b"uv"), file(f"{INFO}/RECORD", b"a,,\n")]
    other = [file(f"{INFO}/INSTALLER", b"uv", mode=0o755), file(f"{INFO}/RECORD", b"b,,\n")]
    assert differences(tmp_path / "1", ours, same) == []
    found = differences(tmp_path / "2", ours, other)
    assert [line.split()[:2] for line in found] == [[f"{INFO}/INSTALLER:", "mode"], [f"{INFO}/RECORD:", "content"]]


def test_a_field_that_only_one_configuration_has_is_named(tmp_path: Path) -> None:
    one = raw_configuration(*image(tmp_path, tar(file("a"))))
    other = {**one, "variant": "v8", "history": [], "config": {**one["config"], "Env": ["A=b"], "ArgsEscaped": True}}
    found = configuration_differences(one, other)
    assert [line.partition(":")[0] for line in found] == ["config.Env", "variant"]
