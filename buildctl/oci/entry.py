"""What a layer is made of: entries of a file tree, whatever archive they come from."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

# Every entry that has no time stamp of its own gets this one: the first moment that a zip can express, so that tools
# which zip an image's files keep working. 1980-01-01T00:00:00Z in seconds since 1970.
EPOCH = 315532800

# File capabilities (capabilities(7)) are the value of a file's security.capability. Layers carry it in a pax record of
# this name, as GNU tar, Docker and containerd do. It is `struct vfs_cap_data` of linux/capability.h, revision 2: flags,
# then two words each of permitted and inheritable bits, little endian.
CAPABILITY = "SCHILY.xattr.security.capability"
# Of linux/capability.h, by number.
NAMES = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
]
# What Docker grants the root of every container, and no more than packets and ports: for ping and small servers.
HARMLESS = frozenset({"cap_net_raw", "cap_net_bind_service"})
_REVISION, _OWNED, _EFFECTIVE = 0x02000000, 0x03000000, 1
_TEXT = re.compile(r"(cap_[a-z_]+(?:,cap_[a-z_]+)*)[+=](?=[eip]+$)([eip]+)")
_FORM = struct.Struct("<5L")


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"


class Body(Protocol):
    """The content of a file, readable any number of times, in pieces of bounded size."""

    def chunks(self) -> Iterator[bytes]: ...


@runtime_checkable
class DeflatedBody(Body, Protocol):
    """Content that also exists as a raw deflate stream, which a gzip layer can copy instead of compressing again."""

    @property
    def crc32(self) -> int:
        """CRC-32 of the content."""
        ...

    def deflated(self, inflated: Callable[[bytes], object]) -> Iterator[bytes]:
        """The raw deflate stream in pieces; `inflated` is called with the content, in order, along the way."""
        ...


@dataclass(frozen=True, slots=True)
class Bytes:
    """Content held in memory: small generated files."""

    data: bytes

    def chunks(self) -> Iterator[bytes]:
        yield self.data

    @property
    def crc32(self) -> int:
        return zlib.crc32(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a layer. `path` is relative and clean: no leading slash, no empty, `.` or `..` component.

    `size` is in bytes and must be what `body` yields; `mtime` is in seconds since 1970; `target` is the link target of
    a symlink (as written) or hard link (a path like `path`); `capability` that of `security.capability`, if not empty.
    """

    path: str
    kind: Kind = Kind.FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = EPOCH
    target: str = ""
    body: Body | None = None
    capability: bytes = b""


def file_entry(path: str, data: bytes, *, mode: int = 0o644, mtime: int = EPOCH) -> Entry:
    return Entry(path=path, mode=mode, size=len(data), mtime=mtime, body=Bytes(data))


def directory_entry(path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0, mtime: int = EPOCH) -> Entry:
    return Entry(path=path, kind=Kind.DIRECTORY, mode=mode, uid=uid, gid=gid, mtime=mtime)


def symlink_entry(path: str, target: str, *, mtime: int = EPOCH) -> Entry:
    return Entry(path=path, kind=Kind.SYMLINK, mode=0o777, target=target, mtime=mtime)


def capability(text: str) -> bytes:
    """The value for what setcap(8) takes, in one clause: `cap_net_raw+ep`. Raises ValueError for anything else."""
    match = _TEXT.fullmatch(text.lower())
    if match is None:
        raise ValueError(f"not capabilities: {text!r}")
    bits = sum(1 << NAMES.index(name.removeprefix("cap_")) for name in set(match[1].split(",")))
    permitted, inheritable = (bits if flag in match[2] else 0 for flag in "pi")
    words = (permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF, permitted >> 32, inheritable >> 32)
    return _FORM.pack(_REVISION | (_EFFECTIVE if "e" in match[2] else 0), *words)


def capability_names(value: bytes) -> frozenset[str]:
    """The capabilities that a file gives or keeps. Raises ValueError for what no kernel would read."""
    flags, *words = _FORM.unpack(plain_capability(value))
    if flags & ~_EFFECTIVE != _REVISION:
        raise ValueError(f"unknown revision {flags:#x}")
    bits = words[0] | words[1] | (words[2] | words[3]) << 32
    if bits >> len(NAMES):
        raise ValueError(f"unknown capabilities {bits:#x}")
    return frozenset(f"cap_{name}" for number, name in enumerate(NAMES) if bits >> number & 1)


def plain_capability(value: bytes) -> bytes:
    """Revision 2 of a value that names a user namespace (revision 3). Raises ValueError for other sizes."""
    if len(value) == _FORM.size + 4:
        flags = int.from_bytes(value[:4], "little")
        if flags & ~_EFFECTIVE == _OWNED:
            return (flags - _OWNED + _REVISION).to_bytes(4, "little") + value[4 : _FORM.size]
    if len(value) != _FORM.size:
        raise ValueError(f"{len(value)} bytes")
    return value
