from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import Tag

from buildctl.ground.errors import LockError
from buildctl.lock.uv import Found, best, supported_tags
from buildctl.lock.wheels import (
    LockedWheel,
    WheelLock,
    changes,
    format_wheel_lock,
    inputs_of,
    is_stale,
    parse_wheel_lock,
    read_wheel_lock,
    refuse_another_build,
    write_wheel_lock,
)
from buildctl.matrix.cells import Cell
from buildctl.matrix.read import load_matrix
from buildctl.oci.digest import Digest

ROOT = Path(__file__).parents[3]
CELLS = load_matrix(ROOT / "matrix.yaml").cells
CELL = next(cell for cell in CELLS if cell.id == "cuda-2.6-amd64")


def wheel(name: str, version: str, tag: str = "py3-none-any") -> LockedWheel:
    filename = f"{name.replace('-', '_')}-{version}-{tag}.whl"
    return LockedWheel(name=name, version=version, filename=filename, size=7, digest=Digest.of(filename.encode()))


PINS = {
    "nvidia-x": "1",
    "numpy": "2.2.6",
    "pip": "26.3",
    "torch": "2.6.0",
    "torchaudio": "2.6.0",
    "torchvision": "0.21.0",
}
LOCK = WheelLock(
    name="cuda-2.6",
    platform="linux/amd64",
    python="3.13",
    inputs=inputs_of(CELL),
    wheels=tuple(wheel(name, version) for name, version in sorted(PINS.items())),
)


# The committed locks.


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
def test_every_default_cell_is_locked_fresh_and_true(cell: Cell) -> None:
    lock = read_wheel_lock(ROOT / "images" / cell.name / f"requirements.{cell.arch}.txt")
    assert is_stale(cell, lock) is None
    refuse_another_build(cell, lock.wheels)


@pytest.mark.parametrize("path", sorted((ROOT / "images").glob("*/requirements.*.txt")), ids=lambda p: p.parent.name)
def test_a_committed_lock_is_in_canonical_form_and_names_no_host(path: Path) -> None:
    text = path.read_text()
    assert format_wheel_lock(read_wheel_lock(path)) == text
    assert "://" not in text
    assert "/" not in text.replace("# platform: linux/", "").replace("# platform: darwin/", "")


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
def test_every_locked_wheel_fits_its_platform(cell: Cell) -> None:
    for locked in read_wheel_lock(ROOT / "images" / cell.name / f"requirements.{cell.arch}.txt").wheels:
        found = Found(
            name=locked.name,
            version=locked.version,
            filename=locked.filename,
            url="",
            size=locked.size,
            digest=locked.digest,
        )
        assert best([found], python=cell.python, platform=cell.platform) == found


# The file.


def test_a_lock_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "images" / "cuda-2.6" / "requirements.amd64.txt"
    write_wheel_lock(path, LOCK)
    assert read_wheel_lock(path) == LOCK
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_lock_says_when_its_newest_wheel_was_uploaded(tmp_path: Path) -> None:
    write_wheel_lock(tmp_path / "x", replace(LOCK, newest=1_794_897_324))
    assert "\n# newest: 2026-11-17T06:35:24Z\n" in (tmp_path / "x").read_text()
    assert read_wheel_lock(tmp_path / "x").newest == 1_794_897_324
    write_wheel_lock(tmp_path / "x", LOCK)  # an index that does not tell, or an earlier buildctl
    assert "newest" not in (tmp_path / "x").read_text()


def test_writing_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write_wheel_lock(tmp_path / "x", LOCK)
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_wheel_lock(path, LOCK)

    def fail(self: Path, target: Path) -> Path:
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_wheel_lock(path, replace(LOCK, wheels=LOCK.wheels[:1]))
    assert read_wheel_lock(path) == LOCK
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_lock_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="does not exist") as caught:
        read_wheel_lock(tmp_path / "x")
    assert caught.value.hint == "run `buildctl lock`"


TEXT = format_wheel_lock(LOCK)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# name: cuda-2.6\n", "", "x: the header lacks name"),
        ("# python: 3.13\n", "# python: 3.13\n# python: 3.13\n", "x:5: python is given twice"),
        ("# python: 3.13\n", "# python: 3.13\n# newest: 2026-11-17\n", "x: newest is not a time: '2026-11-17'"),
        (str(LOCK.inputs), "sha256:12", "x: inputs is not a sha256 digest"),
        ("numpy==2.2.6 --hash", "numpy==2.2.7 --hash", "is not numpy==2.2.7"),
        ("numpy==2.2.6 --hash", "Numpy==2.2.6 --hash", "x:9: unexpected"),
        ("numpy==2.2.6 --hash", "-e numpy==2.2.6 --hash", "x:9: unexpected"),
        ("numpy==2.2.6 --hash=sha256:", "numpy==2.2.6 --hash=sha512:", "x:9: unexpected"),
        ("# numpy-2.2.6-py3-none-any.whl 7\n", "", "unexpected"),
        ("# numpy-2.2.6-py3-none-any.whl 7\n", "# numpy-2.2.6-py3-none-any.whl 0\n", "unexpected"),
        ("# numpy-2.2.6-py3-none-any.whl 7\n", "# numpy-2.2.6-py3-any.whl 7\n", "x:9: Invalid wheel filename"),
        ("# numpy-2.2.6-py3", "--extra-index-url=http://x.invalid\n# numpy-2.2.6-py3", "x:8: unexpected"),
    ],
)
def test_an_edited_lock_is_refused_with_its_line(old: str, new: str, message: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(LockError) as caught:
        parse_wheel_lock(TEXT.replace(old, new), "x")
    assert message in caught.value.message


def test_a_wheel_given_twice_or_out_of_order_is_refused() -> None:
    for wheels in ((LOCK.wheels[0], LOCK.wheels[0]), (LOCK.wheels[1], LOCK.wheels[0])):
        with pytest.raises(LockError, match="listed twice or out of order"):
            parse_wheel_lock(format_wheel_lock(replace(LOCK, wheels=wheels)), "x")


def test_a_lock_that_was_cut_off_is_refused() -> None:
    lines = TEXT.splitlines(keepends=True)
    for end in range(len(lines)):
        with pytest.raises(LockError):
            parse_wheel_lock("".join(lines[:end]), "x")


def test_a_wheel_removed_by_hand_is_noticed() -> None:
    start, end = TEXT.index("# nvidia_x"), TEXT.index("# pip-")
    with pytest.raises(LockError, match="its header has 6 wheels, the file 5"):
        parse_wheel_lock(TEXT[:start] + TEXT[end:], "x")


@given(st.text(alphabet=st.sampled_from(list("#= \n-abct.0126:/")), max_size=60), st.integers(0, len(TEXT)))
def test_whatever_is_put_into_a_lock_never_raises_anything_but_lock_error(text: str, at: int) -> None:
    try:
        lock = parse_wheel_lock(TEXT[:at] + text + TEXT[at:], "x")
    except LockError:
        return
    assert all(len(w.digest.hex) == 64 for w in lock.wheels)


# Freshness.


def test_a_fresh_lock_is_not_stale() -> None:
    assert is_stale(CELL, LOCK) is None


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (replace(CELL, name="cuda-2.7"), "it is for cuda-2.6 on linux/amd64"),
        (replace(CELL, arch="arm64"), "it is for cuda-2.6 on linux/amd64"),
        (replace(CELL, python="3.14"), "it is for Python 3.13, the matrix has 3.14"),
        (
            replace(CELL, requirements=(*CELL.requirements, "scipy")),
            "the matrix asks for scipy, which the lock lacks",
        ),
        (replace(CELL, requirements=("torch==2.6.1",)), "the matrix asks for torch==2.6.1, the lock has 2.6.0"),
        (replace(CELL, requirements=("torch==2.6.0",)), "matrix.yaml changed after it was written (packages or index)"),
        (
            replace(CELL, accelerator=replace(CELL.accelerator, index="https://index.example.invalid/simple")),
            "matrix.yaml changed after it was written (packages or index)",
        ),
    ],
)
def test_a_stale_lock_says_why(cell: Cell, reason: str) -> None:
    assert is_stale(cell, LOCK) == reason


def test_the_flavour_and_the_base_do_not_make_a_wheel_lock_stale() -> None:
    devel = next(cell for cell in CELLS if cell.id == "cuda-2.6-devel-amd64")
    assert is_stale(devel, LOCK) is None
    assert devel.name == CELL.name  # by which the lock is found


def test_a_wheel_swapped_by_hand_is_stale_although_the_inputs_agree() -> None:
    wheels = tuple(wheel("torch", "2.10.0") if w.name == "torch" else w for w in LOCK.wheels)
    assert is_stale(CELL, replace(LOCK, wheels=wheels)) == "the matrix asks for torch==2.6.0, the lock has 2.10.0"


def test_changes_are_told_by_package() -> None:
    new = replace(LOCK, wheels=(wheel("numpy", "2.6.0"), replace(wheel("pip", "26.3"), size=8), wheel("zlib", "1")))
    assert changes(LOCK, new) == (
        *("~ numpy 2.2.6 -> 2.6.0", "- nvidia-x 1", "~ pip 26.3: another file (pip-26.3-py3-none-any.whl)"),
        *("- torch 2.6.0", "- torchaudio 2.6.0", "- torchvision 0.21.0", "+ zlib 1"),
    )
    assert changes(LOCK, LOCK) == ()
    assert changes(None, replace(LOCK, wheels=LOCK.wheels[:1])) == ("+ numpy 2.2.6",)


# Tags.


def found(filename: str) -> Found:
    name, version = filename.split("-")[:2]
    return Found(name=name, version=version, filename=filename, url="", size=1, digest=Digest.of(b""))


@pytest.mark.parametrize(
    ("platform", "worse", "better"),
    [
        ("linux/amd64", "a-1-py3-none-any.whl", "a-1-cp313-cp313-manylinux1_x86_64.whl"),
        ("linux/amd64", "a-1-cp313-cp313-manylinux_2_17_x86_64.whl", "a-1-cp313-cp313-manylinux_2_28_x86_64.whl"),
        ("linux/amd64", "a-1-cp312-abi3-manylinux_2_28_x86_64.whl", "a-1-cp313-cp313-manylinux2014_x86_64.whl"),
        ("linux/arm64", "a-1-py3-none-manylinux2014_aarch64.whl", "a-1-py3-none-manylinux_2_18_aarch64.whl"),
        ("darwin/arm64", "a-1-cp313-none-macosx_11_0_arm64.whl", "a-1-cp313-none-macosx_14_0_arm64.whl"),
    ],
)
def test_the_most_specific_wheel_is_best(platform: str, worse: str, better: str) -> None:
    for candidates in ([found(worse), found(better)], [found(better), found(worse)]):
        assert best(candidates, python="3.13", platform=platform).filename == better


@pytest.mark.parametrize(
    ("platform", "filename"),
    [
        ("linux/amd64", "a-1-cp313-cp313-manylinux_2_28_aarch64.whl"),
        ("linux/amd64", "a-1-cp313-cp313-manylinux_2_41_x86_64.whl"),
        ("linux/amd64", "a-1-cp313-cp313-musllinux_1_2_x86_64.whl"),
        ("linux/amd64", "a-1-cp313-cp313t-manylinux_2_28_x86_64.whl"),
        ("linux/amd64", "a-1-cp312-cp312-manylinux_2_28_x86_64.whl"),
        ("linux/arm64", "a-1-py3-none-manylinux1_aarch64.whl"),
        ("darwin/arm64", "a-1-cp313-cp313-macosx_15_0_arm64.whl"),
        ("linux/amd64", "b-1-py3-none-any.whl"),
        ("linux/amd64", "a-2-py3-none-any.whl"),
        ("linux/amd64", "a-1.tar.gz"),
    ],
)
def test_a_wheel_that_does_not_fit_is_refused(platform: str, filename: str) -> None:
    candidate = replace(found("a-1-py3-none-any.whl"), filename=filename)
    with pytest.raises(LockError, match="a==1"):
        best([candidate], python="3.13", platform=platform)


def test_the_tags_are_those_of_cpython_there() -> None:
    amd64, arm64 = supported_tags("3.13", "linux/amd64"), supported_tags("3.13", "linux/arm64")
    assert amd64[0] == Tag("cp313", "cp313", "manylinux_2_40_x86_64")
    assert Tag("py3", "none", "manylinux_2_18_x86_64") in amd64
    assert Tag("cp312", "abi3", "manylinux_2_27_aarch64") in arm64
    assert Tag("py3", "none", "any") in arm64
    assert len(set(amd64)) == len(amd64)
