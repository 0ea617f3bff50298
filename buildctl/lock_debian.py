"""The Debian half of the lock: every package of a base pinned by name, version, file, size and SHA-256.

apt itself resolves, in a private root, for any architecture on any machine: no root rights, no foreign packages on the
host, signatures of the archive checked. A lock names no host; `apt_mirrors` says where to fetch from.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from buildctl.apt_sources import ARCHIVES, apt_mirrors
from buildctl.artifacts.debian.deb822 import parse_stanzas
from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.ground import run
from buildctl.ground.errors import ArtifactError, LockError, ToolError
from buildctl.matrix.cells import DebianBase, Flavour
from buildctl.oci.digest import Digest
from buildctl.oci.files import write_whole
from buildctl.oci.image import canonical_json

__all__ = [
    "BaseLock",
    "DebPackage",
    "apt_mirrors",
    "changes",
    "format_base_lock",
    "inputs_of",
    "is_stale",
    "read_base_lock",
    "resolve_base",
    "write_base_lock",
]

FORMAT = 1
FIELDS = ("Package", "Version", "Architecture", "Archive", "Filename", "Size", "SHA256")
HEAD = ("base", "flavour", "arch", "suite", "inputs")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Of the machine's apt configuration only how to reach servers and how to judge their clocks; never what to trust.
INHERITED = re.compile(
    r"Acquire::(http|https|Retries|Check-Valid-Until|Check-Date|Max-ValidTime)(::.*)?", re.IGNORECASE
)
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+]")
VERSION = re.compile(r"[A-Za-z0-9.+:~-]+")
FILENAME = re.compile(r"pool/(?:[A-Za-z0-9_+~][A-Za-z0-9_.+~:%-]*/)+[A-Za-z0-9_.+~:%-]+\.deb")
URI_LINE = re.compile(r"'([^']+)' (\S+_\S+_\S+)\.deb ([0-9]+) SHA256:([0-9a-f]{64})")
DEADLINE = 300.0  # seconds for one run of apt


def inputs_of(base: DebianBase, flavour: Flavour, arch: str) -> str:
    """The digest of everything in the matrix that the resolution depends on."""
    value = {
        "format": FORMAT,
        "base": base.name,
        "suite": base.suite,
        "packages": sorted(set(base.packages)),
        "devel": sorted(set(base.devel)) if flavour is Flavour.DEVEL else [],
        "flavour": str(flavour),
        "arch": arch,
    }
    return str(Digest.of(canonical_json(value)))


def is_stale(base: DebianBase, lock: BaseLock) -> str | None:
    """Why the lock no longer is what the matrix asks for, None when it is."""
    if (lock.base, lock.suite) != (base.name, base.suite):
        return f"it is for {lock.base} ({lock.suite}), the matrix says {base.name} ({base.suite})"
    if lock.inputs != inputs_of(base, Flavour(lock.flavour), lock.arch):
        return "matrix.yaml changed after it was written (the packages of the base)"
    return None


def changes(old: BaseLock, new: BaseLock) -> list[str]:
    """What a person reads: `NAME OLD -> NEW`, `NAME VERSION added`, `NAME VERSION removed`, sorted by name."""
    before, after = ({p.name: p.version for p in lock.packages} for lock in (old, new))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            lines.append(f"{name} {after[name]} added")
        elif name not in after:
            lines.append(f"{name} {before[name]} removed")
        elif before[name] != after[name]:
            lines.append(f"{name} {before[name]} -> {after[name]}")
    return lines


# ---------------------------------------------------------------------------------------------------- the lock file


def format_base_lock(lock: BaseLock) -> str:
    lines = ["# Written by `buildctl lock`. Debian packages of a base; Filename is below the root of Archive."]
    lines += [f"# {key}: {getattr(lock, key)}" for key in HEAD]
    for package in lock.packages:
        values = (
            package.name,
            package.version,
            package.architecture,
            package.archive,
            package.filename,
            str(package.size),
            package.digest.hex,
        )
        lines += ["", *(f"{field}: {value}" for field, value in zip(FIELDS, values, strict=True))]
    return "\n".join(lines) + "\n"


def write_base_lock(path: Path, lock: BaseLock) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, format_base_lock(lock).encode())


def read_base_lock(path: Path) -> BaseLock:
    """Strict: LockError with file and line for anything that write_base_lock would not have written."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LockError(f"{path}: no such lock", hint="run `buildctl lock`") from None
    except UnicodeDecodeError as error:
        raise LockError(f"{path}: not UTF-8: {error}", hint="run `buildctl lock`") from None
    head = _read_head(path, text)
    try:
        packages = tuple(_read_package(path, line, fields) for line, fields in parse_stanzas(text, str(path)))
    except ArtifactError as error:
        raise LockError(error.message, hint="restore the file, or run `buildctl lock`") from error
    lock = BaseLock(packages=packages, **head)
    names = [p.name for p in packages]
    # what an image adds (lock_added) may all be in its base already
    if names != sorted(names) or len(set(names)) != len(names) or not (names or "_" in lock.base):
        raise LockError(f"{path}: packages must be there, sorted by name, each once", hint="run `buildctl lock`")
    if lock.flavour not in tuple(Flavour) or not re.fullmatch(r"sha256:[0-9a-f]{64}", lock.inputs):
        raise LockError(f"{path}:1: malformed flavour or inputs", hint="run `buildctl lock`")
    wrong = [p.name for p in packages if p.architecture not in ("all", lock.arch)]
    if wrong:
        raise LockError(f"{path}: packages of another architecture than {lock.arch}: {', '.join(wrong)}")
    return lock


def _read_head(path: Path, text: str) -> dict[str, str]:
    head: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.startswith("#"):
            break
        key, colon, value = line.removeprefix("# ").partition(": ")
        if colon and key in HEAD:
            if key in head:
                raise LockError(f"{path}:{number}: `{key}` is given twice")
            head[key] = value
    missing = [k for k in HEAD if not head.get(k)]
    if missing:
        raise LockError(f"{path}:1: the header lacks {', '.join(missing)}", hint="run `buildctl lock`")
    return head


def _read_package(path: Path, line: int, fields: dict[str, str]) -> DebPackage:
    where = f"{path}:{line}"
    if tuple(fields) != FIELDS:
        raise LockError(f"{where}: fields must be {', '.join(FIELDS)}; found {', '.join(fields)}")
    name, version, architecture, archive, filename, size, sha256 = (fields[f] for f in FIELDS)
    if not NAME.fullmatch(name) or not VERSION.fullmatch(version) or not NAME.fullmatch(architecture):
        raise LockError(f"{where}: malformed package, version or architecture: {name} {version} {architecture}")
    if archive not in ARCHIVES:
        raise LockError(f"{where}: {name}: archive must be one of {', '.join(ARCHIVES)}, not {archive!r}")
    if not FILENAME.fullmatch(filename) or ".." in filename:
        raise LockError(f"{where}: {name}: malformed Filename {filename!r}")
    if not re.fullmatch(r"[1-9][0-9]{0,11}", size) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise LockError(f"{where}: {name}: malformed Size or SHA256")
    return DebPackage(
        name=name,
        version=version,
        architecture=architecture,
        archive=archive,
        filename=filename,
        size=int(size),
        digest=Digest(sha256),
    )


# ------------------------------------------------------------------------------------------------------- resolving


def resolve_base(
    base: DebianBase, arch: str, *, mirrors: Mapping[str, Sequence[str]], keyring: Path = KEYRING
) -> dict[Flavour, BaseLock]:
    """Resolve the flavours of `base` for `arch` against the archive as it is now, all from one state of it.

    Every essential package of the suite is in: other packages rely on them without saying so. Raises LockError: apt or
    the keyring is missing, the archive cannot be reached or is not signed by Debian, packages do not exist or conflict.
    """
    if not keyring.is_file():
        raise LockError(f"no keys to check Debian's signature with: {keyring}", hint=KEYRING_HINT)
    with tempfile.TemporaryDirectory(prefix="buildctl-apt-") as folder:
        root = Path(folder)
        sources = private_root(root, base.suite, arch, mirrors, keyring)
        update(root, base.suite)
        runtime = _packages(root, sources, base, base.packages)
        locks = {Flavour.RUNTIME: _lock(base, Flavour.RUNTIME, arch, runtime)}
        if base.devel:
            known = {p.name for p in runtime}
            everything = _packages(root, sources, base, [*base.packages, *base.devel])
            if lost := known - {p.name for p in everything}:
                raise LockError(f"{base.name}: the devel packages drive out {', '.join(sorted(lost))}")
            locks[Flavour.DEVEL] = _lock(base, Flavour.DEVEL, arch, [p for p in everything if p.name not in known])
    return locks


KEYRING_HINT = "install (or upgrade) the package debian-archive-keyring: apt-get install debian-archive-keyring"


def _lock(base: DebianBase, flavour: Flavour, arch: str, packages: Sequence[DebPackage]) -> BaseLock:
    return BaseLock(
        base=base.name,
        flavour=str(flavour),
        arch=arch,
        suite=base.suite,
        inputs=inputs_of(base, flavour, arch),
        packages=tuple(sorted(packages, key=lambda p: p.name)),
    )


def private_root(
    root: Path, suite: str, arch: str, mirrors: Mapping[str, Sequence[str]], keyring: Path
) -> dict[str, str]:
    """Folders and configuration of an apt below `root`; returns base URL -> archive."""
    for name in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/trusted.gpg.d", "var/lib/apt/lists/partial"):
        (root / name).mkdir(parents=True)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    (root / "status").touch()
    urls = {archive: mirrors[archive][0] for archive in ARCHIVES}
    lines = [
        f"deb [signed-by={keyring}] {urls['debian']} {suite} main",
        f"deb [signed-by={keyring}] {urls['debian']} {suite}-updates main",
        f"deb [signed-by={keyring}] {urls['debian-security']} {suite}-security main",
    ]
    (root / "etc/apt/sources.list").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    settings = [*_inherited(), *_settings(root, arch)]
    (root / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings), encoding="utf-8")
    return {url: archive for archive, url in urls.items()}


def _settings(root: Path, arch: str) -> list[tuple[str, str]]:
    return [
        ("Dir", str(root)),
        ("Dir::State::status", str(root / "status")),
        ("Dir::Etc::netrc", "/etc/apt/auth.conf"),  # passwords of a private mirror are the machine's
        ("Dir::Etc::netrcparts", "/etc/apt/auth.conf.d"),
        ("APT::Architecture", arch),
        ("APT::Architectures::", arch),
        ("APT::Install-Recommends", "false"),
        ("APT::Install-Suggests", "false"),
        # root may not drop to apt here: the folder is not that user's
        ("APT::Sandbox::User", "root"),
        ("APT::Get::Assume-Yes", "true"),
        ("APT::Get::AllowUnauthenticated", "false"),
        ("APT::Update::Error-Mode", "any"),
        ("Acquire::AllowInsecureRepositories", "false"),
        ("Acquire::AllowWeakRepositories", "false"),
        ("Acquire::AllowDowngradeToInsecureRepositories", "false"),
        ("Acquire::ForceHash", "SHA256"),
        ("Acquire::Languages", "none"),
    ]


def _inherited() -> Iterator[tuple[str, str]]:
    dump = apt(["apt-config", "dump", "--format", "%F %v%n"], None)
    for line in dump.splitlines():
        key, _, value = line.partition(" ")
        if INHERITED.fullmatch(key) and value and '"' not in value:
            yield key, value


def update(root: Path, suite: str) -> None:
    try:
        apt(["apt-get", "update", "-q"], root)
    except ToolError as error:
        unsigned = re.search("NO_PUBKEY|is not signed|signatures? (?:were|was|couldn't)|verif", error.message)
        hint = KEYRING_HINT if unsigned else "is the mirror right? set `mirror: {debian: URL}` in matrix.yaml"
        raise LockError(f"apt cannot read the archive of {suite}: {error.message}", hint=hint) from error


def _packages(root: Path, sources: Mapping[str, str], base: DebianBase, names: Sequence[str]) -> list[DebPackage]:
    wrong = [name for name in names if not NAME.fullmatch(name)]
    if wrong:
        raise LockError(f"bases.{base.name}: not names of Debian packages: {', '.join(map(repr, wrong))}")
    try:
        out = apt(["apt-get", "install", "--print-uris", "-qq", "--", "?essential", *sorted(set(names))], root)
    except ToolError as error:
        raise LockError(f"bases.{base.name}: apt cannot resolve the packages: {error.message}") from error
    packages = [parse_uri(line, sources) for line in out.splitlines() if line.startswith("'")]
    # apt takes a name that it does not know for a pattern, or for something that another package provides
    if unknown := sorted(set(names) - {p.name for p in packages}):
        raise LockError(f"bases.{base.name}: no such package in {base.suite}: {', '.join(unknown)}")
    return packages


def parse_uri(line: str, sources: Mapping[str, str]) -> DebPackage:
    match = URI_LINE.fullmatch(line.strip())
    root = next((url for url in sources if match and match[1].startswith(f"{url}/pool/")), None)
    if match is None or root is None:
        raise LockError(f"apt gave a line that is not understood: {line[:200]}")
    name, version, architecture = unquote(match[2]).split("_")
    return DebPackage(
        name=name,
        version=version,
        architecture=architecture,
        archive=sources[root],
        filename=unquote(match[1].removeprefix(f"{root}/")),
        size=int(match[3]),
        digest=Digest(match[4]),
    )


def apt(argv: Sequence[str], root: Path | None) -> str:
    env = {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "C"}
    if root is not None:
        env["APT_CONFIG"] = str(root / "apt.conf")
    hint = "the lock of a Debian base is made with apt: run `buildctl lock` on Debian or Ubuntu; building needs no apt"
    return run.run(argv, timeout=DEADLINE, env=env, missing_hint=hint).stdout
