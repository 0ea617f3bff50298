"""A YAML file read for people: every problem at once, each with its line and key path, nothing guessed.

PyYAML reads an unquoted 2.10 as the number 2.1 and silently takes the last of two equal keys; here both are problems.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from buildctl.ground.errors import ProblemsError, did_you_mean

if TYPE_CHECKING:
    import jsonschema  # the processes that make layers import this module but validate nothing

Path = tuple[str | int, ...]

_MAX_NODES = 20_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
_TAG = "tag:yaml.org,2002:"


@dataclass(slots=True)
class YamlDocument:
    """Plain values with the line that each key path starts on, and the problems found so far."""

    source: str
    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def problem(self, path: Path, text: str) -> None:
        """Record a problem at a key path, or at the nearest parent that is in the file."""
        at = path
        while at and at not in self.lines:
            at = at[:-1]
        line = self.lines.get(at, 1)
        where = f"line {line}: {show(path)}: " if path else f"line {line}: "
        if (line, where + text) not in self.problems:
            self.problems.append((line, where + text))

    def check(self) -> None:
        """Raises ProblemsError with all recorded problems, in the order of the file."""
        if self.problems:
            raise ProblemsError(self.source, [text for _, text in sorted(self.problems)])


def show(path: Iterable[str | int]) -> str:
    """`("exclude", 0, "arch")` -> `exclude[0].arch`; a key with dots in it is quoted."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]+", part):
            out += f".{part}" if out else part
        else:
            out += f"[{json.dumps(part)}]"
    return out


def parse(text: str, source: str) -> YamlDocument:
    """Read YAML as strings, integers, booleans, lists and mappings. Raises ProblemsError if it is not YAML."""
    document = YamlDocument(source)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ProblemsError(source, [f"line {line}: {error.problem or error.context or 'not YAML'}"]) from error
    except yaml.YAMLError as error:
        raise ProblemsError(source, [f"not YAML: {error}"]) from error
    except RecursionError as error:
        raise ProblemsError(source, ["nested too deeply"]) from error
    if node is None:
        raise ProblemsError(source, ["the file is empty"])
    document.value = _Reader(document).read(node, ())
    return document


class _Reader:
    def __init__(self, document: YamlDocument) -> None:
        self.document = document
        self.open: set[int] = set()
        self.count = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        self.count += 1
        if id(node) in self.open or self.count > _MAX_NODES:
            raise ProblemsError(self.document.source, [f"line {node.start_mark.line + 1}: an alias that never ends"])
        self.open.add(id(node))
        try:
            match node:
                case yaml.MappingNode():
                    return self._mapping(node, path)
                case yaml.SequenceNode():
                    return [self.read(child, (*path, i)) for i, child in enumerate(node.value)]
                case yaml.ScalarNode():
                    return self._scalar(node, path)
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.document.problem(path, "a key must be a string")
                continue
            key = str(key_node.value)
            here = (*path, key)
            first = self.document.lines.get(here)
            if first is not None:
                self.document.problems.append(
                    (line, f"line {line}: {show(here)}: given twice, first on line {first} (keep one)")
                )
                continue
            self.document.lines[here] = line
            if key_node.tag == _TAG + "merge":
                self.document.problem(here, "merge keys are not supported (write the keys out)")
                continue
            self._string(key_node, here, "key")
            out[key] = self.read(value_node, here)
        return out

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        match node.tag.removeprefix(_TAG):
            case "bool":
                return str(node.value).lower() in {"true", "yes", "on"}
            case "null":
                return None
            case _:
                self._string(node, path, "value")
                return str(node.value)

    def _string(self, node: yaml.ScalarNode, path: Path, what: str) -> None:
        kind = node.tag.removeprefix(_TAG)
        if kind in {"float", "int"}:
            number = _number(node)
            reads = f", which YAML reads as the number {number}" if number != node.value else " is a number"
            shown = node.value[:80]
            self.document.problem(path, f'{what} {shown}{reads} (quote it: "{shown}")')
        elif kind != "str" and not (what == "key" and kind in {"bool", "null"}):
            self.document.problem(path, f'{what} {node.value!r} is not a string (quote it: "{node.value}")')
        if found := _CONTROL.search(node.value):
            hint = " (write a long text as >- )" if found.group() == "\n" else ""
            self.document.problem(path, f"{what} holds the control character {found.group()!r}{hint}")


def validate(document: YamlDocument, schema: Mapping[str, Any]) -> None:
    """Record violations of the JSON schema, in words; the `title` next to a pattern explains it."""
    import jsonschema  # noqa: PLC0415 - see TYPE_CHECKING

    validator = jsonschema.Draft202012Validator(dict(schema))
    for error in validator.iter_errors(document.value):
        for path, text in _explain(error):
            document.problem(path, text)


def _explain(error: jsonschema.ValidationError) -> Iterable[tuple[Path, str]]:
    path: Path = tuple(error.absolute_path)
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    value: Any = error.instance
    limit: Any = error.validator_value
    if "propertyNames" in error.relative_schema_path:
        path = (*path, value)
    match error.validator:
        case "additionalProperties":
            known = list(schema.get("properties", {}))
            for key in value:
                if key not in known:
                    yield (*path, key), f"unknown key{did_you_mean(key, known) or ' (known: ' + ', '.join(known) + ')'}"
        case "required":
            for key in limit:
                if key not in value:
                    yield path, f"the key '{key}' is missing"
        case "type":
            names = {"object": "a mapping", "array": "a list", "string": "a string"}
            yield path, f"must be {names.get(str(limit), limit)}, is {_kind(value)}"
        case "enum":
            known = [str(choice) for choice in limit]
            yield path, f"{_brief(value)} is not one of {', '.join(known)}{did_you_mean(str(value), known)}"
        case "pattern":
            yield path, f"{_brief(value)} is not {schema.get('title', 'allowed here')}"
        case "minItems" | "minProperties":
            yield path, "must not be empty"
        case "uniqueItems":
            yield path, f"has {', '.join(sorted({repr(v) for v in value if value.count(v) > 1}))} more than once"
        case "maxLength" | "minLength":
            yield path, f"{_brief(value)} is too {'long' if error.validator == 'maxLength' else 'short'}"
        case _:
            yield path, error.message


def _kind(value: Any) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return f'{str(value).lower()} (quote it: "...")'
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return _brief(value)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _number(node: yaml.ScalarNode) -> str:
    """As YAML reads it; the text itself if Python refuses so many digits."""
    try:
        return str(yaml.SafeLoader("").construct_object(node))
    except ValueError:
        return str(node.value)
