"""Which user a command runs as: USER as Docker reads it, with the image's passwd and group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from buildctl.ground.errors import LayoutError


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    uid: int
    gid: int
    home: str
    groups: tuple[int, ...] = ()


def find_user(text: str, read: Callable[[str], str]) -> User:
    """`text` is `UID`, `UID:GID`, or names; empty is root. `read` gives a file of the image.

    Unknown numbers are fine (gid 0, home `/`, as with Docker); raises LayoutError for a name the image does not know.
    """
    name, _, group = (text or "0").partition(":")
    passwd = [row for line in read("etc/passwd").splitlines() if len(row := line.split(":")) >= 7]
    groups = [row for line in read("etc/group").splitlines() if len(row := line.split(":")) >= 4]
    known = next((row for row in passwd if name in (row[0], row[2])), None)
    if known is None and not name.isdecimal():
        raise LayoutError(f"user {name!r} is not in the image's /etc/passwd")
    uid = int(known[2] if known else name)
    gid = int(known[3]) if known else 0
    home = known[5] if known and known[5] else "/"
    if group:
        named = next((row[2] for row in groups if group in (row[0], row[2])), group)
        if not named.isdecimal():
            raise LayoutError(f"group {group!r} is not in the image's /etc/group")
        return User(uid=uid, gid=int(named), home=home)
    member_of = tuple(int(row[2]) for row in groups if known and known[0] in row[3].split(","))
    return User(uid=uid, gid=gid, home=home, groups=member_of)
