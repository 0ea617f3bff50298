"""Where this machine would fetch Debian packages from. Read from its configuration: we hard-code no host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from buildctl.artifacts.debian.deb822 import parse_stanzas
from buildctl.ground.errors import ArtifactError, SettingsError

ARCHIVES = ("debian", "debian-security")
# Programs that make Debian systems know the mirror where apt's own sources are another distribution's (Ubuntu).
PACKAGED_DEFAULTS = (
    "usr/share/debootstrap/scripts/sid",
    "usr/sbin/debootstrap",
    "usr/bin/mmdebstrap",
    "usr/share/python-apt/templates/Debian.info",
)
DEFAULT = re.compile(r"https?://[\w.:-]+(?:/[\w.~-]+)*?/debian(-security)?/?(?=['\"\s]|$)", re.MULTILINE)
MIRROR = "BUILDCTL_DEBIAN_MIRROR"
HINT = (
    f"set ${MIRROR}, or `mirror: {{debian: URL}}` in matrix.yaml, or install mmdebstrap or debootstrap, which know "
    "Debian's mirror"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AptSource:
    """One repository that apt is configured for."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


def apt_mirrors(mirror: str | None = None, *, root: Path = Path("/")) -> Mapping[str, tuple[str, ...]]:
    """Base URLs of both archives, best first, no trailing slash: Filename in a lock is relative to them.

    The variable BUILDCTL_DEBIAN_MIRROR wins, as a machine knows its own mirror; then a `mirror` setting; then apt's
    sources on Debian; then the packaged defaults of debootstrap and mmdebstrap. Raises LockError if nothing on this
    machine names Debian's archive.
    """
    found: dict[str, list[str]] = {archive: [] for archive in ARCHIVES}
    mirror = _from_environment() or mirror
    if mirror:
        found["debian"].append(mirror.rstrip("/"))
    else:
        for source in sorted(read_sources(root), key=_unlikely):
            if _is_debian(root, source):
                found[_archive(source)].append(source.uri)
        if not found["debian"]:
            for text in _packaged(root):
                for match in DEFAULT.finditer(text):
                    found["debian-security" if match[1] else "debian"].append(match[0].rstrip("/"))
    if not found["debian"]:
        raise SettingsError("no Debian mirror is configured on this machine", hint=HINT)
    # mirrors carry the security archive next to the main one
    found["debian-security"] += [f"{u}-security" for u in found["debian"] if u.endswith("/debian")]
    if not found["debian-security"]:
        raise SettingsError(
            f"cannot derive the mirror's security archive: {found['debian'][0]} does not end in /debian"
        )
    return {archive: tuple(dict.fromkeys(urls)) for archive, urls in found.items()}


def _from_environment() -> str:
    """Raises SettingsError for anything but a URL."""
    mirror = os.environ.get(MIRROR, "")
    if mirror and not re.fullmatch(r"https?://[^\s/]+(/[^\s?#]*)?", mirror):
        raise SettingsError(f"{MIRROR}={mirror} is not a URL", hint="http://HOST/debian or https://HOST/debian")
    return mirror


def read_sources(root: Path = Path("/")) -> list[AptSource]:
    """Enabled binary sources of apt, both formats (sources.list(5)), in apt's order."""
    folder = root / "etc" / "apt"
    main = [folder / "sources.list"]
    parts = sorted((folder / "sources.list.d").glob("*")) if (folder / "sources.list.d").is_dir() else []
    out: list[AptSource] = []
    for path in [*main, *parts]:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # apt of this user could not read it either
        out += _one_line(text) if path.suffix == ".list" else _deb822(text, str(path))
    return out


def _one_line(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)", line)
        if match:
            options = dict(o.partition("=")[::2] for o in (match[1] or "").split())
            yield from _sources([match[2]], [match[3]], match[4].split(), options.get("signed-by", ""))


def _deb822(text: str, path: str) -> Iterator[AptSource]:
    try:
        stanzas = [{k.lower(): v for k, v in fields.items()} for _, fields in parse_stanzas(text, path)]
    except ArtifactError:
        return  # apt also refuses such a file
    for stanza in stanzas:
        enabled = stanza.get("enabled", "yes").strip().lower() not in ("no", "false", "0")
        if enabled and "deb" in stanza.get("types", "").split():
            yield from _sources(
                stanza.get("uris", "").split(),
                stanza.get("suites", "").split(),
                stanza.get("components", "").split(),
                stanza.get("signed-by", ""),
            )


def _sources(uris: Iterable[str], suites: list[str], components: list[str], signed_by: str) -> Iterator[AptSource]:
    for uri in uris:
        if uri.startswith(("http://", "https://")):  # mirror lists, cdrom: and file: are of no use to a downloader
            # a source per kind of suite: one stanza may name both archives of a mirror that merges them
            for security in (False, True):
                some = tuple(s for s in suites if _is_security(s) == security)
                if some:
                    yield AptSource(uri=uri.rstrip("/"), suites=some, components=tuple(components), signed_by=signed_by)


def _is_security(suite: str) -> bool:
    return suite.endswith(("-security", "/updates"))


def _archive(source: AptSource) -> str:
    return "debian-security" if _is_security(source.suites[0]) else "debian"


def _is_debian(root: Path, source: AptSource) -> bool:
    """Third parties use Debian's suite names too; then they name a keyring of their own."""
    if "main" not in source.components or not set(source.suites) & _suites(root):
        return False
    return not source.signed_by or "debian-archive" in source.signed_by or "BEGIN PGP" in source.signed_by


def _suites(root: Path) -> set[str]:
    """The names under which this machine's own Debian release appears in sources; none on other distributions."""
    try:
        lines = (root / "etc" / "os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    release = {k: v.strip('"') for k, _, v in (line.partition("=") for line in lines)}
    if release.get("ID") != "debian":
        return set()
    names = {release.get("VERSION_CODENAME", ""), "oldstable", "stable", "testing", "unstable", "sid", "forky"} - {""}
    suffixes = ("", "-updates", "-security", "/updates")
    return {f"{name}{suffix}" for name in names for suffix in suffixes}


def _unlikely(source: AptSource) -> bool:
    """Sorts URLs that look like Debian's own layout to the front."""
    return not source.uri.endswith(("/debian", "/debian-security"))


def _packaged(root: Path) -> Iterator[str]:
    for name in PACKAGED_DEFAULTS:
        path = root / name
        if path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace")
