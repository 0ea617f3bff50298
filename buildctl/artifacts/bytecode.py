"""Bytecode for a layer, made by the image's own Python in processes that are fed while the layer is written.

The files are what `compileall --invalidation-mode unchecked-hash` writes: they do not depend on time stamps and are not
checked at import. The bytes depend on the Python, on the path inside the image and on the source, on nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Protocol

from buildctl.ground.cores import SHARED
from buildctl.ground.errors import EngineError
from buildctl.oci.files import full_disk

_NONE = 0xFFFFFFFF  # a length: this file has no bytecode
_DEADLINE = 600.0  # seconds for the rest of a layer after its last source
_ENOUGH = 2 << 20  # bytes of source, about 0.2 s of work, for which another process is worth its start
_FEW = 100  # files for which it is not
_TICK = 0.05  # seconds between looks for a free processor

# Runs in the image's Python. Per file: lengths of path and source, path, source in; length and bytecode out.
# What else the process has compiled would show in the bytes, for it leaves names interned. Where the compiler meets
# - the qualified name of a class in a class, which it interns, the class body's constant is that same object only when
#   no other file has imported a module of that name (`A.B`), and marshal writes the two cases differently;
# - a set of names (`x in {"a", "b"}`), it makes a copy per function when one of the names is not new.
# So the words in quotes of a file with such sets, and the names of its classes in classes, are interned before it is
# compiled, and a file that still has one of these is compiled again while its own names are interned: then no name is
# new, ever. What is interned in vain does no harm. No `re`: importing it takes 50 ms, because the unpacked standard
# library has no bytecode.
# The garbage collector is off: code has no cycles, and it would only cost time.
_COMPILE = """
import gc, marshal, posix, struct, sys
from importlib.util import MAGIC_NUMBER, source_hash
from types import CodeType
gc.disable()

def failed(kind, error, trace):
    if getattr(error, "errno", 0) in (28, 122):
        posix._exit(28)
    sys.stderr.write(f"{kind.__name__}: {error}\\n")

sys.excepthook = failed
take, give = sys.stdin.buffer, sys.stdout.buffer
head = MAGIC_NUMBER + (1).to_bytes(4, "little")

def words_by_sets(source):
    if not has_sets(source):
        return []
    pieces = source.replace(b"'", b'"').split(b'"')
    return [sys.intern(p.decode()) for p in pieces if p.replace(b"_", b"a").isalnum()]

def has_sets(source):
    if b"in {" in source or b"in{" in source:
        return True
    for start in (b'{"', b"{'", b"{\\n"):
        at = source.find(start)
        while at >= 0:
            item = source[at + 1 : at + 100].lstrip()
            if item[:1] in (b'"', b"'") and item[1:].partition(item[:1])[2][:1] == b",":
                return True
            at = source.find(start, at + 2)
    return False

def classes_in_classes(source):
    if b"  class " not in source:
        return []
    found = []
    for part in source.split(b"\\nclass ")[1:]:
        outer, *inner = (text[:100].replace(b"(", b":").partition(b":")[0] for text in part.split(b"  class "))
        found += [sys.intern(f"{outer.decode('latin-1')}.{name.decode('latin-1')}") for name in inner]
    return found

def compiled(path, source):
    return compile(source, path, "exec", dont_inherit=True, optimize=0)

def may_differ(code, known):
    name = code.co_qualname
    for value in code.co_consts:
        kind = type(value)
        if kind is CodeType:
            if may_differ(value, known):
                return True
        elif value is name:
            if "<" not in name and not is_interned(name):
                return True
        elif kind is frozenset:
            if any(type(v) is str and v not in known and is_interned(v) for v in value):
                return True
    return False

def is_interned(text):
    # by the compiler where it is a constant: all_name_chars() in Objects/codeobject.c; single characters always are
    return len(text) > 1 and text.isascii() and text.replace("_", "a").isalnum()

def bytecode(path, source):
    words, names = set(words_by_sets(source)), classes_in_classes(source)
    code = compiled(path, source)
    if may_differ(code, words):
        first, code = code, compiled(path, source)
    return head + source_hash(source) + marshal.dumps(code)

while lengths := take.read(8):
    n_path, n_source = struct.unpack("<2L", lengths)
    path, source = take.read(n_path).decode(), take.read(n_source)
    try:
        data = bytecode(path, source)
    except (SyntaxError, ValueError, RecursionError, OverflowError):
        give.write(b"\\xff\\xff\\xff\\xff")
    else:
        give.write(struct.pack("<L", len(data)))
        give.write(data)
give.flush()
"""
DEPENDS_ON = hashlib.sha256(_COMPILE.encode()).hexdigest()  # what bytecode depends on besides Python, path and source


class Compilation(Protocol):
    """Bytecode of the files of one layer."""

    def add(self, path: str, source: bytes) -> None:
        """Hand over a file; `path` is its absolute path inside the image. Does not wait."""
        ...

    def results(self) -> Iterator[bytes | None]:
        """The content of a .pyc per file added, in that order; None for one that does not compile. Nothing can be
        added afterwards.
        """
        ...


class Compiler(Protocol):
    @property
    def tag(self) -> str:
        """The middle of a file name in `__pycache__`: `cpython-313`."""
        ...

    def open(self) -> AbstractContextManager[Compilation]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPython:
    """The Python of a base, as a program of this machine: `argv` and `env` start it."""

    argv: tuple[str, ...]
    tag: str
    env: Mapping[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        # no site, no user site, no script folder on the path, no .pyc written, no warnings about other people's code
        return [*self.argv, "-S", "-s", "-P", "-B", "-W", "ignore", "-c", _COMPILE]

    @contextlib.contextmanager
    def open(self) -> Iterator[Compilation]:
        """Raises EngineError if the Python cannot start or fails."""
        with contextlib.ExitStack() as stack:
            yield _Compilation(lambda queue: stack.enter_context(self._process(queue)))

    @contextlib.contextmanager
    def _process(self, queue: SimpleQueue[_Source | None]) -> Iterator[_Process]:
        # files and not pipes at the far end: nobody has to read while the layer is written, and memory stays small
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = subprocess.Popen(
                    self.command(),
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=err,
                    env={**self.env, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise EngineError(f"cannot start the base's Python: {self.argv[0]}: {error}") from error
            running = _Process(process, queue, out, err)
            try:
                yield running
            finally:
                running.stop()


class _Compilation:
    """Files wait in one queue until a process takes them. With a processor to spare, one starts when there is something
    to do; without, when the layer waits for the result, and needs none itself.
    """

    def __init__(self, start: Callable[[SimpleQueue[_Source | None]], _Process]) -> None:
        self._start = start
        self._queue = SimpleQueue[_Source | None]()
        self._cores = SHARED.get()
        self._processes: list[_Process] = []
        self._count = self._size = 0

    def add(self, path: str, source: bytes) -> None:
        self._queue.put(_Source(self._count, path, source))
        self._count += 1
        self._size += len(source)
        if self._size > _ENOUGH * len(self._processes):
            self._start_if_free()

    def _start_if_free(self) -> None:
        most = os.cpu_count() or 1
        if len(self._processes) < most and self._cores.take():
            self._processes.append(self._start(self._queue))

    def results(self) -> Iterator[bytes | None]:
        own = None  # instead of this one, which has nothing to do meanwhile
        if not self._processes or self._queue.qsize() > _FEW:
            own = self._start(self._queue)
            self._processes.append(own)
        self._queue.put(None)
        deadline = time.monotonic() + _DEADLINE
        while not all(process.wait(_TICK) for process in self._processes):
            if time.monotonic() > deadline:
                raise EngineError(f"the base's Python did not finish compiling within {_DEADLINE:g} s")
            if self._queue.qsize() > _FEW:
                self._start_if_free()
        for process in self._processes:
            process.finish()
            if process is not own:
                self._cores.give()
        takers = {number: process for process in self._processes for number in process.given}
        if len(takers) < self._count:
            raise _too_little()
        for number in range(self._count):
            yield takers[number].next()


@dataclass(frozen=True, slots=True)
class _Source:
    number: int
    path: str
    data: bytes

    def sent(self) -> bytes:
        name = self.path.encode()
        return len(name).to_bytes(4, "little") + len(self.data).to_bytes(4, "little") + name + self.data


class _Process:
    """Takes from `queue` until that is None, which it leaves to the others; `given` are the numbers of what it took."""

    def __init__(
        self, process: subprocess.Popen[bytes], queue: SimpleQueue[_Source | None], out: IO[bytes], err: IO[bytes]
    ) -> None:
        assert process.stdin is not None  # noqa: S101 - PIPE was asked for
        self._process, self._stdin, self._out, self._err = process, process.stdin, out, err
        self._queue = queue
        self.given: list[int] = []
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    def _feed(self) -> None:
        # a broken pipe is the process's failure, which its exit status tells
        with contextlib.suppress(OSError):
            while (source := self._queue.get()) is not None:
                self.given.append(source.number)
                self._stdin.write(source.sent())
        self._queue.put(None)
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._process.wait()  # without a deadline, with which Python looks whether it has ended every 50 ms

    def next(self) -> bytes | None:
        """The bytecode of the next file that it was given, after `finish`."""
        length = int.from_bytes(self._read(4), "little")
        return None if length == _NONE else self._read(length)

    def _read(self, length: int) -> bytes:
        data = self._out.read(length)
        if len(data) != length:
            raise _too_little()
        return data

    def wait(self, seconds: float) -> bool:
        """Whether all is compiled."""
        self._feeder.join(seconds)
        return not self._feeder.is_alive()

    def finish(self) -> None:
        """After `wait`. Raises EngineError."""
        status = self._process.returncode
        if status == errno.ENOSPC:
            raise full_disk(Path(tempfile.gettempdir()))
        if status:
            self._err.seek(0)
            said = self._err.read()[-2000:].decode(errors="replace").strip()
            raise EngineError(
                f"the base's Python failed with {status} while compiling" + (f":\n{said}" if said else "")
            )
        self._out.seek(0)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._queue.put(None)
        self._feeder.join()


def _too_little() -> EngineError:
    return EngineError("the base's Python returned too little bytecode")


def pyc_path(source: str, tag: str) -> str:
    """`a/b.py` -> `a/__pycache__/b.cpython-313.pyc` (PEP 3147)."""
    folder, slash, name = source.rpartition("/")
    return f"{folder}{slash}__pycache__/{Path(name).stem}.{tag}.pyc"
