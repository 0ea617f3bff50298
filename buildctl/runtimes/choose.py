"""Which runtimes images are tested in: their names for the command line, and what answers here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from buildctl.ground.errors import RuntimeUnavailableError

if TYPE_CHECKING:
    from buildctl.runtimes.api import Runtime

AUTO = "auto"


class Maker(Protocol):
    def __call__(self, context: str | None, /, *, reach: bool) -> Runtime:
        """The runtime, on the machine of a docker context. Raises RuntimeUnavailableError: always where it cannot be
        there, and with `reach` where it does not answer now, instead of when a session starts.
        """


def _docker(context: str | None, /, *, reach: bool) -> Runtime:
    from buildctl.docker.daemon import connected
    from buildctl.runtimes.docker import DockerRuntime

    if reach:
        with connected(context):
            pass
    return DockerRuntime(context)


def _sandbox(context: str | None, /, *, reach: bool) -> Runtime:  # noqa: ARG001 - it is here, and says why not itself
    from buildctl.artifacts.store import Store
    from buildctl.runtimes.sandbox.sandbox import SandboxRuntime

    if context is not None:
        raise RuntimeUnavailableError("the sandbox only runs on this machine", hint="leave out --context")
    return SandboxRuntime(Store.default())


# In the order in which `auto` tries them.
RUNTIMES: Mapping[str, Maker] = {"docker": _docker, "sandbox": _sandbox}


def runtimes(name: str, *, context: str | None = None) -> tuple[Runtime, ...]:
    """What to try, in that order: for `auto` all that answer. With a `context` it is that machine or an error."""
    if name != AUTO:
        return (RUNTIMES[name](context, reach=context is not None),)
    if context is not None:
        return (RUNTIMES["docker"](context, reach=True),)
    found = []
    for make in RUNTIMES.values():
        with suppress(RuntimeUnavailableError):
            found.append(make(None, reach=True))
    return tuple(found)
