"""dpkg's database (/var/lib/dpkg) as dpkg itself would have written it after installing the packages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from buildctl.artifacts.debian.deb import Control, Deb
from buildctl.ground.errors import ArtifactError
from buildctl.oci.entry import Entry, directory_entry, file_entry

ROOT = "var/lib/dpkg"
SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "config")
# Files of a control archive that dpkg keeps in info/ (deb(5)); another name means a dpkg that we do not know.
KEPT = (*SCRIPTS, "conffiles", "md5sums", "shlibs", "symbols", "templates", "triggers")


def database_entries(
    debs: Sequence[Deb], arch: str, *, left_out: Callable[[str], bool], content: Callable[[str], bytes]
) -> Iterator[Entry]:
    """`content` reads an installed file. `left_out` selects paths that are not installed.

    Those are missing from dpkg's lists too, or `dpkg -V` would call them lost.
    """
    for folder in ("alternatives", "info", "parts", "triggers", "updates"):
        yield directory_entry(f"{ROOT}/{folder}")
    yield file_entry(f"{ROOT}/info/format", b"1\n")
    yield file_entry(f"{ROOT}/arch-native", f"{arch}\n".encode())
    yield file_entry(f"{ROOT}/available", b"")
    yield file_entry(f"{ROOT}/diversions", b"")
    yield file_entry(f"{ROOT}/statoverride", b"")
    ordered = sorted(debs, key=lambda deb: deb.control.package)
    status = "\n".join(_stanza(deb.control, left_out, content) for deb in ordered)
    yield file_entry(f"{ROOT}/status", status.encode())
    for deb in ordered:
        yield from _info(deb, left_out)
    yield from _triggers([deb.control for deb in ordered])


def _stanza(control: Control, left_out: Callable[[str], bool], content: Callable[[str], bytes]) -> str:
    lines = []
    for name, value in control.fields.items():
        lines.append(f"{name}: {value}")
        if name == "Package":
            lines.append("Status: install ok installed")
    if conffiles := conffile_paths(control):
        lines.append("Conffiles:")
        for path in conffiles:
            # dpkg notes a conffile that it did not install as `newconffile`: not there, so nothing to compare with
            md5 = "newconffile" if left_out(path) else hashlib.md5(content(path), usedforsecurity=False).hexdigest()
            lines.append(f" /{path} {md5}")
    return "\n".join(lines) + "\n"


def conffile_paths(control: Control) -> list[str]:
    paths = []
    for line in control.files.get("conffiles", b"").decode().splitlines():
        path = line.strip()
        if path.startswith("/"):  # otherwise `remove-on-upgrade /path`: nothing that is installed
            paths.append(path.removeprefix("/"))
    return paths


def _info(deb: Deb, left_out: Callable[[str], bool]) -> Iterator[Entry]:
    stem = f"{ROOT}/info/{deb.control.unambiguous}"
    unknown = sorted(set(deb.control.files) - set(KEPT))
    if unknown:
        raise ArtifactError(f"{deb.control.package}: unknown control files {', '.join(unknown)}")
    names = [n for n in deb.names if n == "/." or not left_out(n.removeprefix("/"))]
    yield file_entry(f"{stem}.list", "".join(f"{n}\n" for n in names).encode())
    for name, data in sorted(deb.control.files.items()):
        kept = _md5sums(data, left_out) if name == "md5sums" else data
        yield file_entry(f"{stem}.{name}", kept, mode=0o755 if name in SCRIPTS else 0o644)


def _md5sums(data: bytes, left_out: Callable[[str], bool]) -> bytes:
    lines = data.decode("utf-8", "surrogateescape").splitlines()
    kept = [line for line in lines if not left_out(line.partition("  ")[2].removeprefix("./"))]
    return "".join(f"{line}\n" for line in kept).encode("utf-8", "surrogateescape")


def _triggers(controls: Iterable[Control]) -> Iterator[Entry]:
    """Who is interested in what: path triggers in one file, each named trigger in its own (deb-triggers(5))."""
    paths: list[str] = []
    named: dict[str, list[str]] = {}
    for control in controls:
        for directive, name in _directives(control):
            interested = control.unambiguous + ("/noawait" if directive == "interest-noawait" else "")
            if name.startswith("/"):
                paths.append(f"{name} {interested}")
            else:
                named.setdefault(name, []).append(interested)
    yield file_entry(f"{ROOT}/triggers/File", "".join(f"{line}\n" for line in paths).encode())
    yield file_entry(f"{ROOT}/triggers/Unincorp", b"")
    for name, interested_in in sorted(named.items()):
        yield file_entry(f"{ROOT}/triggers/{name}", "".join(f"{line}\n" for line in interested_in).encode())


def _directives(control: Control) -> Iterator[tuple[str, str]]:
    for line in control.files.get("triggers", b"").decode().splitlines():
        words = line.partition("#")[0].split()
        if len(words) == 2 and words[0].startswith("interest"):
            if "/" in words[1].removeprefix("/") and not words[1].startswith("/"):
                raise ArtifactError(f"{control.package}: malformed trigger {words[1]!r}")
            yield words[0], words[1]


def owners(debs: Iterable[Deb]) -> Mapping[str, str]:
    """Path -> package, for paths that only one package may have (no directories)."""
    return {entry.path: deb.control.package for deb in debs for entry in deb.entries if entry.kind != "directory"}
