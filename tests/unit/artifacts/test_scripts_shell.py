"""The shell that runs nothing: control flow is followed, commands are asked for, the rest is an error."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildctl.artifacts.debian.scripts.parse import parse
from buildctl.artifacts.debian.scripts.shell import Answer, Call, Shell
from buildctl.artifacts.debian.scripts.words import ScriptError


def calls(script: str, *arguments: str, status: dict[str, int] | None = None) -> list[tuple[str, ...]]:
    """The commands that the script would run; each succeeds unless `status` says otherwise."""
    seen: list[tuple[str, ...]] = []

    def answer(call: Call, _: Shell) -> Answer:
        seen.append(call.argv)
        return Answer((status or {}).get(call.argv[0], 0), f"{call.argv[0]}-says\n")

    Shell(answer=answer).run_script(f"#!/bin/sh\nset -e\n{script}", arguments, {"0": "x.postinst"})
    return seen


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('case "$1" in\n configure|reconfigure) a ;;\n *) b;;\nesac', ["a"]),
        ("case $1 in (con*) a;; (*) b;; esac", ["a"]),
        ('case "$1" in "con*") a;; esac; b', ["b"]),
        ('if [ "$1" = x ]; then a; elif f && g; then b; else c; fi', ["[ configure = x ]", "f", "g", "b"]),
        ("for x in 1 2 '3 4'; do a $x \"$x\"; done", ["a 1 1", "a 2 2", "a 3 4 3 4"]),
        ("f () { a $1; return 0; b; }\nf x y", ["a x"]),
        ("f() {\n local v=1\n a $v\n}\nif true; then f; fi", ["a 1"]),
        ("a || b && c; ! a || d", ["a", "c", "a", "d"]),
        ("a > /dev/null 2>&1 || true", ["a"]),
        ('x=$(a) && b "$x"', ["a", "b a-says"]),
        ("x=`a`; b $x", ["a", "b a-says"]),
        ("list() { echo --l $1 $2; }\na $(list 1 2\n list 3 4\n)", ["a --l 1 2 --l 3 4"]),
        ("a \\\n  b \\\n  # a comment", ["a b"]),
        ('a ${X:-1} ${X:+2} ${1:+3} "${X}" ${X}', ["a 1 3 "]),
        ("X=1\nY=$X$X\na $Y", ["a 11"]),
        ('( X=1; a )\nb "$X"', ["a", "b "]),
        ('a "$@" $#', ["a configure  2"]),
        ("false && a\nb", ["b"]),
        ("if false; then cat <<'EOF'\nif then fi $( \nEOF\nfi\na", ["a"]),
        ("if false; then x | y; while z; do w; done; fi; a", ["a"]),
        ("set +e\nfalse\na", ["a"]),
        ("exit 0\na", []),
        ("x=1\nf() { local x=2; a $x; }\nf; b $x", ["a 2", "b 1"]),
        ("a '$X' \"\\$X\" \\$X", ["a $X $X $X"]),
        ('shift; a "$#"', ["a 1"]),
    ],
)  # fmt: skip
def test_what_a_script_would_do(script: str, expected: list[str]) -> None:
    assert [" ".join(argv) for argv in calls(script, "configure", "", status={"[": 1})] == expected


@pytest.mark.parametrize(
    ("script", "line", "text"),
    [
        ("a | b", 3, "a pipeline"),
        ("while true; do a; done", 3, "a while loop"),
        ("cat <<EOF > /etc/x\nhello\nEOF", 3, "with a here-document"),
        ("\na *.so", 4, "a file pattern"),
        ("a $((1 + 1))", 3, "an expansion"),
        ("a ${X#y}", 3, "an expansion"),
        ("IFS=:\na", 3, "IFS set"),
        ("f() { a; }\nX=1 f", 4, "X set"),
        ("a && false", 3, "it would fail: false"),
        ("false && a", 3, "it would fail (exit 1)"),
        ("exit 1", 3, "it would fail (exit 1)"),
        ("false", 3, "it would fail: false"),
        ("fails; a", 3, "it would fail: fails"),
        ("{ a; } > /etc/x", 3, "a redirected group"),
        ("f() { f; }\nf", 3, "it never ends"),
        ("set -- a", 3, "set -- a"),
        ('x="', 3, "an unclosed quote"),
        ("if true; then a", 3, "'fi' expected"),
        ("a &\nb", 3, "in the background"),
        ("case x in", 3, "the script ends"),
    ],
)
def test_what_is_not_understood_is_an_error_with_its_line(script: str, line: int, text: str) -> None:
    with pytest.raises(ScriptError) as caught:
        calls(script, status={"fails": 1})
    assert (caught.value.line, text in caught.value.text) == (line, True), caught.value


def test_other_interpreters_are_refused() -> None:
    with pytest.raises(ScriptError, match="not a shell script"):
        Shell(answer=lambda *_: Answer()).run_script("#!/usr/bin/perl\nprint 1;\n", [], {})


def test_errexit_in_the_first_line_counts() -> None:
    with pytest.raises(ScriptError, match="it would fail"):
        Shell(answer=lambda *_: Answer(1)).run_script("#!/bin/sh -e\na\n", [], {})
    Shell(answer=lambda *_: Answer(1)).run_script("#! /bin/sh\na\ntrue\n", [], {})


words = st.sampled_from(["a", "$1", '"$1"', "'x y'", "$X", "${X:-d}", "\\$", '"a $X b"', "x$1", "$(echo p q)", '""'])
simple = st.lists(words, max_size=4).map(lambda found: " ".join(["echo", *found]))
conditions = st.sampled_from(["true", "false", "! true", "true && false", "false || true"])


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(conditions, inner, inner).map(lambda t: f"if {t[0]}; then {t[1]}; else {t[2]}; fi"),
        st.tuples(words, inner).map(lambda t: f"for X in {t[0]} z; do {t[1]}; done"),
        st.tuples(words, inner, inner).map(lambda t: f"case {t[0]} in a|x*) {t[1]};; *) {t[2]};; esac"),
        st.tuples(inner, inner).map(lambda t: f"{t[0]}\n{t[1]}"),
        inner.map(lambda t: f"( X=5; {t} )"),
    )


@given(st.recursive(simple, compound, max_leaves=8))
def test_it_agrees_with_sh(script: str) -> None:
    text = f"#!/bin/sh\nset -e\nX='q r'\n{script}\n"
    done = subprocess.run(["sh", "-c", text, "sh", "a b"], capture_output=True, text=True, check=True)
    shell = Shell(answer=lambda call, _: (_ for _ in ()).throw(AssertionError(call)), variables={}, arguments=("a b",))
    shell.variables = {}
    out = shell.block(parse(text))
    assert out == done.stdout
