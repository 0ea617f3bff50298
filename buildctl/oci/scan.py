"""One layer, read once: its digests and sizes, its tree, and everything in it that should not be there."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.entry import CAPABILITY, HARMLESS, capability_names
from buildctl.oci.tarread import LayerReader

# What Debian's own packages install with setuid or setgid (login, passwd, mount, util-linux, pam, openssh-client).
DEBIAN_SETUID = frozenset(
    {
        "usr/bin/chage",
        "usr/bin/chfn",
        "usr/bin/chsh",
        "usr/bin/expiry",
        "usr/bin/gpasswd",
        "usr/bin/mount",
        "usr/bin/newgrp",
        "usr/bin/passwd",
        "usr/bin/ssh-agent",
        "usr/bin/su",
        "usr/bin/umount",
        "usr/lib/openssh/ssh-keysign",
        "usr/sbin/unix_chkpwd",
    }
)

# ELF machine numbers (elf.h) of the architectures that images are made for
ELF_MACHINES: Mapping[int, str] = {62: "amd64", 183: "arm64"}

_TYPES = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hard link",
}
_FORBIDDEN = {tarfile.CHRTYPE: "a device node", tarfile.BLKTYPE: "a device node", tarfile.FIFOTYPE: "a FIFO"}
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerScan:
    """What one blob holds; digests and sizes are of what was read.

    `tree` maps clean paths to `file`, `directory`, `symlink` or `hard link`. `removed` are the paths that whiteouts
    name; a slash at the end means only what is in that directory. `outside` maps hard links to targets that this layer
    does not hold. `machines` maps the architecture of ELF files to the first such file.
    """

    digest: Digest
    size: int
    diff_id: Digest
    uncompressed_size: int
    whole: bool
    problems: tuple[str, ...]
    tree: Mapping[str, str]
    removed: frozenset[str]
    outside: Mapping[str, str]
    machines: Mapping[str, str]


def clean_path(name: str) -> str:
    """The path inside the root that a tar name means, without `./` and doubled slashes; "" is the root itself.

    Raises LayoutError for a name that is absolute, climbs with `..`, is empty or holds a NUL.
    """
    if not name or "\0" in name:
        raise LayoutError("has an empty name or a NUL in it")
    if name.startswith("/"):
        raise LayoutError("has an absolute name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise LayoutError("has a name that escapes with `..`")
    return "/".join(parts)


def scan_layer(
    blob: BinaryIO, media_type: str, *, where: str, allow_setuid: frozenset[str] = DEBIAN_SETUID
) -> LayerScan:
    """Read all of `blob` (seekable, unbuffered); faults become `problems`, each starting with `where`."""
    return _Scan(blob, media_type, where, allow_setuid).run()


class _Scan:
    def __init__(self, blob: BinaryIO, media_type: str, where: str, allow_setuid: frozenset[str]) -> None:
        self.where, self.allow_setuid = where, allow_setuid
        self.reader = LayerReader(blob, media_type, where)
        self.problems: list[str] = []
        self.tree: dict[str, str] = {}
        self.removed: set[str] = set()
        self.outside: dict[str, str] = {}
        self.machines: dict[str, str] = {}

    def run(self) -> LayerScan:
        whole = True
        try:
            for info in self.reader:
                self.entry(info)
        except LayoutError as error:
            whole = False
            self.problems.append(error.message)
            self.reader.finish_blob()
        self.parents()
        return LayerScan(
            digest=self.reader.digest,
            size=self.reader.size,
            diff_id=self.reader.diff_id,
            uncompressed_size=self.reader.uncompressed_size,
            whole=whole,
            problems=(*self.problems, *self.reader.problems),
            tree=self.tree,
            removed=frozenset(self.removed),
            outside=self.outside,
            machines=self.machines,
        )

    def problem(self, name: str, text: str) -> None:
        self.problems.append(f"{self.where}: {name!r} {text}")

    def entry(self, info: tarfile.TarInfo) -> None:
        try:
            path = clean_path(info.name)
        except LayoutError as error:
            self.problem(info.name, error.message)
            return
        kind = _TYPES.get(info.type)
        if kind is None:
            self.problem(info.name, f"is {_FORBIDDEN.get(info.type, f'an entry of unknown type {info.type!r}')}")
            return
        if not path and kind != "directory":
            self.problem(info.name, f"is a {kind} in place of the root directory")
            return
        if path in self.tree:
            self.problem(info.name, "appears twice in the layer")
        if path.rpartition("/")[2].startswith(_WHITEOUT):
            self.whiteout(info.name, path)
            return
        self.privileges(info, path)
        match kind:
            case "file":
                self.machine(info, path)
            case "hard link":
                self.hard_link(info, path)
            case "symlink":
                self.symlink(info, path)
        self.tree[path] = kind

    def whiteout(self, name: str, path: str) -> None:
        folder, _, last = path.rpartition("/")
        gone = last.removeprefix(_WHITEOUT)
        if last == _OPAQUE:
            self.removed.add(f"{folder}/")
        elif gone in ("", ".", "..") or gone.startswith(_WHITEOUT):
            self.problem(name, "is a whiteout that does not name an entry of its directory")
        else:
            self.removed.add(f"{folder}/{gone}" if folder else gone)

    def privileges(self, info: tarfile.TarInfo, path: str) -> None:
        if path in self.allow_setuid:
            return
        if info.isreg() and info.mode & (stat.S_ISUID | stat.S_ISGID):
            bits = " and ".join(n for n, b in (("setuid", stat.S_ISUID), ("setgid", stat.S_ISGID)) if info.mode & b)
            self.problem(info.name, f"is {bits} (mode {info.mode:04o})")
        if (text := info.pax_headers.get(CAPABILITY)) is not None:
            self.capability(info.name, text.encode("utf-8", "surrogateescape"))

    def capability(self, name: str, value: bytes) -> None:
        try:
            if odd := capability_names(value) - HARMLESS:
                self.problem(name, f"carries file capabilities ({', '.join(sorted(odd))})")
        except ValueError as error:
            self.problem(name, f"carries malformed file capabilities: {error}")

    def machine(self, info: tarfile.TarInfo, path: str) -> None:
        """ELF header, gABI chapter 4: magic, class, byte order (1 is little endian), ..., e_machine at byte 18."""
        if info.size < 20:
            return
        head = self.reader.read(20)
        if head[:4] == b"\x7fELF" and head[5] == 1:
            machine = ELF_MACHINES.get(int.from_bytes(head[18:20], "little"))
            if machine is not None:
                self.machines.setdefault(machine, path)

    def hard_link(self, info: tarfile.TarInfo, path: str) -> None:
        try:
            target = clean_path(info.linkname)
        except LayoutError as error:
            self.problem(info.name, f"is a hard link whose target {info.linkname!r} {error.message}")
            return
        kind = self.tree.get(target)
        if kind is None:
            self.outside[path] = target
        elif kind == "directory":
            self.problem(info.name, f"is a hard link to the directory {info.linkname!r}")

    def symlink(self, info: tarfile.TarInfo, path: str) -> None:
        target = info.linkname
        if not target or "\0" in target:
            self.problem(info.name, "is a symlink without a target")
            return
        depth = 0 if target.startswith("/") else path.count("/")
        for part in target.split("/"):
            depth += -1 if part == ".." else part not in ("", ".")
            if depth < 0:
                self.problem(info.name, f"is a symlink that climbs above the root: {target!r}")
                return

    def parents(self) -> None:
        """What is below a file or symlink ends up elsewhere, or nowhere, depending on the unpacker."""
        for path in self.tree:
            folder = path.rpartition("/")[0]
            while folder:
                kind = self.tree.get(folder, "directory")
                if kind != "directory":
                    self.problem(path, f"is below {folder!r}, which is a {kind} in the same layer")
                    break
                folder = folder.rpartition("/")[0]
