from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildctl.dockerfile.parse import assignments, expand, parse_dockerfile, words
from buildctl.ground.errors import DockerfileError


def only(text: str) -> object:
    (instruction,) = parse_dockerfile(text, path="Dockerfile")
    return instruction


def test_instructions_know_keyword_flags_text_and_line() -> None:
    found = parse_dockerfile(
        "# syntax=docker/dockerfile:1\n\nARG BASE=base\nfrom --platform=$BUILDPLATFORM ${BASE} AS a\n"
        "COPY --link --from=x /out/ /\n",
        path="images/x/Dockerfile",
    )
    assert [(i.keyword, i.line, i.flags, i.text) for i in found] == [
        ("ARG", 3, (), "BASE=base"),
        ("FROM", 4, (("platform", "$BUILDPLATFORM"),), "${BASE} AS a"),
        ("COPY", 5, (("link", "true"), ("from", "x")), "/out/ /"),
    ]
    assert found[2].where == "images/x/Dockerfile:5"


def test_continuations_skip_comments_and_blank_lines_within() -> None:
    found = parse_dockerfile("FROM base\nENV A=1 \\\n# a comment\n\n    B=2\nUSER 1\n", path="Dockerfile")
    assert [(i.keyword, i.line) for i in found] == [("FROM", 1), ("ENV", 2), ("USER", 6)]
    assert assignments(found[1], {}) == (("A", "1"), ("B", "2"))


def test_escape_directive_changes_the_continuation_character() -> None:
    found = parse_dockerfile("# escape=`\nFROM base\nENV A=1 `\n  B=2\n", path="Dockerfile")
    assert assignments(found[1], {}) == (("A", "1"), ("B", "2"))


def test_a_comment_after_a_directive_line_is_no_directive() -> None:
    found = parse_dockerfile("# a comment first\n# escape=`\nFROM base\nENV A=1 \\\n B=2\n", path="Dockerfile")
    assert len(found) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no FROM instruction"),
        ("# only a comment\n", "no FROM instruction"),
        ("FROM base\n!!\n", "Dockerfile:2: not an instruction"),
        ("FROM base\nRUN <<EOF\nrm -rf /\nEOF\n", "Dockerfile:2: RUN: here-documents"),
        ("# escape=x\nFROM base\n", "Dockerfile:1: escape must be"),
    ],
)
def test_what_cannot_be_parsed_names_file_and_line(text: str, problem: str) -> None:
    with pytest.raises(DockerfileError, match=problem):
        parse_dockerfile(text, path="Dockerfile")


def test_exec_form_is_json_and_shell_form_is_not() -> None:
    found = parse_dockerfile('FROM b\nRUN ["a", "b c"]\nRUN a b\nRUN [a, b]\n', path="Dockerfile")
    assert [i.json_form for i in found[1:]] == [("a", "b c"), None, None]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A", "1"),
        ("${A}x", "1x"),
        ("$Ax", ""),
        ("${B:-two}", "two"),
        ("${A:-two}", "1"),
        ("${A:+set}", "set"),
        ("${B:+set}", ""),
        (r"\$A", "$A"),
        ("$", "$"),
        ("a$-b", "a$-b"),
    ],
)
def test_expansion(text: str, value: str) -> None:
    assert expand(text, {"A": "1"}) == value


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ('ENV A="b c" D=e', (("A", "b c"), ("D", "e"))),
        ("ENV A='$X' B=\"$X\" C=$X", (("A", "$X"), ("B", "value"), ("C", "value"))),
        (r'ENV A="\$X \"q\" \\"', (("A", '$X "q" \\'),)),
        (r"ENV A=b\ c", (("A", "b c"),)),
        ('LABEL "a.b"="c=d"', (("a.b", "c=d"),)),
    ],
)
def test_assignments_follow_docker_quoting(text: str, pairs: tuple[tuple[str, str], ...]) -> None:
    _, instruction = parse_dockerfile(f"FROM b\n{text}\n", path="Dockerfile")
    assert assignments(instruction, {"X": "value"}) == pairs


@pytest.mark.parametrize("text", ["ENV A", "ENV A b", 'ENV A="b', "LABEL =x", "ENV"])
def test_malformed_assignments_are_refused(text: str) -> None:
    _, instruction = parse_dockerfile(f"FROM b\n{text}\n", path="Dockerfile")
    with pytest.raises(DockerfileError, match="Dockerfile:2"):
        assignments(instruction, {})


def test_words_expand_in_both_forms() -> None:
    found = parse_dockerfile('FROM b\nCOPY a-$X.txt /b\nCOPY ["a b", "/${X}"]\n', path="Dockerfile")
    assert words(found[1], {"X": "1"}) == ("a-1.txt", "/b")
    assert words(found[2], {"X": "1"}) == ("a b", "/1")


@given(st.text(st.characters(exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", codec="utf-8")))
def test_a_quoted_value_comes_back_as_it_was(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    _, instruction = parse_dockerfile(f'FROM b\nENV A="{quoted}"\n', path="Dockerfile")
    assert assignments(instruction, {}) == (("A", value),)
