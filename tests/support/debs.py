"""Small Debian packages for tests, honest unless a test makes them lie; and a base small enough to make in a moment."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import zstandard

from buildctl.artifacts.bytecode import Compilation
from buildctl.artifacts.debian.base import base_entries
from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry, Kind
from tests.support.images import Member

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".xz": lambda data: lzma.compress(data, preset=0),  # the default fills 90 MB of tables first
    ".zst": zstandard.ZstdCompressor().compress,
}


def tar(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for m in members:
            info = tarfile.TarInfo(m.name)
            info.size, info.mode, info.type, info.linkname, info.mtime = (
                len(m.data),
                m.mode,
                m.kind,
                m.target,
                1700000000,
            )
            archive.addfile(info, io.BytesIO(m.data))
    return out.getvalue()


def ar(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def folder(name: str, mode: int = 0o755) -> Member:
    return Member(name=f"./{name}/", mode=mode, kind=tarfile.DIRTYPE)


def file(name: str, text: str = "", mode: int = 0o644) -> Member:
    return Member(name=f"./{name}", data=text.encode(), mode=mode)


def link(name: str, target: str) -> Member:
    return Member(name=f"./{name}", kind=tarfile.SYMTYPE, target=target)


def with_folders(members: Sequence[Member]) -> list[Member]:
    out: dict[str, Member] = {}
    for member in members:
        parts = member.name.removeprefix("./").rstrip("/").split("/")
        for i in range(1, len(parts)):
            out.setdefault("/".join(parts[:i]), folder("/".join(parts[:i])))
        out["/".join(parts)] = member
    return [Member(name="./", mode=0o755, kind=tarfile.DIRTYPE), *out.values()]


def deb(
    name: str = "thing",
    members: Sequence[Member] = (),
    *,
    version: str = "1.0",
    arch: str = "amd64",
    fields: Mapping[str, str] | None = None,
    control: Mapping[str, str] | None = None,
    suffix: str = ".xz",
) -> bytes:
    """`control`: further files of the control archive. md5sums are made; the folders of `members` too."""
    values = {
        "Package": name,
        "Version": version,
        "Architecture": arch,
        **(fields or {}),
        "Description": "a thing\n more",
    }
    text = "".join(f"{key}: {value}\n" for key, value in values.items())
    sums = "".join(
        f"{hashlib.md5(m.data, usedforsecurity=False).hexdigest()}  {m.name.removeprefix('./')}\n"
        for m in members
        if m.kind == tarfile.REGTYPE
    )
    files = {"control": text, "md5sums": sums, **(control or {})}
    inner = tar(Member(name="./", kind=tarfile.DIRTYPE), *(file(n, t, 0o755) for n, t in files.items()))
    data = COMPRESS[suffix](tar(*with_folders(members)))
    return ar(
        ("debian-binary", b"2.0\n"), (f"control.tar{suffix}", COMPRESS[suffix](inner)), (f"data.tar{suffix}", data)
    )


def package(data: bytes, name: str, version: str = "1.0", arch: str = "amd64") -> DebPackage:
    return DebPackage(
        name=name,
        version=version,
        architecture=arch,
        archive="debian",
        filename=f"pool/main/{name[0]}/{name}/{name}_{version}_{arch}.deb",
        size=len(data),
        digest=Digest.of(data),
    )


SOURCES = """\
## comment
Types: deb
URIs: http://mirror.example.invalid/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example.invalid/debian-security
Suites: trixie-security
Components: main contrib
"""
TEMPLATE = "# head\n${0}_primary\n# middle\n${0}_additional\n# end\n"
UNIX = """\
Name: Unix
Default: yes
Auth-Type: Primary
Auth:
	[success=end default=ignore]	pam_unix.so nullok try_first_pass
Auth-Initial:
	[success=end default=ignore]	pam_unix.so nullok
Account-Type: Primary
Account:
	[success=end default=ignore]	pam_unix.so
Session-Type: Additional
Session:
	required	pam_unix.so
Password-Type: Primary
Password:
	[success=end default=ignore]	pam_unix.so
"""


def tiny_base() -> dict[str, bytes]:
    """Packages by name with everything that a base is configured from."""
    pam = {"auth": "auth", "account": "account", "password": "password", "session": "session"}
    templates = [file(f"usr/share/pam/common-{k}", TEMPLATE.format(v).replace("{", "")) for k, v in pam.items()]
    templates.append(file("usr/share/pam/common-session-noninteractive", TEMPLATE.format("session_nonint")))
    return {
        "apt": deb(
            "apt", [file("usr/share/doc/apt/examples/debian.sources", SOURCES), file("usr/bin/apt", "x", 0o755)]
        ),
        "base-files": deb(
            "base-files",
            [
                *(link(name, f"usr/{name}") for name in ("bin", "lib", "sbin")),
                *(folder(name) for name in ("usr/bin", "usr/lib", "usr/sbin", "var/run", "etc")),
                folder("tmp", 0o1777),
                *(file(f"usr/share/base-files/{n}", n) for n in ("dot.profile", "dot.bashrc", "profile", "motd")),
                file("etc/issue", "Debian\n"),
            ],
            control={
                "conffiles": "/etc/issue\n",
                "postinst": "#!/bin/sh\n",
                "triggers": "interest-noawait /usr/lib32\n",
            },
        ),
        "base-passwd": deb(
            "base-passwd",
            [
                file(
                    "usr/share/base-passwd/passwd.master", "root:*:0:0:root:/root:/bin/bash\nmail:*:8:8::/var/mail:/x\n"
                ),
                file("usr/share/base-passwd/group.master", "root:*:0:\nmail:*:8:\nshadow:*:42:\n"),
            ],
        ),
        "bash": deb(
            "bash",
            [
                file("usr/bin/bash", "x", 0o755),
                *(file(f"etc/skel/{n}", n) for n in (".bashrc", ".profile", ".bash_logout")),
                file("usr/share/debianutils/shells.d/bash", "/bin/bash\n/usr/bin/bash\n"),
                file("usr/share/man/man1/bash.1.gz", "manual"),
                file("usr/share/doc/bash/copyright", "GPL"),
                file("usr/share/doc/bash/NEWS.gz", "news"),
            ],
        ),
        "debianutils": deb("debianutils", [file("usr/share/debianutils/shells", "# shells\n/bin/sh\n")]),
        "libpam-runtime": deb("libpam-runtime", [*templates, file("usr/share/pam-configs/unix", UNIX)]),
        "libthing1": deb(
            "libthing1",
            [file("usr/lib/libthing.so.1.2", "no ELF"), link("usr/lib/libthing.so.1", "libthing.so.1.2")],
            fields={"Multi-Arch": "same"},
            control={
                "triggers": "# a comment\nactivate-noawait ldconfig\ninterest ldconfig\n",
                "shlibs": "libthing 1\n",
            },
        ),
        "mawk": deb("mawk", [file("usr/bin/mawk", "x", 0o755)]),
        "python3.13": deb(
            "python3.13",
            [
                file("usr/lib/python3.13/json.py", "x = 1\n"),
                file("usr/lib/python3.13/broken.py", "x = \n"),
                link("usr/lib/python3.13/sitecustomize.py", "/etc/python3.13/sitecustomize.py"),
                file("etc/python3.13/sitecustomize.py", ""),
            ],
        ),
        "tzdata": deb("tzdata", [file("usr/share/zoneinfo/Etc/UTC", "TZif")], arch="all"),
    }


def lock_of(debs: Mapping[str, bytes], *, flavour: str = "runtime") -> BaseLock:
    packages = (package(data, name, arch="all" if name == "tzdata" else "amd64") for name, data in sorted(debs.items()))
    return BaseLock(
        base="tiny",
        flavour=flavour,
        arch="amd64",
        suite="trixie",
        inputs=f"sha256:{'0' * 64}",
        packages=tuple(packages),
    )


def write_all(root: Path, debs: Mapping[str, bytes]) -> Mapping[Digest, Path]:
    out = {}
    for name, data in debs.items():
        path = root / f"{name}.deb"
        path.write_bytes(data)
        out[Digest.of(data)] = path
    return out


Tree = Mapping[str, tuple[Entry, bytes]]


class Compiled:
    """A compiler that gives `path:length` as bytecode, and none for what is called broken."""

    identity, tag = "test", "cpython-313"

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[Compilation]:
        yield self

    def add(self, path: str, source: bytes) -> None:
        self.seen.append((path, source))

    def results(self) -> Iterator[bytes | None]:
        for path, source in self.seen:
            yield None if "broken" in path else f"{path}:{len(source)}".encode()


def made(
    tmp_path: Path,
    debs: Mapping[str, bytes],
    *,
    below: BaseLock | None = None,
    compiler: Compiled | None = None,
    added: bool = False,
) -> Tree:
    """The entries of a lock over exactly these packages, with their content."""
    paths = write_all(tmp_path, debs)
    known = {p.name for p in below.packages} if below else set()
    lock = lock_of({n: d for n, d in debs.items() if n not in known}, flavour="devel" if below else "runtime")
    out: dict[str, tuple[Entry, bytes]] = {}
    how = {"below": [below] if below else [], "compiler": compiler, "scratch": tmp_path, "added": added}
    for entry in base_entries(lock, lambda p: paths[p.digest], **how):  # type: ignore[arg-type]
        assert entry.path not in out
        parent = entry.path.rpartition("/")[0]
        assert below or not parent or out[parent][0].kind is Kind.DIRECTORY, f"{entry.path} comes before its folder"
        out[entry.path] = (entry, b"".join(entry.body.chunks()) if entry.body else b"")
    return out


def text(tree: Tree, path: str) -> str:
    return tree[path][1].decode()


def facts(tree: Tree, path: str) -> tuple[str, int, int, int]:
    entry = tree[path][0]
    return str(entry.kind), entry.mode, entry.uid, entry.gid
