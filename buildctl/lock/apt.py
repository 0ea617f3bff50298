"""Asking apt: a base's packages and what they depend on, in a private root, with the archive's signatures checked."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.console.log import say
from buildctl.ground import run
from buildctl.ground.errors import ResolveError, ResolverError, SourceError, ToolError
from buildctl.ground.scratch import scratch
from buildctl.lock.apt_sources import ARCHIVES
from buildctl.lock.debian import NAME, inputs_of, shipped_base
from buildctl.matrix.cells import DebianBase, Flavour
from buildctl.oci.digest import Digest

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# The archive's keys of Debian 12 and 13, from Debian's package of them; tests/unit/lock/test_debian.py has their
# fingerprints. A machine that is not Debian has none, or those of years ago.
SHIPPED = Path(__file__).with_name("debian-archive-keys.gpg")


# Of the machine's apt configuration only how to reach servers and how to judge their clocks; never what to trust.
INHERITED = re.compile(
    r"Acquire::(http|https|Retries|Check-Valid-Until|Check-Date|Max-ValidTime)(::.*)?", re.IGNORECASE
)


URI_LINE = re.compile(r"'([^']+)' (\S+_\S+_\S+)\.deb ([0-9]+) SHA256:([0-9a-f]{64})")


DEADLINE = 300.0  # seconds for one run of apt


def resolve_base(
    base: DebianBase, arch: str, *, mirrors: Mapping[str, Sequence[str]], keyring: Path | None = None
) -> dict[Flavour, BaseLock]:
    """Resolve the flavours of `base` for `arch` against the current archive, all from one state of it.

    Includes every essential package of the suite: others depend on them implicitly. Raises LockError: apt or
    the keyring is missing, the archive cannot be reached or is not signed by Debian, packages do not exist or conflict.
    """
    with scratch("apt") as folder:
        root = Path(folder)
        sources = private_root(root, base.suite, arch, mirrors, keyring)
        update(root, base.suite)
        runtime = _packages(root, sources, base, base.packages)
        locks = {Flavour.RUNTIME: _lock(base, Flavour.RUNTIME, arch, runtime)}
        if base.devel:
            known = {p.name for p in runtime}
            everything = _packages(root, sources, base, [*base.packages, *base.devel])
            if lost := known - {p.name for p in everything}:
                raise ResolveError(f"{base.name}: the devel packages would remove {', '.join(sorted(lost))}")
            locks[Flavour.DEVEL] = _lock(base, Flavour.DEVEL, arch, [p for p in everything if p.name not in known])
    return locks


def apt_problem(keyring: Path = KEYRING) -> str | None:
    """Why nothing can be resolved on this machine; None if it can be tried."""
    if run.which("apt-get") is None:
        return "bases are resolved with Debian's apt-get, which is not here"
    return None if keyring.is_file() else f"there are no keys to verify Debian's signature: {keyring} does not exist"


def instead_of_apt(base: DebianBase, arch: str, *, keyring: Path = KEYRING) -> dict[Flavour, BaseLock]:
    """What comes with buildctl, where this machine cannot ask apt; nothing where it can, or for another base."""
    problem = apt_problem(keyring)
    found = shipped_base(base, arch) if problem else ()
    if found:
        say(f"{base.name} for {arch}: as it comes with buildctl, because {problem}")
    return {Flavour(lock.flavour): lock for lock in found}


KEYRING_HINT = "install or upgrade the keyring: sudo apt-get install debian-archive-keyring"


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
    root: Path, suite: str, arch: str, mirrors: Mapping[str, Sequence[str]], keyring: Path | None
) -> dict[str, str]:
    """Folders and configuration of an apt below `root`; returns base URL -> archive. Without a `keyring` it trusts this
    machine's keys of Debian's archive and the shipped ones. Raises ResolverError for a keyring that does not exist.
    """
    keys = _trusted(root, keyring)
    for name in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/trusted.gpg.d", "var/lib/apt/lists/partial"):
        (root / name).mkdir(parents=True)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    (root / "status").touch()
    urls = {archive: mirrors[archive][0] for archive in ARCHIVES}
    lines = [
        f"deb [signed-by={keys}] {urls['debian']} {suite} main",
        f"deb [signed-by={keys}] {urls['debian']} {suite}-updates main",
        f"deb [signed-by={keys}] {urls['debian-security']} {suite}-security main",
    ]
    (root / "etc/apt/sources.list").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    settings = [*_inherited(), *_settings(root, arch)]
    (root / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings), encoding="utf-8")
    return {url: archive for archive, url in urls.items()}


def _trusted(root: Path, keyring: Path | None) -> Path:
    if keyring is not None:
        if not keyring.is_file():
            raise ResolverError(f"no keys to verify Debian's signature: {keyring} does not exist", hint=KEYRING_HINT)
        return keyring
    both = root / "debian-archive-keys.gpg"  # keyrings in a row are a keyring (RFC 9580, "transferable public keys")
    both.write_bytes(b"".join(path.read_bytes() for path in (KEYRING, SHIPPED) if path.is_file()))
    return both


def _settings(root: Path, arch: str) -> list[tuple[str, str]]:
    return [
        ("Dir", str(root)),
        ("Dir::State::status", str(root / "status")),
        ("Dir::Etc::netrc", "/etc/apt/auth.conf"),  # passwords of a private mirror come from the machine
        ("Dir::Etc::netrcparts", "/etc/apt/auth.conf.d"),
        ("APT::Architecture", arch),
        ("APT::Architectures::", arch),
        ("APT::Install-Recommends", "false"),
        ("APT::Install-Suggests", "false"),
        # do not drop from root to the user apt, who cannot access the folder
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
        if re.search(rf"{re.escape(suite)}(-updates)? Release' does not have a Release file", error.message):
            raise ResolveError(
                f"the archive has no Debian release {suite} with updates:\n{error.message}",
                hint="use bookworm (Debian 12), trixie (13) or forky (14) for `debian`, or a mirror that has it",
            ) from error
        hint = KEYRING_HINT if unsigned else "check the mirror; set `mirror: {debian: URL}` in matrix.yaml"
        raise SourceError(f"apt cannot read the archive of {suite}: {error.message}", hint=hint) from error


def _packages(root: Path, sources: Mapping[str, str], base: DebianBase, names: Sequence[str]) -> list[DebPackage]:
    wrong = [name for name in names if not NAME.fullmatch(name)]
    if wrong:
        raise ResolveError(f"bases.{base.name}: not Debian package names: {', '.join(map(repr, wrong))}")
    try:
        out = apt(["apt-get", "install", "--print-uris", "-qq", "--", "?essential", *sorted(set(names))], root)
    except ToolError as error:
        message = f"bases.{base.name}: apt cannot resolve the packages: {error.message}"
        raise ResolveError(message, hint=one_of(error, root)) from error
    packages = [parse_uri(line, sources) for line in out.splitlines() if line.startswith("'")]
    # apt reads an unknown name as a pattern, or as something that another package provides
    taken = {p.name for p in packages}
    if unknown := unprovided(set(names) - taken, taken, root, f"bases.{base.name}"):
        raise ResolveError(f"bases.{base.name}: no such package in {base.suite}: {', '.join(unknown)}")
    return packages


def unprovided(names: Iterable[str], taken: Collection[str], root: Path, where: str) -> list[str]:
    """Those of `names` that none of the packages `taken` provides. The others are told: Debian renames libraries, and
    the package of the new name provides the old one (libglib2.0-0 of Debian 12 is libglib2.0-0t64 in 13).
    """
    lost = []
    for name in sorted(names):
        if found := providers(name, root) & set(taken):
            say(f"{where}: {name} is provided by {', '.join(sorted(found))}, which is locked")
        else:
            lost.append(name)
    return lost


def providers(name: str, root: Path) -> set[str]:
    """The packages that provide `name`, which is not one itself."""
    _, _, lines = apt(["apt-cache", "showpkg", "--", name], root).partition("Reverse Provides:")
    return {line.split()[0] for line in lines.splitlines() if line.strip()}


def one_of(error: ToolError, root: Path) -> str | None:
    """The next step where apt would not choose between the packages that provide a name."""
    name = re.search(r"Package '([^']+)' has no installation candidate", error.message)
    found = sorted(providers(name[1], root)) if name else []
    return f"write one of the packages that provide {name[1]}: {', '.join(found)}" if name and found else None


def parse_uri(line: str, sources: Mapping[str, str]) -> DebPackage:
    match = URI_LINE.fullmatch(line.strip())
    root = next((url for url in sources if match and match[1].startswith(f"{url}/pool/")), None)
    if match is None or root is None:
        raise ResolverError(f"cannot parse a line of apt's output: {line[:200]}")
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
        # its temporary files go with the folder, also when it is killed
        env |= {"APT_CONFIG": str(root / "apt.conf"), "TMPDIR": str(root)}
    hint = "locking a Debian base needs apt: run `buildctl lock` on Debian or Ubuntu; building does not"
    return run.run(argv, timeout=DEADLINE, env=env, missing_hint=hint).stdout
