"""The Python inside an unpacked image, found by looking: nothing of the image is run."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildctl.ground.errors import ResolveError

NAMES = ("python3", "python")
_LINKS = 40  # as the kernel's limit
_GLIBC = re.compile(rb"GNU C Library [^\n]{0,80}version (\d+\.\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePython:
    """`python` is MAJOR.MINOR, `interpreter` its absolute path, `home` the folder above its standard library, `purelib`
    where packages go (no leading slash). `commands` are those of NAMES that are on the image's PATH.
    """

    python: str
    interpreter: str
    home: str
    purelib: str
    commands: tuple[str, ...]


class ImageTree:
    """Files of an unpacked image by their path in it; links are followed inside the image only."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def real(self, path: str) -> str:
        """`path` with all links resolved, whether or not it exists. Raises ResolveError for a loop."""
        done, todo, links = "/", [part for part in path.split("/") if part], 0
        while todo:
            part = todo.pop(0)
            here = posixpath.normpath(posixpath.join(done, part))
            if here.startswith("//"):
                here = here[1:]
            full = self._full(here)
            if full.is_symlink():
                links += 1
                if links > _LINKS:
                    raise ResolveError(f"{path} in the image is a loop of links")
                target = str(full.readlink())
                done = "/" if target.startswith("/") else done
                todo = [p for p in target.split("/") if p] + todo
            else:
                done = here
        return done

    def place(self, path: str) -> Path:
        """Where a path of the image is here."""
        return self._full(self.real(path))

    def file(self, path: str) -> bool:
        return self._full(self.real(path)).is_file()

    def read(self, path: str) -> bytes:
        return self._full(self.real(path)).read_bytes()

    def names(self, folder: str) -> list[str]:
        full = self._full(self.real(folder))
        return sorted(path.name for path in full.iterdir()) if full.is_dir() else []

    def _full(self, path: str) -> Path:
        return self.root / path.removeprefix("/")


def find_python(tree: ImageTree, path: str) -> ImagePython:
    """What `python3`, or else `python`, is on `path` ($PATH). Raises ResolveError with what was found."""
    # a layer with a folder at the place of a link would replace it
    folders = list(dict.fromkeys(tree.real(folder) for folder in path.split(":") if folder.startswith("/")))
    found = [(name, f"{f.rstrip('/')}/{name}") for name in NAMES for f in folders if tree.file(f"{f}/{name}")]
    if not found:
        raise ResolveError(_nothing(tree, folders))
    commands = tuple(name for name in NAMES if any(name == n for n, _ in found))
    named = found[0][1]
    for home, prefix in _homes(tree, named):
        versions = [name for name in tree.names(f"{home}/lib") if re.fullmatch(r"python3\.\d+", name)]
        fitting = [v for v in versions if tree.file(f"{home}/lib/{v}/os.py") and tree.file(f"{prefix}/bin/{v}")]
        said = re.fullmatch(r"python3\.\d+", posixpath.basename(tree.real(named)))
        if said and said[0] in fitting:
            fitting = [said[0]]
        if len(fitting) == 1:
            version = fitting[0].removeprefix("python")
            return ImagePython(
                python=version,
                interpreter=f"{prefix}/bin/python{version}",
                home=home,
                purelib=_purelib(tree, prefix, home, version),
                commands=commands,
            )
    raise ResolveError(
        f"{named} (really {tree.real(named)}) is not a whole Python: its folder needs python3.N, and next to it "
        "lib/python3.N with os.py"
    )


def _homes(tree: ImageTree, named: str) -> Iterator[tuple[str, str]]:
    """(above the standard library, above the program): of a virtual environment that which its pyvenv.cfg names."""
    above = posixpath.dirname(posixpath.dirname(named))
    if tree.file(f"{above}/pyvenv.cfg"):
        text = tree.read(f"{above}/pyvenv.cfg").decode("utf-8", "replace")
        if match := re.search(r"^home\s*=\s*(\S+)", text, re.MULTILINE):
            yield posixpath.dirname(match[1]), above
    yield above, above
    real = posixpath.dirname(posixpath.dirname(tree.real(named)))
    yield real, real


def _purelib(tree: ImageTree, prefix: str, home: str, version: str) -> str:
    """Debian's Python, outside of a virtual environment, keeps what others install below local, in dist-packages: the
    scheme `posix_local`, which it adds to sysconfig.
    """
    files = (f"{home}/lib/python{version}/{name}" for name in ("sysconfig/__init__.py", "sysconfig.py"))
    text = next((tree.read(file) for file in files if tree.file(file)), b"")
    if prefix == home and b"posix_local" in text:
        return f"{prefix.removeprefix('/')}/local/lib/python{version}/dist-packages"
    return f"{prefix.removeprefix('/')}/lib/python{version}/site-packages"


def _nothing(tree: ImageTree, folders: Sequence[str]) -> str:
    elsewhere = [
        f"{folder}/{name}"
        for folder in ("/usr/bin", "/usr/local/bin", *(f"/opt/{name}/bin" for name in tree.names("/opt")))
        for name in tree.names(folder)
        if re.fullmatch(r"python(3(\.\d+)?)?", name)
    ]
    there = f"; there is {', '.join(elsewhere)}, which is not" if elsewhere else ", and no other Python was found"
    return f"no python3 or python is on its PATH ({':'.join(folders)}){there}"


def find_glibc(tree: ImageTree) -> str:
    """MAJOR.MINOR of the C library. Raises ResolveError where there is none, as in Alpine."""
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):
        for name in ("", *(n for n in tree.names(folder) if n.endswith("-linux-gnu"))):
            path = posixpath.join(folder, name, "libc.so.6")
            if tree.file(path) and (match := _GLIBC.search(tree.read(path))):
                return match[1].decode()
    musl = [name for name in tree.names("/lib") if name.startswith("ld-musl-")]
    has = f"it has musl ({musl[0]})" if musl else "no libc.so.6 was found"
    raise ResolveError(f"no GNU C library, which PyTorch's wheels need: {has}")


def find_user(tree: ImageTree, user: str) -> str:
    """`UID:GID` of an image's `User`, which may be a name; empty for root and for an image that names none."""
    name, _, group = user.partition(":")
    accounts = [line.split(":") for line in _lines(tree, "/etc/passwd")]
    entry = next((a for a in accounts if len(a) > 3 and name in (a[0], a[2])), None)
    groups = {g[0]: g[2] for g in (line.split(":") for line in _lines(tree, "/etc/group")) if len(g) > 2}
    uid = entry[2] if entry else name
    gid = groups.get(group, group) or (entry[3] if entry else uid)
    if not name or uid == "0":
        return ""
    if not uid.isdigit() or not gid.isdigit():
        raise ResolveError(f"its user {user!r} is not in /etc/passwd or /etc/group")
    return f"{uid}:{gid}"


def _lines(tree: ImageTree, path: str) -> list[str]:
    return tree.read(path).decode("utf-8", "replace").splitlines() if tree.file(path) else []
