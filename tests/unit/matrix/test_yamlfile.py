from __future__ import annotations

import pytest

from buildctl.ground.errors import ProblemsError
from buildctl.matrix.yamlfile import YamlDocument, parse, show, validate

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["python"],
    "properties": {
        "python": {"type": "string", "pattern": "^3", "title": "a version of Python 3"},
        "arch": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"enum": ["amd64", "arm64"]}},
        "env": {"type": "object"},
    },
}


def problems(text: str, *, schema: bool = False) -> list[str]:
    with pytest.raises(ProblemsError) as caught:
        read(text, schema=schema)
    assert caught.value.source == "m.yaml"
    return list(caught.value.problems)


def read(text: str, *, schema: bool) -> None:
    document = parse(text, "m.yaml")
    if schema:
        validate(document, SCHEMA)
    document.check()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ((), ""),
        (("exclude", 0, "arch"), "exclude[0].arch"),
        (("versions", "2.10"), 'versions["2.10"]'),
        (("2.10", "a"), '["2.10"].a'),
    ],
)
def test_a_key_path_is_shown_as_it_is_written(path: tuple[str | int, ...], shown: str) -> None:
    assert show(path) == shown


def test_values_are_plain_and_lines_are_known() -> None:
    document = parse("a: x\nb:\n  - yes\n  - ~\n  - 'no'\n", "m.yaml")
    assert document.value == {"a": "x", "b": [True, None, "no"]}
    assert document.lines[("b", 2)] == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v: 2.10\n", 'line 1: v: value 2.10, which YAML reads as the number 2.1 (quote it: "2.10")'),
        ("v: 3\n", 'line 1: v: value 3 is a number (quote it: "3")'),
        ("2.10: x\n", 'line 1: ["2.10"]: key 2.10, which YAML reads as the number 2.1 (quote it: "2.10")'),
        ("d: 2026-01-01\n", "line 1: d: value '2026-01-01' is not a string (quote it: \"2026-01-01\")"),
        ("a: x\nb: y\na: z\n", "line 3: a: given twice, first on line 1 (keep one)"),
        ("a: &x {b: c}\nd:\n  <<: *x\n", 'line 3: d["<<"]: merge keys are not supported (write the keys out)'),
        ("a: |\n  x\n  y\n", "line 1: a: value holds the control character '\\n' (write a long text as >- )"),
        ('a: "\\u2028"\n', "line 1: a: value holds the control character '\\u2028'"),
        ("a: &x [*x]\n", "line 1: an alias that never ends"),
        ("", "the file is empty"),
        ("a: [\n", "line 2: expected the node content, but found '<stream end>'"),
    ],
)
def test_what_yaml_would_guess_is_a_problem(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_an_alias_may_be_used_twice() -> None:
    assert parse("a: &x [y]\nb: [*x, *x]\n", "m.yaml").value == {"a": ["y"], "b": [["y"], ["y"]]}


def test_aliases_that_multiply_are_stopped() -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "an alias that never ends" in problems("\n".join(["a0: &a0 x", *levels]))[0]


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    assert [p.partition(":")[0] for p in problems("b: 1.5\na: 1.5\nb: x\n")] == ["line 1", "line 2", "line 3"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pyton: x\npython: '3'\n", "line 1: pyton: unknown key (did you mean 'python'?)"),
        ("zzz: x\npython: '3'\n", "line 1: zzz: unknown key (known: python, arch, env)"),
        ("arch: [amd64]\n", "line 1: the key 'python' is missing"),
        ("python: '2.7'\n", "line 1: python: '2.7' is not a version of Python 3"),
        ("python: [x]\n", "line 1: python: must be a string, is a list"),
        ("python: '3'\nenv: true\n", 'line 2: env: must be a mapping, is true (quote it: "...")'),
        ("python: '3'\narch: []\n", "line 2: arch: must not be empty"),
        ("python: '3'\narch:\n- amd64\n- amd64\n", "line 2: arch: has 'amd64' more than once"),
        ("python: '3'\narch: [amd46]\n", "line 2: arch[0]: 'amd46' is not one of amd64, arm64 (did you mean 'amd64'?)"),
    ],
)
def test_what_breaks_the_schema_is_said_in_words(text: str, expected: str) -> None:
    assert problems(text, schema=True) == [expected]


def test_a_problem_of_what_is_not_written_is_at_its_parent() -> None:
    document = YamlDocument("m.yaml", lines={(): 1, ("a",): 4})
    document.problem(("a", "b", 0), "wrong")
    document.problem(("a", "b", 0), "wrong")
    assert document.problems == [(4, "line 4: a.b[0]: wrong")]
