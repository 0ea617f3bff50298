"""Refuse sockets, programs that talk to others, and changes of this checkout's images/, by audit events (PEP 578).

Python loads this file by its name in every process that a guarded test starts: what it imports is imported there first.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # mypy takes it for typing's, which costs a third of the start of a Python
    from typing import Any

NOTES = "BUILDCTL_TESTS_GUARD"  # the file in which refusals are noted; without it nothing is refused
PROGRAMS = {
    "apt-get",
    "cosign",
    "crane",
    "curl",
    "docker",
    "mmdebstrap",
    "oras",
    "pip",
    "podman",
    "skopeo",
    "ssh",
    "uv",
}
EVENTS = {"open", "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "subprocess.Popen"}
CHECKOUT = os.path.join(os.path.realpath(__file__ + "/../../../.."), "")  # noqa: PTH118
IMAGES = os.path.join(CHECKOUT, "images", "")  # noqa: PTH118
LOCAL = {("uv", "--version"), ("docker", "--version")}  # what talks to nobody

installed: list[bool] = []


class RefusedInUnitTestError(OSError):
    """A unit test tried to talk to somebody."""


def refuse(what: str, hint: str = "such a test belongs in tests/integration") -> None:
    with open(os.environ[NOTES], "a", encoding="utf-8") as notes:  # noqa: PTH123 - loaded by every process
        notes.write(f"{what}: {hint}\n")
    raise RefusedInUnitTestError(f"a unit test must not {what}: {hint}")


def below_tmp(path: str | bytes) -> bool:
    import tempfile

    return os.path.realpath(os.fsdecode(path)).startswith(os.path.realpath(tempfile.gettempdir()) + os.sep)


def socket_used(address: Any) -> None:
    # multiprocessing reaches its own workers through sockets that have no name or lie with the temporary files
    if isinstance(address, (str, bytes)) and (not address or address[:1] in {"\0", b"\0"} or below_tmp(address)):
        return
    refuse(f"open a socket to {address!r}")


def asks_for_ipv6(event: str, address: Any) -> bool:
    """urllib3 binds a socket when it is imported, to learn whether this machine has IPv6."""
    if (event, address) != ("socket.bind", ("::1", 0)):
        return False
    return sys._getframe(2).f_globals.get("__name__") == "urllib3.util.connection"


def program_started(argv: Any, environment: Any) -> None:
    words = [os.fsdecode(word) for word in ([argv] if isinstance(argv, (str, bytes)) else argv)]
    name = os.path.basename(words[0])  # noqa: PTH119
    if name not in PROGRAMS or (name, *words[1:2]) in LOCAL:
        return
    import shutil

    found = shutil.which(words[0], path=(environment or os.environ).get("PATH", os.defpath))
    own = found is not None and below_tmp(found) and not os.path.realpath(found).startswith(CHECKOUT)
    if found is not None and not own:  # a program of the test's own may have that name
        refuse(f"start {' '.join(words[:3])}")


def opened(path: Any, flags: Any) -> None:
    writing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    if writing and isinstance(path, (str, bytes)) and os.path.abspath(os.fsdecode(path)).startswith(IMAGES):  # noqa: PTH100
        refuse(f"write {os.fsdecode(path)}", "let it work on a copy of the project")


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in EVENTS or NOTES not in os.environ:  # Python tells of every file and import: those go on at once
        return
    if event == "open":
        opened(arguments[0], arguments[2])
    elif event in {"socket.connect", "socket.bind", "socket.sendto"}:
        if not asks_for_ipv6(event, arguments[1]):
            socket_used(arguments[1])
    elif event == "socket.getaddrinfo":
        refuse(f"look up {arguments[0]!r}")
    elif event == "subprocess.Popen":
        program_started(arguments[1] or [arguments[0]], arguments[3])


def install() -> None:
    """Once a process: an audit hook cannot be taken out."""
    if not installed:
        sys.addaudithook(hook)
        installed.append(True)


if __name__ == "sitecustomize":
    install()
