"""What every command that fetches does when Debian no longer has a locked package: the base is locked again, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from buildctl.build.material import VanishedDebError
from buildctl.console.log import say
from buildctl.ground.errors import LockError
from buildctl.lock.locked import LOCKED
from buildctl.lock.update import renew_base
from buildctl.matrix.project import Project

T = TypeVar("T")


def renewing(project: Project, work: Callable[[], T], *, locked: bool) -> T:
    """The way from the locks on, walked again above a base that had to be renewed. With `locked` it is refused."""
    try:
        return work()
    except VanishedDebError as error:
        if locked:
            hint = "run `buildctl lock --upgrade`, or leave out --locked"
            raise LockError(f"{LOCKED}: {error.message}", hint=hint) from error
        say(f"{error.message}\nDebian replaces packages when they are fixed; resolving the base again")
        for base, arch in error.bases:
            for line in renew_base(project, base, arch):
                say(line)
    return work()
