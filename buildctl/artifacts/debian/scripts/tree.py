"""Asking a tree of entries what scripts ask of a file system: `test`, and the lines of a file."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from buildctl.oci.entry import Entry, Kind, directory_entry, file_entry

Find = Callable[[str, bool], Entry | None]
_MAX_LINKS = 32


def find(tree: Mapping[str, Entry], path: str, *, follow: bool = True) -> tuple[str, Entry | None]:
    """Where an absolute path leads in the tree, without its leading slash, and what is there."""
    parts = [part for part in posixpath.normpath(path).split("/") if part]
    at, links = "", 0
    while parts:
        part = parts.pop(0)
        here = f"{at}/{part}" if at else part
        entry = tree.get(here)
        if entry is not None and entry.kind is Kind.SYMLINK and (parts or follow) and links < _MAX_LINKS:
            links += 1
            target = posixpath.normpath(posixpath.join("/", at, entry.target))
            parts, at = [part for part in target.split("/") if part] + parts, ""
        else:
            at = here
    entry = tree.get(at)
    if entry is None and any(known.startswith(f"{at}/") for known in tree):
        entry = directory_entry(at)
    return at, entry


def evaluate(words: Sequence[str], look: Find) -> bool | None:
    """What `test WORDS` answers, None if it is not understood. `look` gets a path and whether to follow a symlink."""
    for operator, combine in (("-o", any), ("-a", all)):  # -o binds less
        if operator in words[1:-1] and len(words) > 3:
            groups: list[list[str]] = [[]]
            for word in words:
                if word == operator:
                    groups.append([])
                else:
                    groups[-1].append(word)
            answers = [evaluate(group, look) for group in groups]
            return None if None in answers else combine(bool(answer) for answer in answers)
    return _primary(list(words), look)


def _primary(words: list[str], look: Find) -> bool | None:
    match words:
        case []:
            return False
        case ["!", *rest]:
            answer = evaluate(rest, look)
            return None if answer is None else not answer
        case [text] | ["-n", text]:
            return bool(text)
        case ["-z", text]:
            return not text
        case ["-h" | "-L", path]:
            entry = look(path, False)
            return entry is not None and entry.kind is Kind.SYMLINK
        case [("-e" | "-f" | "-d" | "-x" | "-s" | "-r" | "-w" | "-S") as what, path]:
            return path != "" and _there(what, look(path, True))
        case [one, "=" | "==", other]:
            return one == other
        case [one, "!=", other]:
            return one != other
        case [one, ("-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge") as operator, other] if (one + other).isdigit():
            a, b = int(one), int(other)
            return {"-eq": a == b, "-ne": a != b, "-lt": a < b, "-le": a <= b, "-gt": a > b, "-ge": a >= b}[operator]
        case _:
            return None


def _there(what: str, entry: Entry | None) -> bool:
    if entry is None or what == "-S":
        return False
    match what:
        case "-f":
            return entry.kind in {Kind.FILE, Kind.HARDLINK}
        case "-d":
            return entry.kind is Kind.DIRECTORY
        case "-x":
            return bool(entry.mode & 0o111)
        case "-s":
            return entry.size > 0
        case _:
            return True


def lines_of(tree: Mapping[str, Entry], path: str) -> list[str]:
    entry = tree.get(path)
    data = b"".join(entry.body.chunks()) if entry is not None and entry.body else b""
    return data.decode().splitlines()


def append_line(tree: dict[str, Entry], path: str, line: str) -> None:
    """At the end of a file that is there; mode and owner stay."""
    text = "".join(f"{known}\n" for known in [*lines_of(tree, path), line])
    made = file_entry(path, text.encode())
    tree[path] = replace(tree[path], size=made.size, body=made.body)
