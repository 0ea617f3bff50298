"""A wheel, or a fixed group of wheels, as the entries of one layer, with nothing installed anywhere."""

from __future__ import annotations

import csv
import hashlib
import io
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from buildctl.artifacts.bytecode import Compilation, Compiler, pyc_path
from buildctl.artifacts.facts import HASH, KnownFile
from buildctl.artifacts.wheels.shared import asked_by, by_place, harmless, notes_of, refused
from buildctl.artifacts.wheels.wheel import DeflatedFile, Placed, Site, Wheel, read_wheel, record_digest
from buildctl.ground.errors import ArtifactError
from buildctl.oci.entry import Body, Bytes, Entry, directory_entry, file_entry

INSTALLER = b"buildctl\n"
_MAX_SOURCE = 16 << 20  # bytes; a larger .py file is data, and stays without bytecode


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelFile:
    """A wheel on disk, under any name, and its file name in the lock."""

    path: Path
    filename: str


def wheel_entries(path: Path, *, filename: str, site: Site, bytecode: Compiler | None) -> Iterator[Entry]:
    """`group_entries` for one wheel."""
    return group_entries([WheelFile(path=path, filename=filename)], site=site, bytecode=bytecode)


def group_entries(wheels: Sequence[WheelFile], *, site: Site, bytecode: Compiler | None) -> Iterator[Entry]:
    """The entries of the layer that holds `wheels`, the same whatever order they come in.

    Directories are first, then Python sources, which the compiler works on while the other files pass, then these, and
    last the bytecode and what an installer adds. A package's own tests get none: Python compiles what is imported of
    them. Of a file that several wheels bring, the first wheel's is kept.
    Bodies can be read for as long as the wheels are there. Raises ArtifactError naming wheel and member.
    """
    parsed = [read_wheel(w.path, filename=w.filename, site=site) for w in wheels]
    parsed.sort(key=lambda w: (w.name, w.label))
    files, _ = _merged(parsed, site)
    folders = _folders(files)
    yield from (directory_entry(path) for path in sorted(folders))
    compiled: dict[str, str] = {}
    dropped: set[str] = set()  # a wheel's own bytecode would be of another compiler
    if bytecode is None:
        yield from (file.entry() for file in files.values())
    else:
        sources = {path: file for path, file in files.items() if _is_source(file, site)}
        pyc = {p: pyc_path(p, bytecode.tag) for p in sources}
        dropped.update(pyc.values())
        used = {path: file for path, file in sources.items() if not _is_of_tests(path, site)}
        with bytecode.open() as compilation:
            yield from (_source(file, compilation) for file in used.values())
            yield from (file.entry() for path, file in files.items() if path not in used and path not in dropped)
            for path, data in zip(used, compilation.results(), strict=True):
                if data is not None:
                    if (folder := posixpath.dirname(pyc[path])) not in folders:
                        folders.add(folder)
                        yield directory_entry(folder)
                    compiled[path] = pyc[path]
                    yield file_entry(pyc[path], data)
    for wheel in parsed:
        yield from _installed(wheel, site, compiled, dropped)


def estimated_work(wheels: Iterable[tuple[str, int]]) -> int:
    """How long a layer of wheels (file name, size in bytes) takes, in bytes of a wheel of libraries.

    Compiling makes a pure Python wheel as much work as one of libraries that is 50 times its size (measured: sympy,
    6 MB, takes half as long as cudnn, 665 MB). Used to start the longest first.
    """
    return sum(size * (50 if name.endswith("-none-any.whl") else 1) for name, size in wheels)


def refuse_overlaps(
    wheels: Iterable[WheelFile], *, site: Site, known: Iterable[Sequence[KnownFile]] = ()
) -> tuple[str, ...]:
    """What is odd about `wheels` and harmless, for people. Raises ArtifactError if two of them, or of the layers whose
    files are `known`, would install files at the same path that differ so that it matters.
    """
    parsed = [read_wheel(w.path, filename=w.filename, site=site) for w in wheels]
    merged, notes = _merged(parsed, site)
    _refuse_known(merged, known, site)
    return (*(note for wheel in parsed for note in wheel.notes), *notes)


def _refuse_known(merged: Mapping[str, Placed], known: Iterable[Sequence[KnownFile]], site: Site) -> None:
    """Layers of which only the list of files is here: whether two sources are the same code, nobody can tell."""
    there: dict[str, Placed | KnownFile] = dict(merged)
    for file in (file for files in known for file in files):
        other = there.setdefault(file.path, file)
        if other is not file and not _same(file, other) and not by_place(file.path, site):
            raise ArtifactError(
                f"{_both(file, other)} would install different files at /{file.path}",
                hint="lock versions that fit together; if they differ in comments alone, build with --no-cache-from",
            )
    for folder in sorted(_folders(there) & there.keys()):
        below = next(file for path, file in there.items() if path.startswith(f"{folder}/"))
        raise ArtifactError(
            f"{_both(there[folder], below)}: /{folder} would be both a file and the folder of /{below.path}",
            hint="lock versions that fit together",
        )


def _merged(wheels: Sequence[Wheel], site: Site) -> tuple[dict[str, Placed], list[str]]:
    """The files of all wheels by path, sorted, the first wheel's where several have one, and what to say of those."""
    merged: dict[str, Placed] = {}
    shared: list[tuple[Placed, Placed]] = []
    for wheel in wheels:
        for file in wheel.files:
            other = merged.setdefault(file.path, file)
            if other is not file and not _same(file, other):
                if file.label == other.label or not harmless(other, file, site):
                    raise refused(file, other, wheels)
                shared.append((other, file))
    for folder in sorted(_folders(merged) & merged.keys()):
        below = next(file for path, file in merged.items() if path.startswith(f"{folder}/"))
        raise ArtifactError(
            f"{_both(merged[folder], below)}: /{folder} would be both a file and the folder of /{below.path}",
            hint="; ".join(asked_by(w, wheels) for w in wheels if w.label in {merged[folder].label, below.label}),
        )
    return dict(sorted(merged.items())), notes_of(shared, site)


def _both(a: Placed | KnownFile, b: Placed | KnownFile) -> str:
    return a.label if a.label == b.label else " and ".join(sorted((a.label, b.label)))


def _same(a: Placed | KnownFile, b: Placed | KnownFile) -> bool:
    """Whether two wheels bring the same file. Contents are read: RECORD could lie about the dropped one."""
    if a.label == b.label or (a.size, a.executable) != (b.size, b.executable):
        return False
    return _content(a) == _content(b)


def _content(file: Placed | KnownFile) -> str:
    if isinstance(file, KnownFile):
        return file.content
    digest = hashlib.sha256()
    for chunk in file.body.chunks():
        digest.update(chunk)
    return digest.hexdigest()[:HASH]


def _folders(paths: Iterable[str]) -> set[str]:
    """All parents of `paths`."""
    found: set[str] = set()
    for path in paths:
        at = path.rfind("/")
        while at > 0 and (folder := path[:at]) not in found:
            found.add(folder)
            at = path.rfind("/", 0, at)
    return found


def _is_source(file: Placed, site: Site) -> bool:
    name = posixpath.basename(file.path)
    is_python = name.endswith(".py") and name != ".py" and file.path.startswith(f"{site.purelib}/")
    return is_python and file.size <= _MAX_SOURCE


def _is_of_tests(path: str, site: Site) -> bool:
    """In a folder `tests` inside a package; install-wheels, for BuildKit, decides the same."""
    return "tests" in path.removeprefix(f"{site.purelib}/").split("/")[1:-1]


@dataclass(frozen=True, slots=True)
class _Held:
    """A source in memory, with its original deflate stream."""

    data: bytes
    raw: bytes
    crc32: int

    def chunks(self) -> Iterator[bytes]:
        yield self.data

    def deflated(self, inflated: Callable[[bytes], object]) -> Iterator[bytes]:
        inflated(self.data)
        yield self.raw


def _source(file: Placed, compilation: Compilation) -> Entry:
    """Read a source once, for the layer and for the compiler."""
    body, pieces = file.body, list[bytes]()
    if isinstance(body, DeflatedFile):  # what deflated sources are, none of which is too large for a hash
        raw = b"".join(body.deflated(pieces.append))
        data = b"".join(pieces)
        held: Body = _Held(data, raw, body.crc32)
    else:
        data = b"".join(body.chunks())
        held = Bytes(data)
    compilation.add(f"/{file.path}", data)
    return file.entry(held)


def _installed(wheel: Wheel, site: Site, compiled: Mapping[str, str], dropped: AbstractSet[str]) -> Iterator[Entry]:
    """What an installer adds: INSTALLER, REQUESTED (the Dockerfile names every wheel), and a RECORD of everything."""
    added = [file_entry(f"{wheel.dist_info}/INSTALLER", INSTALLER), file_entry(f"{wheel.dist_info}/REQUESTED", b"")]
    yield from added
    rows = [(e.path, record_digest(b"".join(e.body.chunks())), str(e.size)) for e in added if e.body is not None]
    rows += [(f.path, f.digest, str(f.size) if f.sized else "") for f in wheel.files if f.path not in dropped]
    # like pip: bytecode is listed, so that it is removed with its source, and has no hash
    rows += [(compiled[f.path], "", "") for f in wheel.files if f.path in compiled]
    rows.append((f"{wheel.dist_info}/RECORD", "", ""))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        (_relative(path, site.purelib), digest, size) for path, digest, size in sorted(rows)
    )
    yield file_entry(f"{wheel.dist_info}/RECORD", text.getvalue().encode())


def _relative(path: str, folder: str) -> str:
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else posixpath.relpath(path, folder)
