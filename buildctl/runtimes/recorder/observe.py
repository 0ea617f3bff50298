"""Installs packages and tells what is otherwise than expected. Runs in a sandbox, by the base's own Python
(`python3 -I -S -B observe.py`), so it imports the standard library only.

In: the folder it lies in, with `debs/` and `expected.json`, path -> [kind, mode, uid, gid, content or target]. Out: one
line, base64 of compressed JSON: paths that differ -> [kind, mode, uid, gid, target or content in base64], null where
nothing is. Everything else goes to stderr.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).parent
ELSEWHERE = ("proc", "sys", "dev", "tmp", "run", HERE.name)
MOST = 1 << 20  # bytes of a file that can be recorded
LEAST_IDS = 65535
APT = (
    *("apt-get", "install", "-y", "-q", "--no-install-recommends", "--no-remove", "--allow-downgrades"),
    *("-o", "APT::Sandbox::User=root", "-o", "DPkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confnew"),
)


def main() -> None:
    refuse_open_kernel()
    excluded = json.loads((HERE / "excluded.json").read_text())
    debs = sorted(str(path) for path in (HERE / "debs").iterdir())
    options = [word for option in excluded for word in ("-o", f"Dpkg::Options::={option}")]
    done = subprocess.run([*APT, *options, *debs], stdin=subprocess.DEVNULL, stdout=2, check=False)
    if done.returncode:
        fail(f"apt-get install exited with {done.returncode}")
    refuse_unfinished(int((HERE / "count").read_text()))
    expected = json.loads((HERE / "expected.json").read_text())
    found = {path: tell(path) for path in below("/")}
    dropped = re.compile((HERE / "dropped").read_text())
    other = {
        path: (fact if dropped.fullmatch(path) else full(path, fact, expected.get(path))) if fact else None
        for path, fact in differing(expected, found)
    }
    sys.stdout.write(base64.b64encode(zlib.compress(json.dumps(other).encode(), 9)).decode() + "\n")


def fail(why: str) -> NoReturn:
    sys.stderr.write(f"recorder: {why}\n")
    sys.exit(1)


def refuse_open_kernel() -> None:
    """Before any script starts: `sysctl --system` in one must not reach the machine, and owners must be real."""
    if not os.statvfs("/proc/sys").f_flag & os.ST_RDONLY:
        fail("/proc/sys is not read-only")
    rows = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    if any(row[0] == row[1] for row in rows):
        fail("root in here is root of the machine")
    if sum(int(row[2]) for row in rows) < LEAST_IDS:
        fail("there are too few ids: owners would be wrong")


def refuse_unfinished(count: int) -> None:
    query = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}\n"]
    states = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    if len(states) != count or set(states) != {"ii"}:
        fail(f"{states.count('ii')} of {count} packages are configured")
    audit = subprocess.run(["dpkg", "--audit"], capture_output=True, text=True, check=False)
    if audit.stdout or audit.returncode:
        fail(f"dpkg --audit: {audit.stdout}")


def below(folder: str) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.path.lstrip("/") not in ELSEWHERE:
            yield entry.path.lstrip("/")
            if entry.is_dir(follow_symlinks=False):
                yield from below(entry.path)


def tell(path: str) -> list[object]:
    about = os.lstat(f"/{path}")
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}.get(stat.S_IFMT(about.st_mode), "other")
    content = ""
    if kind == "link":
        content = str(Path(f"/{path}").readlink())
    elif kind == "file":
        content = hashlib.sha256(Path(f"/{path}").read_bytes()).hexdigest()
        if value := capability(path):
            kind, content = "capable", f"{content} {value}"
    mode = 0o777 if kind == "link" else stat.S_IMODE(about.st_mode)
    return [kind, mode, about.st_uid, about.st_gid, content]


def capability(path: str) -> str:
    """In hex."""
    name = "security.capability"
    return os.getxattr(f"/{path}", name).hex() if name in os.listxattr(f"/{path}") else ""


def differing(expected: dict[str, list[object]], found: dict[str, list[object]]) -> Iterator[tuple[str, list[object]]]:
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path) and path.partition("/")[0] not in ELSEWHERE:
            yield path, found.get(path, [])


def full(path: str, fact: list[object], expected: list[object] | None) -> list[object]:
    """With the content; `same` where only mode or owner are others, `large` where it is too large to record.

    Of a file with capabilities only these, if it is otherwise what is expected.
    """
    if expected and (fact[0], fact[4]) == (expected[0], expected[4]):
        return ["same", *fact[1:4], ""]
    if fact[0] == "capable":
        content, _, value = str(fact[4]).partition(" ")
        same = expected and expected[0] == "file" and expected[4] == content
        return [*fact[:4], value] if same else ["new and capable", *fact[1:]]
    if fact[0] != "file":
        return fact
    data = Path(f"/{path}").read_bytes()
    return [*fact[:4], base64.b64encode(data).decode()] if len(data) <= MOST else ["large", *fact[1:]]


if __name__ == "__main__":
    main()
