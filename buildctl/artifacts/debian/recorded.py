"""What maintainer scripts did when they were run once, at lock time: a file for people to review, and its way into a
tree.

Next to a lock FLAVOUR.ARCH.packages lies FLAVOUR.ARCH.recorded. `observed` makes a `Recorded` from what a recorder saw,
`apply` does to a tree what it says.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from buildctl.artifacts.debian.package import BaseLock, Recorded, RecordedChange
from buildctl.artifacts.debian.scripts.commands import Effects
from buildctl.artifacts.debian.scripts.tree import lines_of
from buildctl.ground.errors import ArtifactError, LockError
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry, Kind, capability_names, directory_entry, file_entry, symlink_entry
from buildctl.oci.image import canonical_json

RULES = 1  # another number where the same scripts leave another record
HEAD = "# Written by `buildctl lock --record-scripts`: what the maintainer scripts of these packages did, in a sandbox."
CHANGE = re.compile(r"(file|binary|folder|link|lines|same|capable|gone) ([0-7]{4}) ([0-9]+):([0-9]+) (\S.*)")
KEYS = ("script", "note", "compile")
AGAIN = "run `buildctl lock --record-scripts`"


def binding(lock: BaseLock) -> str:
    """What a record belongs to: the packages by content, and through `inputs` the base below them."""
    packages = [[p.name, p.version, str(p.digest)] for p in lock.packages]
    return str(Digest.of(canonical_json([RULES, lock.inputs, lock.arch, packages])))


def apply(recorded: Recorded, tree: dict[str, Entry], arch: str) -> Effects:
    """Do to `tree` what the scripts did. Raises ArtifactError where the record does not fit it."""
    done = Effects(arch=arch, tree=tree, base=frozenset(), packages=frozenset())
    done.notes |= dict.fromkeys(recorded.notes)
    folders = frozenset(recorded.compiled)
    done.compiled |= {path for path in tree if path.endswith(".py") and path.rpartition("/")[0] in folders}
    for change in recorded.changes:
        if change.kind == "gone":
            tree.pop(change.path, None)
        elif change.kind in ("same", "capable") and change.path not in tree:
            raise ArtifactError(f"/{change.path}: its recorded mode is of a file that is not there", hint=AGAIN)
        else:
            tree[change.path] = _entry(change, tree)
    return done


def _entry(change: RecordedChange, tree: Mapping[str, Entry]) -> Entry:
    owned = {"mode": change.mode, "uid": change.uid, "gid": change.gid}
    match change.kind:
        case "same":
            return replace(tree[change.path], **owned)  # type: ignore[arg-type]
        case "capable":
            return replace(tree[change.path], **owned, capability=bytes.fromhex(change.text))  # type: ignore[arg-type]
        case "folder":
            return replace(directory_entry(change.path), **owned)  # type: ignore[arg-type]
        case "link":
            return replace(symlink_entry(change.path, change.text), uid=change.uid, gid=change.gid)
        case "lines":
            data = _with_lines(change, lines_of(tree, change.path))
        case "binary":
            data = base64.b64decode(change.text)
        case _:
            data = change.text.encode()
    return replace(file_entry(change.path, data), **owned)  # type: ignore[arg-type]


def _with_lines(change: RecordedChange, lines: list[str]) -> bytes:
    for line in change.text.splitlines():
        sign, words = line[:1], line[1:]
        if sign == "+":
            lines.append(words)
        elif words in lines:
            lines.remove(words)
        else:
            raise ArtifactError(
                f"{change.path}: its recorded change removes {words!r}, which is not in it",
                hint=AGAIN,
            )
    return "".join(f"{line}\n" for line in lines).encode()


def lines_between(old: str, new: str) -> str:
    """`-LINE` for each line that only `old` has, `+LINE` for those that only `new` has."""
    before, after = old.splitlines(), new.splitlines()
    gone = [f"-{line}\n" for line in before if line not in after]
    return "".join([*gone, *(f"+{line}\n" for line in after if line not in before)])


# ------------------------------------------------------------------------------------------------------------ the file


def format_recorded(lock: BaseLock) -> str:
    recorded = lock.recorded
    assert recorded is not None  # noqa: S101 - the caller has looked
    out = [HEAD, f"# rules: {RULES}", f"# of: {binding(lock)}", ""]
    out += [f"script {text}" for text in recorded.scripts]
    out += [f"note {text}" for text in recorded.notes]
    out += [f"compile {text}" for text in recorded.compiled]
    for change in recorded.changes:
        out.append(f"{change.kind} {change.mode:04o} {change.uid}:{change.gid} {change.path}")
        out += _quoted(change)
    return "\n".join(out) + "\n"


def _quoted(change: RecordedChange) -> Iterator[str]:
    """Text with `|` before each line, and a backslash on a line of its own where the last line has no end."""
    if change.kind in ("link", "capable"):
        yield f"  |{change.text}"
    if change.kind in ("folder", "gone", "same", "link", "capable"):
        return
    *lines, rest = change.text.split("\n")
    yield from (f"  |{line}" for line in lines)
    if rest:
        yield f"  |{rest}"
        yield "  \\"


def parse_recorded(text: str, where: str, lock: BaseLock) -> Recorded:
    """Strict. Raises LockError for another form, and for a record of other packages, another base or other rules."""
    lines = text.split("\n")
    if lines[:1] != [HEAD] or lines[-1:] != [""]:
        raise LockError(f"{where}:1: not a record of maintainer scripts", hint="restore the file")
    if lines[1:4] != [f"# rules: {RULES}", f"# of: {binding(lock)}", ""]:
        raise LockError(f"{where}: recorded for other packages, another base or by other rules", hint=AGAIN)
    found: dict[str, list[str]] = {key: [] for key in KEYS}
    changes: list[RecordedChange] = []
    for number, line in enumerate(lines[4:-1], 5):
        key, _, value = line.partition(" ")
        if key in found and value and not changes:
            found[key].append(value)
        elif match := CHANGE.fullmatch(line):
            changes.append(_change(match))
        elif changes and line.startswith("  |"):
            changes[-1] = replace(changes[-1], text=f"{changes[-1].text}{line[3:]}\n")
        elif changes and line == "  \\":
            changes[-1] = replace(changes[-1], text=changes[-1].text.removesuffix("\n"))
        else:
            raise LockError(f"{where}:{number}: not a line of such a record: {line[:80]!r}", hint="restore the file")
    changes = [replace(c, text=c.text.removesuffix("\n")) if c.kind in ("link", "capable") else c for c in changes]
    _check(changes, where)
    return Recorded(
        scripts=tuple(found["script"]),
        notes=tuple(found["note"]),
        compiled=tuple(found["compile"]),
        changes=tuple(changes),
    )


def _change(match: re.Match[str]) -> RecordedChange:
    kind, mode, uid, gid, path = match.groups()
    return RecordedChange(kind=kind, mode=int(mode, 8), uid=int(uid), gid=int(gid), path=path)


def _check(changes: list[RecordedChange], where: str) -> None:
    paths = [change.path for change in changes]
    wrong = [p for p in paths if p.startswith("/") or {"", ".", ".."} & set(p.split("/"))]
    if wrong or len(set(paths)) != len(paths):
        raise LockError(f"{where}: paths must be clean, relative and each there once: {', '.join(wrong[:3])}")
    for change in changes:
        if change.kind == "binary":
            try:
                base64.b64decode(change.text.replace("\n", ""), validate=True)
            except binascii.Error as error:
                raise LockError(f"{where}: {change.path}: malformed base64: {error}") from error
        if change.kind == "capable":
            _check_capability(change, where)
        if change.kind == "link" and not change.text.strip():
            raise LockError(f"{where}: {change.path}: a link without a target")


def _check_capability(change: RecordedChange, where: str) -> None:
    try:
        capability_names(bytes.fromhex(change.text))
    except ValueError as error:
        raise LockError(f"{where}: {change.path}: malformed file capabilities: {error}") from error


def kind_of(entry: Entry) -> str:
    """How a record calls an entry's kind: a hard link is a file like any other."""
    return {Kind.DIRECTORY: "folder", Kind.SYMLINK: "link"}.get(entry.kind, "file")
