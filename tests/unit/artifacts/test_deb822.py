from __future__ import annotations

import pytest

from buildctl.artifacts.debian.deb822 import parse_stanzas
from buildctl.ground.errors import ArtifactError


def test_stanzas_come_with_the_line_that_they_begin_on() -> None:
    text = "\n# a comment\nPackage: a\nDescription: one\n two\n .\nVersion:  1:2 \n\n\n# more\nPackage: b\nEmpty:\n"
    assert list(parse_stanzas(text, "status")) == [
        (3, {"Package": "a", "Description": "one\n two\n .", "Version": "1:2"}),
        (11, {"Package": "b", "Empty": ""}),
    ]


def test_no_text_is_no_stanza() -> None:
    assert list(parse_stanzas("\n \n# nothing\n", "status")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" continued\n", "status:1: a continuation line without a field before it"),
        ("Package: a\n\n continued\n", "status:3: a continuation line"),
        ("Package: a\nno colon\n", "status:2: not a `Field: value` line: 'no colon'"),
        (": value\n", "status:1: not a `Field: value` line"),
        ("A B: value\n", "status:1: not a `Field: value` line"),
        ("Package: a\nVersion: 1\nPackage: b\n", "status:3: field Package is given twice"),
    ],
)
def test_what_is_no_stanza_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        list(parse_stanzas(text, "status"))
    assert caught.value.message.startswith(message)
