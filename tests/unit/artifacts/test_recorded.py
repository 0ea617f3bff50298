"""Records of maintainer scripts: the file, what it is bound to, and what it does to a tree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.debian.base import base_entries, check_scripts
from buildctl.artifacts.debian.package import BaseLock, Recorded, RecordedChange
from buildctl.artifacts.debian.recorded import format_recorded, lines_between, parse_recorded
from buildctl.artifacts.debian.scripts.commands import UnknownScriptError
from buildctl.ground.errors import ArtifactError, LockError
from buildctl.lock.debian import read_base_lock, record_of, write_base_lock
from buildctl.oci.entry import Kind, capability, capability_names
from tests.support.debs import Compiled, deb, file, lock_of, tiny_base, write_all

CHANGES = (
    RecordedChange(kind="binary", mode=0o600, uid=0, gid=0, path="etc/seed", text="AAH/\n"),
    RecordedChange(kind="file", mode=0o640, uid=7, gid=8, path="etc/tool.conf", text="a\n\n|b\nno end"),
    RecordedChange(kind="file", mode=0o644, uid=0, gid=0, path="etc/empty"),
    RecordedChange(kind="lines", mode=0o644, uid=0, gid=0, path="etc/group", text="+tool:x:100:\n"),
    RecordedChange(kind="link", mode=0o777, uid=0, gid=0, path="usr/bin/t", text="tool"),
    RecordedChange(kind="same", mode=0o2755, uid=0, gid=8, path="usr/bin/tool"),
    RecordedChange(
        kind="capable", mode=0o755, uid=0, gid=0, path="usr/bin/tool2", text=capability("cap_net_raw+ep").hex()
    ),
    RecordedChange(kind="folder", mode=0o1770, uid=7, gid=8, path="var/lib/tool here"),
)
RECORDED = Recorded(
    scripts=("tool postinst sha256:1",), notes=("a note",), compiled=("usr/share/tool",), changes=CHANGES
)
TOOL = deb(
    "tool",
    [
        file("usr/bin/tool", mode=0o755),
        file("usr/bin/tool2", mode=0o755),
        file("usr/share/tool/one.py"),
        file("usr/share/other/two.py"),
    ],
    control={"postinst": "#!/bin/sh\nfrobnicate\n"},
)


@pytest.fixture
def lock() -> BaseLock:
    return replace(lock_of({"tool": TOOL}), recorded=RECORDED)


def test_a_record_lies_next_to_its_lock_and_reads_back(tmp_path: Path, lock: BaseLock) -> None:
    path = tmp_path / "runtime.amd64.packages"
    write_base_lock(path, lock)
    assert read_base_lock(path) == lock
    write_base_lock(path, replace(lock, recorded=None))
    assert not record_of(path).exists()
    assert read_base_lock(path).recorded is None


def test_it_belongs_to_these_packages_on_this_base_by_these_rules(
    lock: BaseLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = format_recorded(lock)
    other = replace(lock, packages=(replace(lock.packages[0], version="1.1"),))
    for moved in (other, replace(lock, inputs=f"sha256:{'1' * 64}"), replace(lock, arch="arm64")):
        with pytest.raises(LockError, match="recorded for other packages, another base or by other rules") as refused:
            parse_recorded(text, "x.recorded", moved)
        assert "--record-scripts" in str(refused.value.hint)
    monkeypatch.setattr("buildctl.artifacts.debian.recorded.RULES", 99)
    with pytest.raises(LockError, match="by other rules"):
        parse_recorded(text, "x.recorded", lock)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# Written", "# Made", "x.recorded:1: not a record"),
        ("file 0644", "fifo 0644", "x.recorded:16: not a line of such a record: 'fifo 0644"),
        ("etc/empty", "../empty", "clean, relative"),
        ("etc/empty", "etc/seed", "each there once"),
        ("AAH/", "AA", "malformed base64"),
        ("  |tool\n", "", "a link without a target"),
        ("  |01000002", "  |01000009", "malformed file capabilities: unknown revision"),
        ("  |01000002", "  |ton", "malformed file capabilities"),
    ],
)
def test_what_was_not_written_so_is_refused(lock: BaseLock, old: str, new: str, message: str) -> None:
    text = format_recorded(lock)
    assert old in text
    with pytest.raises(LockError, match=message):
        parse_recorded(text.replace(old, new, 1), "x.recorded", lock)


def test_only_what_changed_in_a_shared_file_is_kept() -> None:
    assert lines_between("a\nb\n", "a\nb:tool\nc\n") == "-b\n+b:tool\n+c\n"


def test_the_record_takes_the_place_of_the_scripts(tmp_path: Path, lock: BaseLock) -> None:
    runtime = tiny_base()
    paths = write_all(tmp_path, {**runtime, "tool": TOOL})
    below = lock_of(runtime)
    with pytest.raises(UnknownScriptError, match="frobnicate") as refused:
        check_scripts(replace(lock, recorded=None), lambda p: paths[p.digest], below=[below])
    assert "buildctl lock --record-scripts" in str(refused.value.hint)
    assert check_scripts(lock, lambda p: paths[p.digest], below=[below]) == ("a note",)

    entries = base_entries(lock, lambda p: paths[p.digest], below=[below], compiler=Compiled(), added=True)
    tree = {e.path: (replace(e, body=None), b"".join(e.body.chunks()) if e.body else b"") for e in entries}
    assert tree["etc/seed"][1] == b"\x00\x01\xff"
    assert tree["etc/tool.conf"][1] == b"a\n\n|b\nno end"
    assert (tree["etc/tool.conf"][0].mode, tree["etc/tool.conf"][0].uid, tree["etc/tool.conf"][0].gid) == (0o640, 7, 8)
    assert tree["etc/group"][1].endswith(b"tool:x:100:\n")
    assert tree["etc/group"][1].startswith(b"root:")
    assert (tree["usr/bin/t"][0].kind, tree["usr/bin/t"][0].target) == (Kind.SYMLINK, "tool")
    assert (tree["usr/bin/tool"][0].mode, tree["usr/bin/tool"][0].gid) == (0o2755, 8)
    assert capability_names(tree["usr/bin/tool2"][0].capability) == {"cap_net_raw"}
    assert tree["var/lib/tool here"][0].mode == 0o1770
    assert "usr/share/tool/__pycache__/one.cpython-313.pyc" in tree
    assert not [path for path in tree if path.startswith("usr/share/other/__pycache__")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            RecordedChange(kind="lines", mode=0o644, uid=0, gid=0, path="etc/group", text="-nobody knows\n"),
            "removes 'nobody kn",
        ),
        (RecordedChange(kind="same", mode=0o755, uid=0, gid=0, path="usr/bin/absent"), "that is not there"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(
    tmp_path: Path, lock: BaseLock, change: RecordedChange, message: str
) -> None:
    runtime = tiny_base()
    paths = write_all(tmp_path, {**runtime, "tool": TOOL})
    wrong = replace(lock, recorded=Recorded(changes=(change,)))
    with pytest.raises(ArtifactError, match=message):
        check_scripts(wrong, lambda p: paths[p.digest], below=[lock_of(runtime)])
