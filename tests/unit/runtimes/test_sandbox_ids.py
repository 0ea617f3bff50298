"""Which ids root's sandboxes have; what they see with them: tests/integration/testing/test_sandbox_runtime.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildctl.ground.errors import ToolError
from buildctl.runtimes.sandbox.ids import FIRST, MOST, Ids, find_ids, outside

ALL = "0 0 4294967295\n"


def found(folder: Path, uid_map: str, gid_map: str) -> Ids | None:
    (folder / "uid_map").write_text(uid_map)
    (folder / "gid_map").write_text(gid_map)
    return find_ids(proc=folder)


@pytest.mark.parametrize(
    ("uid_map", "gid_map", "ids"),
    [
        (ALL, ALL, Ids(first=FIRST, size=MOST)),
        ("0 100000 65536\n", "0 100000 65536\n", Ids(first=1, size=65535)),  # Docker with userns-remap
        ("0 1000 1\n1 100000 65536\n", "0 1000 1\n1 100000 65536\n", Ids(first=1, size=65536)),  # rootless Podman
        ("0 1000 1\n1 100000 65536\n", "0 1000 1\n", None),
        ("0 0 1\n", "0 0 1\n", None),
        (ALL, "0 0 1\n5000 5000 200000\n", Ids(first=5000, size=MOST)),
        ("0 0 65535\n", "0 0 65535\n", None),  # root itself is not given away
    ],
)
def test_a_range_is_free_for_users_and_groups_and_lacks_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid_map: str, gid_map: str, ids: Ids | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert found(tmp_path, uid_map, gid_map) == ids


def test_nobody_but_root_has_a_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert found(tmp_path, ALL, ALL) is None


def test_a_user_with_a_large_number_gets_a_line_of_its_own() -> None:
    ids = Ids()
    assert ids.mapping([0, 1000]) == f"0 {FIRST} 65535\n"
    assert ids.mapping([70000, 65535, 70000]) == (
        f"0 {FIRST} 65535\n65535 {FIRST + 65535} 1\n70000 {FIRST + 65536} 1\n"
    )


def test_no_room_for_a_large_number_is_said() -> None:
    with pytest.raises(ToolError, match="no id left for the image's user or group 1000660000") as caught:
        Ids(first=1, size=65535).mapping([1000660000])
    assert "below 65535" in str(caught.value.hint)


@pytest.mark.parametrize(("number", "owner"), [(0, 5), (1000, 1005), (65534, 65539), (1000660000, 65539)])
def test_files_of_unknown_owners_are_nobody_s(number: int, owner: int) -> None:
    assert Ids(first=5).owner(number) == owner


def test_the_id_here_follows_the_lines_of_a_map() -> None:
    mapping = Ids(first=1000, size=70_000).mapping([90_000])
    assert [outside(mapping, number) for number in (0, 1000, 65_534, 90_000)] == [1000, 2000, 66_534, 66_535]
