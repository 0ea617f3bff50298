"""Which ids of this machine an image's ids are when root runs it: unprivileged ones, so root inside is nobody here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from buildctl.ground.errors import ToolError

# Unused by distributions, useradd and container managers: 1879048192 to 2147352575 (systemd, docs/UIDS-GIDS.md).
FIRST = 2_000_000_000
COUNT = 65_535  # what an image has: 0 to 65534, which is "nobody"
MOST = 1 << 17  # the rest is for users with larger numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """Id N of an image is `first` + N here; `size` ids from there on are free. Users and groups have the same range."""

    first: int = FIRST
    size: int = MOST

    def owner(self, number: int) -> int:
        """The id here of the owner of an image's file; owners unknown to the sandbox become "nobody"."""
        return self.first + min(number, COUNT - 1)

    def mapping(self, used: Iterable[int]) -> str:
        """Lines for a uid_map or gid_map: all ids of an image, and those of `used` that are larger.

        Raises ToolError if they do not all fit into this range.
        """
        large = sorted({number for number in used if number >= COUNT})
        if COUNT + len(large) > self.size:
            raise ToolError(
                f"no id left for the image's user or group {large[0]}: this container has only {self.size}",
                hint=f"run as a user and group below {COUNT}, or give the container more subordinate ids",
            )
        rows = [(0, self.first, COUNT), *((number, self.first + COUNT + n, 1) for n, number in enumerate(large))]
        return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in rows)


def outside(mapping: str, number: int) -> int:
    """The id here of the id `number` inside, by the lines of a uid_map or gid_map."""
    rows = ([int(word) for word in line.split()] for line in mapping.splitlines())
    return next(here + number - inside for inside, here, count in rows if inside <= number < inside + count)


def find_ids(*, proc: Path = Path("/proc/self")) -> Ids | None:
    """The range for this process, None where there is none: for all but root, and for root of a container with few ids.

    The kernel takes a range only from within one line of its own map.
    """
    if os.geteuid() != 0:
        return None
    common = [_overlap(uids, gids) for uids in _rows(proc / "uid_map") for gids in _rows(proc / "gid_map")]
    rooms = [room for room in common if len(room) >= COUNT]
    if any(FIRST in room and FIRST + COUNT - 1 in room for room in rooms):
        room = next(room for room in rooms if FIRST in room)
        return Ids(first=FIRST, size=min(MOST, room.stop - FIRST))
    return Ids(first=rooms[0].start, size=min(MOST, len(rooms[0]))) if rooms else None


def _rows(path: Path) -> list[range]:
    """The ids of each line as this process sees them, without 0, which is ours."""
    rows = [[int(word) for word in line.split()] for line in path.read_text().splitlines()]
    return [range(max(1, inside), inside + count) for inside, _, count in rows]


def _overlap(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def own_map(name: str) -> str:
    """A uid_map or gid_map (`name`) that leaves the ids of this process as they are."""
    rows = (line.split() for line in Path("/proc/self", name).read_text().splitlines())
    return "".join(f"{inside} {inside} {count}\n" for inside, _, count in rows)
