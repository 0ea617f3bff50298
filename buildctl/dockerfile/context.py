"""Files of a build context: the entries that a COPY makes of them, as the assemble engine lays them down."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from buildctl.dockerfile.parse import Instruction
from buildctl.ground.errors import DockerfileError
from buildctl.oci.entry import Entry, Kind, directory_entry

OTHER_ENGINE = "build this image with Docker: --engine docker"


def refuse_dockerignore(first: Instruction, context: Path) -> None:
    for name in (f"{Path(first.path).name}.dockerignore", ".dockerignore"):
        if (context / name).exists():
            raise DockerfileError(f"{context / name}: not supported by the assemble engine", hint=OTHER_ENGINE)


def context_entries(
    instruction: Instruction, context: Path, sources: Sequence[str], target: str
) -> Iterator[tuple[Entry, Path]]:
    """Entries of a COPY from the build context, and the file behind each.

    Modes do not depend on the umask at clone time: 0755 for directories and what its owner may execute, else 0644.
    """
    mode, owner = _octal(instruction), _owner(instruction)
    for source in sources:
        if any(c in source for c in "*?["):
            raise instruction.fail(f"wildcards are not supported: {source}", hint=f"name the files, or {OTHER_ENGINE}")
        path = context / source.lstrip("/")
        if not path.resolve().is_relative_to(context.resolve()):
            raise instruction.fail(f"{source} is outside the build context")
        if not path.exists():
            raise instruction.fail(f"no such file in the build context: {source}")
        for file, name in _files(path, target, many=len(sources) > 1):
            if not (file.is_symlink() or file.is_file() or file.is_dir()):
                raise instruction.fail(f"{file} is not a file, folder or link")
            yield _entry(file, posixpath.normpath(name).strip("/"), mode, owner), file


def merged(there: Sequence[Entry], own: Sequence[Entry], instruction: Instruction) -> list[Entry]:
    """`own` on top of `there`, with all parent folders, as COPY would place them. Raises DockerfileError."""
    found = {entry.path: entry for entry in there}
    for entry in own:
        above = [str(folder) for folder in reversed(PurePosixPath(entry.path).parents)][1:]
        for path in above:
            found.setdefault(path, directory_entry(path))
        wrong = [path for path in above if found[path].kind is not Kind.DIRECTORY]
        before = found.get(entry.path, entry)
        if wrong or (before.kind is Kind.DIRECTORY) != (entry.kind is Kind.DIRECTORY):
            raise instruction.fail(
                f"/{entry.path} and /{(*wrong, entry.path)[0]} are a file and a folder at the same path"
            )
        found[entry.path] = entry
    return list(found.values())


def _files(path: Path, target: str, *, many: bool) -> Iterator[tuple[Path, str]]:
    """A file goes to `target`, or into it if that is a directory; a directory's content goes into `target`."""
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            yield child, posixpath.join(target, child.relative_to(path).as_posix())
    else:  # as in Docker, a link that is named is followed, one inside a folder is not
        file = path.resolve() if path.is_symlink() else path
        yield file, posixpath.join(target, path.name) if many or target.endswith("/") else target


def _entry(path: Path, name: str, mode: int | None, owner: tuple[int, int]) -> Entry:
    uid, gid = owner
    if path.is_symlink():
        return Entry(path=name, kind=Kind.SYMLINK, mode=0o777, target=str(path.readlink()), uid=uid, gid=gid)
    executable = path.is_dir() or bool(path.stat().st_mode & 0o100)
    final = mode if mode is not None else (0o755 if executable else 0o644)
    if path.is_dir():
        return Entry(path=name, kind=Kind.DIRECTORY, mode=final, uid=uid, gid=gid)
    return Entry(path=name, mode=final, uid=uid, gid=gid, size=path.stat().st_size, body=FileBody(path))


@dataclass(frozen=True, slots=True)
class FileBody:
    path: Path

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk


def _octal(instruction: Instruction) -> int | None:
    text = instruction.flag("chmod")
    if text is None:
        return None
    if not re.fullmatch(r"0?[0-7]{3,4}", text):
        raise instruction.fail(
            f"--chmod={text}: only octal modes are supported", hint=f"write --chmod=0755, or {OTHER_ENGINE}"
        )
    return int(text, 8)


def _owner(instruction: Instruction) -> tuple[int, int]:
    text = instruction.flag("chown")
    if text is None:
        return 0, 0
    match = re.fullmatch(r"([0-9]+)(?::([0-9]+))?", text)
    if not match:
        raise instruction.fail(
            f"--chown={text}: only numbers are supported", hint=f"write --chown=1000:1000, or {OTHER_ENGINE}"
        )
    return int(match[1]), int(match[2] or match[1])
