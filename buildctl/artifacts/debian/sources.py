"""Where apt in an image gets packages from: Debian's own example, so that no host is named by us."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from buildctl.artifacts.debian.deb822 import parse_stanzas
from buildctl.ground.errors import ArtifactError

# The package apt has the one form or the other; Debian 13 was the first release with the newer one.
FOLDER = "usr/share/doc/apt/examples"
EXAMPLES = (f"{FOLDER}/debian.sources", f"{FOLDER}/sources.list")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

Stanza = Mapping[str, str]


def apt_sources(text: str, suite: str, source: str) -> str:
    """/etc/apt/sources.list.d/debian.sources for `suite`, from an example of apt in `source`, reduced to `main`.

    The example in a release that is being prepared names the one before it: the suites are what the lock is for. Raises
    ArtifactError for an example that is not about one release with its updates and security.
    """
    new = source.endswith(".sources")
    stanzas = [fields for _, fields in parse_stanzas(text, source)] if new else list(_one_line_style(text))
    suites = " ".join(stanza.get("Suites", "") for stanza in stanzas).split()
    named = min(suites, key=len, default="")
    if not named or set(suites) != {named, f"{named}-updates", f"{named}-security"}:
        raise ArtifactError(
            f"{source} names the suites {' '.join(suites) or 'none'}; one release was expected, with its updates and "
            "security"
        )
    return "\n".join(_stanza(stanza, named, suite) for stanza in stanzas)


def _stanza(stanza: Stanza, named: str, suite: str) -> str:
    suites = " ".join(f"{suite}{word.removeprefix(named)}" for word in stanza["Suites"].split())
    return "".join(f"{key}: {value}\n" for key, value in {**stanza, "Suites": suites, "Components": "main"}.items())


def _one_line_style(text: str) -> Iterator[Stanza]:
    """`deb URI SUITE COMPONENT...` (sources.list(5)) as stanzas, one for each URI."""
    by_uri: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"deb\s+(\S+)\s+(\S+)(\s+\S+)+\s*", line):
            by_uri.setdefault(match[1], []).append(match[2])
    for uri, suites in by_uri.items():
        yield {"Types": "deb", "URIs": uri, "Suites": " ".join(suites), "Components": "main", "Signed-By": KEYRING}


def example(paths: Iterable[str]) -> str:
    """Which of `paths` is apt's example. Raises ArtifactError."""
    there: Sequence[str] = [path for path in paths if path in EXAMPLES]
    if not there:
        raise ArtifactError(
            f"no {EXAMPLES[0]} in the packages of this base: it names the archive that apt in the image uses",
            hint="add apt to the packages of the base",
        )
    return there[0]
