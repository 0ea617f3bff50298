"""What was compiled is not compiled again, and what is not right in the store does not get into a layer."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts import kept_bytecode
from buildctl.artifacts.bytecode import BuildPython
from buildctl.artifacts.check import check_store
from buildctl.artifacts.kept_bytecode import KeptCompiler
from buildctl.artifacts.store import Store
from buildctl.artifacts.usage import Sort, items
from buildctl.build.cache.inputs import scratch_store
from buildctl.ground.errors import EngineError

HERE = BuildPython(argv=(sys.executable,), tag=str(sys.implementation.cache_tag))
NONE = BuildPython(argv=("/nonexistent/python",), tag=HERE.tag)
SOURCES = [(f"/usr/lib/m{number}.py", f"VALUE = {number}\n".encode()) for number in range(20)]


@pytest.fixture
def compiler(tmp_path: Path) -> KeptCompiler:
    return KeptCompiler(python=HERE, identity="3.13.5-2", store=Store(tmp_path / "store"))


def compiled(sources: Sequence[tuple[str, bytes]], compiler: KeptCompiler | BuildPython) -> list[bytes | None]:
    with compiler.open() as compilation:
        for path, source in sources:
            compilation.add(path, source)
        return list(compilation.results())


def from_store(compiler: KeptCompiler) -> KeptCompiler:
    """One whose Python cannot start."""
    return replace(compiler, python=replace(NONE, tag=compiler.tag))


def packs(compiler: KeptCompiler) -> list[Path]:
    return sorted(compiler.store.root.glob("bytecode/*/*"))


def test_what_was_compiled_needs_no_python(compiler: KeptCompiler) -> None:
    expected = compiled(SOURCES, HERE)
    assert compiled(SOURCES, compiler) == expected
    assert compiled(SOURCES, from_store(compiler)) == expected
    assert compiled(SOURCES[::-1], from_store(compiler)) == expected[::-1]
    assert len(packs(compiler)) == 1


def test_only_what_is_new_is_compiled_and_kept(compiler: KeptCompiler) -> None:
    compiled(SOURCES[:10], compiler)
    mixed = [("/usr/lib/new.py", b"NEW = 1\n"), *SOURCES[5:15], ("/usr/lib/wrong.py", b"def")]
    assert compiled(mixed, compiler) == compiled(mixed, HERE)
    assert compiled([*SOURCES[:15], mixed[0]], from_store(compiler)) == compiled([*SOURCES[:15], mixed[0]], HERE)
    assert sorted(int.from_bytes(path.read_bytes()[-8:], "little") for path in packs(compiler)) == [6, 10]


def test_what_does_not_compile_has_no_bytecode(compiler: KeptCompiler) -> None:
    for _ in range(2):
        assert compiled([("/a.py", b"def")], compiler) == [None]
    assert packs(compiler) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda compiler: (compiler, [("/usr/lib/other.py", SOURCES[0][1])]),
        lambda compiler: (compiler, [(SOURCES[0][0], b"VALUE = 1000\n")]),
        lambda compiler: (replace(compiler, identity="3.13.6-1"), SOURCES[:1]),
        lambda compiler: (replace(compiler, python=replace(HERE, tag="cpython-399")), SOURCES[:1]),
    ],
    ids=["path", "source", "python", "tag"],
)
def test_everything_that_bytecode_depends_on_counts(
    compiler: KeptCompiler, change: Callable[[KeptCompiler], tuple[KeptCompiler, list[tuple[str, bytes]]]]
) -> None:
    compiled(SOURCES, compiler)
    other, sources = change(compiler)
    with pytest.raises(EngineError, match="cannot start the base's Python"):
        compiled(sources, from_store(other))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


def put_something_before_the_index(path: Path) -> None:
    data, size = path.read_bytes(), 72 * len(SOURCES) + 8
    path.write_bytes(data[:-size] + b"more" + data[-size:])


def turn_into_a_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def turn_into_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: list[Callable[[Path], object]] = [
    flip,
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(path.read_bytes()[1:]),
    lambda path: path.write_bytes(b"more" + path.read_bytes()),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\xff" * 100),
    lambda path: path.rename(path.with_name("0" * 64)),
    put_something_before_the_index,
    turn_into_a_folder,
    turn_into_a_pipe,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pack_is_told_once_and_made_again(
    compiler: KeptCompiler, damage: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = compiled(SOURCES, compiler)
    (pack,) = packs(compiler)
    whole = pack.read_bytes()
    damage(pack)
    (damaged,) = packs(compiler)
    assert check_store(compiler.store) == [f"{damaged}: it does not match its SHA-256"]
    assert compiled(SOURCES, compiler) == expected
    assert capsys.readouterr().err.splitlines() == [
        f"{damaged} was damaged: it does not match its SHA-256; the bytecode in it is made again"
    ]
    assert [path.read_bytes() for path in packs(compiler)] == [whole]
    assert check_store(compiler.store) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_pack_is_damaged_after_a_layer_that_used_it(compiler: KeptCompiler, damage: Callable[[Path], object]) -> None:
    expected = compiled(SOURCES, compiler)
    assert compiled(SOURCES, compiler) == expected  # its index is known now
    damage(packs(compiler)[0])
    assert [compiled(SOURCES, compiler) for _ in range(2)] == [expected, expected]


@pytest.mark.parametrize("reader", ["_index", "_read"])
def test_a_pack_that_cannot_be_read_now_stays(
    reader: str, compiler: KeptCompiler, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = compiled(SOURCES, compiler)
    before = packs(compiler)

    def out_of_files(*_: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(kept_bytecode, reader, out_of_files)
    assert compiled(SOURCES, compiler) == expected
    assert (packs(compiler), capsys.readouterr().err) == (before, "")


def test_a_pack_that_changes_while_a_layer_is_made_is_an_error(compiler: KeptCompiler) -> None:
    compiled(SOURCES, compiler)
    (pack,) = packs(compiler)
    with compiler.open() as compilation:
        for path, source in SOURCES:
            compilation.add(path, source)
        flip(pack)
        with pytest.raises(EngineError, match="has changed while it was read"):
            list(compilation.results())


def test_packs_under_each_others_names_are_not_used(compiler: KeptCompiler) -> None:
    expected = compiled(SOURCES, compiler)
    evil = replace(compiler, store=Store(compiler.store.root / "evil"))
    compiled([(path, b"VALUE = 'evil'\n") for path, _ in SOURCES], evil)
    (good,), (other,) = packs(compiler), packs(evil)
    shutil.copyfile(other, good)
    assert compiled(SOURCES, compiler) == expected


def test_bytecode_of_another_python_is_not_used(compiler: KeptCompiler) -> None:
    compiled(SOURCES, compiler)
    (pack,) = packs(compiler)
    other = replace(compiler, identity="3.13.6-1")
    compiled([("/x.py", b"")], other)
    folder = next(path.parent for path in packs(compiler) if path.parent != pack.parent)
    shutil.copyfile(pack, folder / pack.name)
    with pytest.raises(EngineError, match="cannot start the base's Python"):
        compiled(SOURCES, from_store(other))


def test_a_layer_that_is_signed_is_made_from_nothing_that_is_kept(compiler: KeptCompiler) -> None:
    """Whoever can write to the store can also name a forged pack by its hash."""
    compiled(SOURCES, compiler)
    (pack,) = packs(compiler)
    data = pack.read_bytes()
    forged = data[:10] + b"\xff" + data[11:]
    rows = bytearray(forged[-8 - 72 * len(SOURCES) : -8])
    rows[32:64] = hashlib.sha256(forged[: int.from_bytes(rows[64:72], "little")]).digest()
    pack.unlink()
    pack.with_name(hashlib.sha256(rows).hexdigest()).write_bytes(forged[: -8 - len(rows)] + rows + forged[-8:])
    assert compiled(SOURCES, compiler) != compiled(SOURCES, HERE)
    with scratch_store(compiler.store) as scratch:
        assert compiled(SOURCES, replace(compiler, store=scratch)) == compiled(SOURCES, HERE)


def test_packs_are_bounded_and_the_least_used_goes(compiler: KeptCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        compiled(SOURCES[number : number + 1], compiler)
    monkeypatch.setattr(kept_bytecode, "MOST", 3 * packs(compiler)[0].stat().st_size)
    compiled(SOURCES[:1], from_store(compiler))
    compiled(SOURCES[4:5], compiler)
    assert len(packs(compiler)) == 3
    compiled([SOURCES[0], SOURCES[3], SOURCES[4]], from_store(compiler))
    with pytest.raises(EngineError):
        compiled(SOURCES[1:2], from_store(compiler))


def test_a_folder_among_packs_of_another_python_stops_no_build(
    compiler: KeptCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(SOURCES, replace(compiler, identity="3.11.2-6"))
    turn_into_a_folder(packs(compiler)[0])
    monkeypatch.setattr(kept_bytecode, "MOST", 1)
    assert compiled(SOURCES, compiler) == compiled(SOURCES, HERE)


def test_a_layer_that_fails_keeps_nothing(compiler: KeptCompiler) -> None:
    with compiler.open() as compilation:
        for path, source in SOURCES:
            compilation.add(path, source)
        results = compilation.results()
        next(results)
        del results
    assert packs(compiler) == []
    assert list((compiler.store.root / "tmp").iterdir()) == []


def test_it_is_a_kind_of_its_own_on_the_disk(compiler: KeptCompiler) -> None:
    compiled(SOURCES, compiler)
    (item,) = items(compiler.store)
    assert (item.sort, item.paths) == (Sort.BYTECODE, tuple(packs(compiler)))
    assert item.size >= packs(compiler)[0].stat().st_size
