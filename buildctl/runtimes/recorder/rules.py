"""What of the difference that scripts made is kept, what is dropped, what is noted and what is refused."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from buildctl.artifacts.debian.base import left_out
from buildctl.artifacts.debian.package import RecordedChange
from buildctl.artifacts.debian.recorded import lines_between
from buildctl.ground.errors import ResolveError
from buildctl.oci.entry import plain_capability

# Path -> (kind, mode, uid, gid, content in base64 or target); None: nothing is there.
Seen = Mapping[str, "tuple[str, int, int, int, str] | None"]

# Caches, logs, what a running system makes for itself, dpkg's database (buildctl writes it), backups of accounts.
DROPPED = re.compile(
    r"(var/cache|var/log|var/tmp|var/lib/(apt|ucf|systemd|pam)|var/lib/dpkg/(info|updates|triggers|parts))(/.*)?"
    r"|var/lib/dpkg/((status|available|diversions|statoverride)-old|status|available|lock|lock-frontend|firstboot)"
    r"|etc/(passwd|group|shadow|gshadow|subuid|subgid)-|etc/\.pwd\.lock|etc/(hosts|resolv\.conf|hostname|mtab)"
    r"|etc/machine-id|var/lib/dbus(/machine-id)?|etc/ld\.so\.cache|etc/rc[0-9S]\.d(/.*)?"
    r"|etc/systemd/(system|user)/.*|(.*/)?__pycache__(/.*)?|usr/lib/udev/hwdb\.bin|root(/\..*)?|var/lib/man-db(/.*)?"
)
MIME = re.compile(r"usr/share/mime/.*")
MIME_NOTE = "the database of file types is not made: GTK programs recognise files by it"
LINES = re.compile(r"etc/(passwd|group|shadow|gshadow|subuid|subgid|shells|services)")
HOST_KEY = re.compile(r"etc/ssh/ssh_host_\w+_key(\.pub)?")
SECRET = re.compile(rb"^-----BEGIN [A-Z ]*PRIVATE KEY-----", re.MULTILINE)
MERGE = ".usr-is-merged"
TABLES = {"var/lib/dpkg/diversions": 3, "var/lib/dpkg/statoverride": 1}  # lines of an entry


@dataclass(slots=True, kw_only=True)
class Sorted:
    changes: list[RecordedChange] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    compiled: set[str] = field(default_factory=set)


def sort_out(seen: Seen, expected: Mapping[str, bytes], base: frozenset[str]) -> Sorted:
    """`expected` has the content of files that `seen` may change by lines, `base` the paths that a layer cannot remove.

    Raises ResolveError for what must not or cannot be recorded.
    """
    done = Sorted()
    for path, fact in seen.items():
        table = TABLES.get(path)
        if match := re.fullmatch(r"(.*)/__pycache__/([^/.]+)\.[^/]*\.pyc", path):
            if f"{match[1]}/{match[2]}.py" not in base:  # what a script only imports
                done.compiled.add(match[1])
        elif MIME.fullmatch(path):
            done.notes[MIME_NOTE] = None
        elif HOST_KEY.fullmatch(path):
            done.notes["no host key is recorded: make them where the image runs (`ssh-keygen -A`)"] = None
        elif fact is not None and table is not None:
            _add_table(done, path, fact, table)
        elif not (left_out(path) or left_out(f"{path}/") or DROPPED.fullmatch(path)):
            _add(done, path, fact, expected, base)
    return done


def _add(
    done: Sorted,
    path: str,
    fact: tuple[str, int, int, int, str] | None,
    expected: Mapping[str, bytes],
    base: frozenset[str],
) -> None:
    if fact is None:
        if path in base:
            raise ResolveError(f"a script removes {path} of the base, and a layer cannot")
        done.changes.append(RecordedChange(kind="gone", mode=0, uid=0, gid=0, path=path))
        return
    kind, mode, uid, gid, content = fact
    why = {
        "other": "a device, pipe or socket",
        "large": "larger than 1 MiB",
        "new and capable": "a program with file capabilities",
    }
    if kind in why:
        raise ResolveError(f"the scripts make /{path}, which is {why[kind]} and cannot be recorded")
    text = plain_capability(bytes.fromhex(content)).hex() if kind == "capable" else content
    if kind == "file":
        data = base64.b64decode(content)
        if (b"\0" not in data and SECRET.search(data)) or path.startswith("etc/ssl/private/"):
            raise ResolveError(f"the scripts make /{path}, a private key: everyone with the image would have it")
        kind, text = _content(path, data, expected)
    if kind != "lines" or text:
        done.changes.append(RecordedChange(kind=kind, mode=mode, uid=uid, gid=gid, path=path, text=text))


def _content(path: str, data: bytes, expected: Mapping[str, bytes]) -> tuple[str, str]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "binary", _base64(data)
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]", text):
        return "binary", _base64(data)
    if path in expected and LINES.fullmatch(path):
        lines = lines_between(expected[path].decode(), text)
        return "lines", _ageless(lines) if path == "etc/shadow" else lines
    return "file", text


def _base64(data: bytes) -> str:
    return base64.encodebytes(data).decode()


def _ageless(lines: str) -> str:
    """No day of the last change, as in the base: it would be that of the recording."""
    return re.sub(r"^(\+[^:]*:[^:]*):[0-9]+:", r"\1::", lines, flags=re.MULTILINE)


def _add_table(done: Sorted, path: str, fact: tuple[str, int, int, int, str], size: int) -> None:
    """Diversions and overrides of dpkg, without those that guard the merge of /usr."""
    lines = base64.b64decode(fact[4]).decode().splitlines()
    rows = [lines[n : n + size] for n in range(0, len(lines), size)]
    kept = [line for row in rows if not any(MERGE in line for line in row) for line in row]
    if kept:
        text = "".join(f"{line}\n" for line in kept)
        done.changes.append(RecordedChange(kind="file", mode=0o644, uid=0, gid=0, path=path, text=text))
