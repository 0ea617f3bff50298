from __future__ import annotations

import pytest

from buildctl.artifacts.debian.sources import apt_sources, example
from buildctl.ground.errors import ArtifactError
from tests.support.debs import SOURCES

FOLDER = "usr/share/doc/apt/examples"
OLD = """\
# See sources.list(5) manpage for more information
deb http://mirror.example.invalid/debian bookworm main contrib
deb http://mirror.example.invalid/debian bookworm-updates main contrib
deb http://mirror.example.invalid/debian-security bookworm-security main contrib
#deb-src http://mirror.example.invalid/debian bookworm main
"""


def test_a_release_that_is_being_prepared_has_the_example_of_the_one_before() -> None:
    text = apt_sources(SOURCES, "forky", f"apt: {FOLDER}/debian.sources")
    assert [line for line in text.splitlines() if line.startswith("Suites")] == [
        "Suites: forky forky-updates",
        "Suites: forky-security",
    ]
    assert "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n" in text
    assert text.count("Components: main\n") == 2


def test_debian_12_has_its_example_in_the_one_line_style() -> None:
    common = "Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    assert apt_sources(OLD, "bookworm", f"apt: {FOLDER}/sources.list") == (
        "Types: deb\nURIs: http://mirror.example.invalid/debian\nSuites: bookworm bookworm-updates\n"
        f"{common}\n"
        "Types: deb\nURIs: http://mirror.example.invalid/debian-security\nSuites: bookworm-security\n"
        f"{common}"
    )


@pytest.mark.parametrize(
    ("text", "name", "named"),
    [
        ("# nothing\n", "sources.list", "none"),
        ("deb http://mirror.example.invalid/debian sid main\n", "sources.list", "sid"),
        (SOURCES.replace("trixie-security", "sid-security"), "debian.sources", "trixie trixie-updates sid-security"),
    ],
)
def test_an_example_that_is_not_about_one_release(text: str, name: str, named: str) -> None:
    with pytest.raises(ArtifactError, match=f"{name} names the suites {named}; one release was expected"):
        apt_sources(text, "trixie", f"apt: {FOLDER}/{name}")


def test_where_apts_example_is() -> None:
    assert example(["usr/bin/apt", f"{FOLDER}/sources.list"]) == f"{FOLDER}/sources.list"
    with pytest.raises(ArtifactError, match=r"it names the archive that apt in the image uses") as caught:
        example(["usr/bin/apt"])
    assert caught.value.hint == "add apt to the packages of the base"
