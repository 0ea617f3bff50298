from __future__ import annotations

import functools
import importlib.util
import marshal
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from buildctl.artifacts.bytecode import _COMPILE, BuildPython, pyc_path
from buildctl.ground.errors import EngineError
from tests.support.cores import free_cores

HERE = BuildPython(argv=(sys.executable,), tag=str(sys.implementation.cache_tag))
Source = tuple[str, bytes]


def compiled(sources: Sequence[Source], python: BuildPython = HERE) -> list[bytes | None]:
    with python.open() as compilation:
        for path, source in sources:
            compilation.add(path, source)
        return list(compilation.results())


def code_of(pyc: bytes | None) -> CodeType:
    assert pyc is not None
    code = marshal.loads(pyc[16:])
    assert isinstance(code, CodeType)
    return code


def test_the_file_is_an_unchecked_hash_pyc_of_the_path_inside_the_image() -> None:
    source = b"def f(): return 42\n"
    (pyc,) = compiled([("/usr/lib/x.py", source)])
    assert pyc is not None
    assert pyc[:4] == importlib.util.MAGIC_NUMBER
    assert pyc[4:8] == b"\1\0\0\0"  # PEP 552: by hash, not checked at import
    assert pyc[8:16] == importlib.util.source_hash(source)
    code = code_of(pyc)
    assert {code.co_filename, *(c.co_filename for c in code.co_consts if isinstance(c, CodeType))} == {"/usr/lib/x.py"}


def test_python_imports_it_without_looking_at_the_source(tmp_path: Path) -> None:
    (pyc,) = compiled([("/somewhere/thing.py", b"VALUE = __cached__ and 'compiled'\n")])
    assert pyc is not None
    source = tmp_path / "thing.py"
    source.write_text("VALUE = 'source'\n")
    cached = tmp_path / pyc_path("thing.py", HERE.tag)
    cached.parent.mkdir()
    cached.write_bytes(pyc)
    found = subprocess.run(
        [sys.executable, "-c", "import thing; print(thing.VALUE)"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "compiled"


def test_files_that_do_not_compile_have_no_bytecode() -> None:
    bad = [b"print 'two'\n", b"\xff\xfe", b"a = '\0'", b"# coding: nonsense\n", b"(" * 500 + b")" * 500]
    results = compiled([*((f"/bad{i}.py", s) for i, s in enumerate(bad)), ("/good.py", b"")])
    assert [r is None for r in results] == [*([True] * len(bad)), False]


def test_results_come_in_the_order_of_the_sources() -> None:
    sources = [(f"/m{i}.py", b"x = %d\n" % i) for i in range(300)]
    assert [code_of(r).co_filename for r in compiled(sources)] == [path for path, _ in sources]


def test_several_processes_share_the_sources_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Path(os.__file__).parent
    sources = [(f"/lib/{f.name}", f.read_bytes()) for f in sorted(library.glob("*.py"))[:20]]
    monkeypatch.setattr("buildctl.artifacts.bytecode._ENOUGH", 10_000)
    seen, popen = {}, subprocess.Popen
    for cores in (1, 3):
        started: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr("os.cpu_count", lambda cores=cores: cores)
            patch.setattr("subprocess.Popen", lambda *a, n=started, **k: (n.append(1), popen(*a, **k))[1])
            seen[cores] = compiled(sources)
        assert len(started) == cores
    assert seen[3] == seen[1]
    assert [code_of(r).co_filename for r in seen[3]] == [path for path, _ in sources]


@pytest.mark.parametrize(("at_once", "later", "waiting", "all_in_all"), [(0, 0, 0, 1), (1, 0, 1, 2), (0, 1, 0, 2)])
def test_a_process_has_a_processor_of_its_own_or_that_of_who_waits(
    at_once: int, later: int, waiting: int, all_in_all: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`later` become free when every source is there."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("buildctl.artifacts.bytecode._FEW", 0)
    started, popen = list[int](), subprocess.Popen
    monkeypatch.setattr("subprocess.Popen", lambda *a, n=started, **k: (n.append(1), popen(*a, **k))[1])
    sources = [(f"/m{i}.py", b"x = [\n" + b"    'some text',\n" * 20_000 + b"]\n") for i in range(8)]
    with free_cores(at_once) as cores:
        with HERE.open() as compilation:
            for path, source in sources:
                compilation.add(path, source)
            assert len(started) == waiting
            for _ in range(later):
                cores.give()
            found = list(compilation.results())
        assert [cores.take() for _ in range(at_once + later + 1)] == [*[True] * (at_once + later), False]
    assert len(started) == all_in_all
    assert found == compiled(sources)


# What one file leaves interned, the next one finds, in each of the ways that show in marshal's bytes (Python 3.13).
NESTED = b"class A:\n    class B:\n        pass\n"
NAMES = b"def f(x): return x in {'quokka', 'wombat'}\ndef g(x): return x in {'quokka', 'wombat'} or 5\n"
LEFT = b"import A.B, A.B.C\ndef f(x): return x.quokka.wombat\n"
# the last three are what looking at the text does not find
TRAPS = [
    ("/n.py", b"\n" + NESTED),
    ("/s.py", NAMES),
    ("/l.py", LEFT),
    ("/b.py", b"\n" + NESTED + NAMES),
    ("/first.py", NESTED),
    ("/spaces.py", NAMES.replace(b"in {", b"in  {")),
    ("/deep.py", NESTED.replace(b"pass", b"class C:\n            pass")),
]
ORDERS = [
    [0, 1, 2, 3],
    [3, 2, 1, 0],
    [2, 4, 5, 6, 0, 1, 3],
    [2, 3, 1, 0],
    [6, 1, 5, 3, 0, 2, 4],
    [0, 0, 1, 1, 4, 4, 5, 5, 6, 6],
]


@functools.cache
def alone(number: int) -> bytes | None:
    return compiled([TRAPS[number]])[0]


@pytest.mark.parametrize("order", ORDERS)
def test_bytes_do_not_depend_on_what_was_compiled_before(order: list[int]) -> None:
    assert compiled([TRAPS[i] for i in order]) == [alone(i) for i in order]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"x in {'a1', \"b_2\"}", ["a1", "b_2"]),
        (b"x not in{'one'}", ["one"]),
        (b"S = {'one', 'two', 'three'}", ["one", "two", "three"]),
        (b"S = {\n    'one',\n    'two words',\n}", ["one"]),
        (b"D = {'one': 1, 'two': 2}", []),
        (b"f'{x}'; '{'; {", []),
        (b"", []),
    ],
)
def test_the_names_of_sets_are_found_in_the_text(source: bytes, words: list[str]) -> None:
    assert looking("words_by_sets", source) == words


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (b"\nclass A(X):\n    class B:\n        pass\n    class C(Y, z=1): pass\n", ["A.B", "A.C"]),
        (b"\nclass A: pass\nclass B(A):\n  class C: pass\n", ["B.C"]),
        (b"def f():\n    class C: pass\n", []),
        (b"\nclass A: pass\n", []),
    ],
)
def test_the_names_of_classes_in_classes_are_found_in_the_text(source: bytes, names: list[str]) -> None:
    assert looking("classes_in_classes", source) == names


@pytest.mark.parametrize("piece", [b"  class ", b"\nclass ", b"{'", b'{"', b"{\n"])
def test_looking_takes_time_by_the_length_of_the_text(piece: bytes) -> None:
    source = piece * ((1 << 21) // len(piece))  # quadratic, it would take hours
    assert looking("words_by_sets", source) == looking("classes_in_classes", source) == []


def looking(function: str, source: bytes) -> object:
    """What looks at the text, as it runs in the image's Python."""
    module = ModuleType("looking")
    module.__dict__["sys"] = sys
    exec(_COMPILE[_COMPILE.index("def words_by_sets") : _COMPILE.index("while lengths")], module.__dict__)
    return getattr(module, function)(source)


def test_bytes_of_real_code_do_not_depend_on_batches() -> None:
    library = Path(os.__file__).parent
    files = [*sorted(library.glob("*.py"))[:20], *sorted((library / "email").glob("*.py"))[:8]]
    sources = [(f"/lib/{f.name}", f.read_bytes()) for f in files]
    together = compiled(sources)
    assert compiled(sources[::-1]) == together[::-1]
    assert [r for at in range(0, len(sources), 13) for r in compiled(sources[at : at + 13])] == together


def test_bytes_do_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = compiled(TRAPS)
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("LC_ALL", "POSIX")
    monkeypatch.chdir(tmp_path)
    assert compiled(TRAPS) == expected


def test_much_more_than_a_pipe_holds_passes_without_anyone_reading() -> None:
    source = b"x = [\n" + b"    'some text',\n" * 20_000 + b"]\n"
    results = compiled([(f"/big{i}.py", source) for i in range(4)])
    assert all(results)


def test_a_python_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EngineError, match="cannot start the base's Python: /nonexistent/python"):
        compiled([], BuildPython(argv=("/nonexistent/python",), tag=""))


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.stdin.buffer.read(); sys.exit('no space left')", "failed with 1.*no space left"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", f"failed with -{signal.SIGKILL.value}"),
        ("import sys; sys.stdin.buffer.read()", "returned too little bytecode"),
        ("pass", "returned too little bytecode"),
    ],
)
def test_a_python_that_fails_is_an_error(program: str, said: str) -> None:
    broken = BuildPython(argv=(sys.executable, "-c", program), tag="")
    with pytest.raises(EngineError, match=f"(?s){said}"):
        compiled([(f"/{name}.py", b"x = 1\n" * 100_000) for name in "xyz"], broken)


def test_nothing_keeps_running_when_the_layer_fails() -> None:
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    python = BuildPython(argv=(sys.executable, "-c", program), tag="")
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if not children.exists():
        pytest.skip("NOT RUN: this kernel does not list children")
    before = children.read_text()
    with pytest.raises(ZeroDivisionError), python.open() as compilation:  # noqa: PT012 - what fails is the block
        compilation.add("/x.py", b"x" * 1_000_000)
        assert children.read_text() != before
        raise ZeroDivisionError
    assert children.read_text() == before


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/b.py", "a/__pycache__/b.cpython-313.pyc"),
        ("b.py", "__pycache__/b.cpython-313.pyc"),
        ("a/b.c.py", "a/__pycache__/b.c.cpython-313.pyc"),
    ],
)
def test_where_bytecode_lies(source: str, expected: str) -> None:
    assert pyc_path(source, "cpython-313") == expected
    if HERE.tag == "cpython-313":
        assert importlib.util.cache_from_source(source) == expected
