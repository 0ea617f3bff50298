from __future__ import annotations

import io

import pytest

from buildctl.console.log import say
from buildctl.console.plain import Plain, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("torch 2.6.0\n\tok", "torch 2.6.0\n\tok"),
        ("中文 ü", "中文 ü"),
        ("\x1b[2Jgone", "?[2Jgone"),
        ("PASSED\rFAILED", "PASSED?FAILED"),
        ("\x9b31m \x7f \x00", "?31m ? ?"),
        ("a\u202eb\u2066c", "a?b?c"),
        ("caf\udce9 \ud800", "caf? ?"),
    ],
)
def test_control_characters_become_question_marks(text: str, shown: str) -> None:
    assert plain(text) == shown
    stream = io.StringIO()
    print(text, end="", file=Plain(stream))
    assert stream.getvalue() == shown


def test_the_story_holds_none(capsys: pytest.CaptureFixture[str]) -> None:
    say("evil\x1b]0;title\x07.example")
    assert capsys.readouterr().err == "evil?]0;title?.example\n"
