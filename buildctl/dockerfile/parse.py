"""Dockerfile text to instructions (Dockerfile reference: parser directives, continuations, JSON form, expansion).

Only the grammar. What an instruction does, and which ones are supported, is up to the engine.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from buildctl.ground.errors import DockerfileError
from buildctl.ground.jsontext import parse_json

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*$")
_KEYWORD = re.compile(r"\s*([A-Za-z]+)(?:\s+|$)(.*)", re.DOTALL)
_FLAG = re.compile(r"--([a-z][a-z0-9-]*)(?:=(\S*))?(?:\s+|$)")
_VARIABLE = re.compile(
    r"\\(?P<escaped>.)"
    r"|\$(?:(?P<plain>[A-Za-z_][A-Za-z0-9_]*)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<operator>:[-+?])?(?P<word>[^{}$]*)\})",
)
_HEREDOC = re.compile(r"<<-?[\"']?[A-Za-z_]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction: its upper-case keyword, flags (`--from=x` as ("from", "x")) and the rest of its text."""

    path: str
    line: int
    keyword: str
    flags: tuple[tuple[str, str], ...]
    text: str

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"

    def flag(self, name: str) -> str | None:
        return next((value for key, value in self.flags if key == name), None)

    @property
    def json_form(self) -> tuple[str, ...] | None:
        """The words of the exec (JSON) form, or None if the instruction is in shell form."""
        if not self.text.lstrip().startswith("["):
            return None
        try:
            value = parse_json(self.text)
        except ValueError:
            return None  # Docker also falls back to the shell form
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            return None
        return tuple(value)

    def fail(self, problem: str, *, hint: str | None = None) -> DockerfileError:
        return DockerfileError(f"{self.where}: {self.keyword}: {problem}", hint=hint)


def parse_dockerfile(text: str, *, path: str) -> tuple[Instruction, ...]:
    """All instructions of a Dockerfile. Raises DockerfileError with file and line."""
    lines = text.removeprefix("\ufeff").splitlines()
    escape = _escape_directive(lines, path)
    found: list[Instruction] = []
    number = 0
    while number < len(lines):
        start = number + 1
        logical, number = _logical_line(lines, number, escape)
        if logical.strip():
            found.append(_instruction(logical, path=path, line=start))
    if not any(i.keyword == "FROM" for i in found):
        raise DockerfileError(f"{path}: no FROM instruction", hint="add a base: FROM ...")
    return tuple(found)


def read_dockerfile(path: Path, *, shown_as: str | None = None) -> tuple[Instruction, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DockerfileError(f"{shown_as or path}: no such file", hint="run `buildctl render`") from error
    except UnicodeDecodeError as error:
        raise DockerfileError(f"{shown_as or path}: not UTF-8 (byte {error.start})") from error
    return parse_dockerfile(text, path=shown_as or str(path))


def _escape_directive(lines: list[str], path: str) -> str:
    """Parser directives are at the very top, before any comment, blank line or instruction."""
    escape = "\\"
    for number, line in enumerate(lines, start=1):
        match = _DIRECTIVE.match(line.strip())
        if not match or match[1].lower() not in ("syntax", "escape", "check"):
            break
        if match[1].lower() == "escape":
            if match[2] not in ("\\", "`"):
                raise DockerfileError(f"{path}:{number}: escape must be a backslash or a backtick, not {match[2]!r}")
            escape = match[2]
    return escape


def _logical_line(lines: list[str], number: int, escape: str) -> tuple[str, int]:
    """Join continuations; comment lines and blank lines inside a continuation are dropped, as BuildKit does."""
    parts: list[str] = []
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.lstrip().startswith("#") or (parts and not line.strip()):
            if not parts:
                return "", number
            continue
        stripped = line.rstrip()
        if not stripped.endswith(escape):
            parts.append(stripped)
            break
        parts.append(stripped[:-1])
    return "".join(parts), number


def _instruction(logical: str, *, path: str, line: int) -> Instruction:
    match = _KEYWORD.fullmatch(logical)
    if not match:
        raise DockerfileError(f"{path}:{line}: not an instruction: {logical.strip()[:80]!r}")
    keyword, rest = match[1].upper(), match[2].strip()
    if keyword in ("RUN", "COPY", "ADD") and _HEREDOC.search(rest):
        # the body of a here-document would be read as instructions: refuse instead of misreading
        raise DockerfileError(
            f"{path}:{line}: {keyword}: here-documents are not supported by the assemble engine",
            hint="put the content in a file under images/ and COPY it, or build with --engine docker",
        )
    flags: list[tuple[str, str]] = []
    while keyword in ("FROM", "RUN", "COPY", "ADD", "HEALTHCHECK") and (flag := _FLAG.match(rest)):
        flags.append((flag[1], flag[2] if flag[2] is not None else "true"))
        rest = rest[flag.end() :]
    return Instruction(path=path, line=line, keyword=keyword, flags=tuple(flags), text=rest)


def expand(text: str, variables: Mapping[str, str]) -> str:
    r"""Replace $NAME, ${NAME}, ${NAME:-word}, ${NAME:+word}; an unset variable is empty. `\\$` is a plain dollar."""

    def replace(match: re.Match[str]) -> str:
        if (escaped := match["escaped"]) is not None:
            return escaped if escaped == "$" else match[0]
        if match["plain"]:
            return variables.get(match["plain"], "")
        value, word = variables.get(match["name"], ""), match["word"]
        match match["operator"]:
            case ":-":
                return value or word
            case ":+":
                return word if value else ""
            case _:
                return value

    return _VARIABLE.sub(replace, text)


def words(instruction: Instruction, variables: Mapping[str, str]) -> tuple[str, ...]:
    """The words of an instruction: JSON form as it is, else split at blanks with quotes honoured; then expanded."""
    if (json_words := instruction.json_form) is not None:
        return tuple(expand(word, variables) for word in json_words)
    try:
        return tuple(expand(word, variables) for word in shlex.split(instruction.text))
    except ValueError as error:
        raise instruction.fail(f"unbalanced quotes: {instruction.text[:80]!r}") from error


def assignments(instruction: Instruction, variables: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """KEY=VALUE pairs of ENV and LABEL, quotes honoured, variables expanded as they were before the instruction."""
    pairs: list[tuple[str, str]] = []
    for word in _quoted_words(instruction):
        key, equals, value = word.partition("=")
        if not equals or not key:
            hint = f"write {instruction.keyword} KEY=VALUE; the form without '=' is deprecated"
            raise instruction.fail(f"not KEY=VALUE: {word[:80]!r}", hint=hint)
        pairs.append((_unquote(key, {}), _unquote(value, variables)))
    if not pairs:
        raise instruction.fail("needs at least one KEY=VALUE")
    return tuple(pairs)


def _quoted_words(instruction: Instruction) -> list[str]:
    """Split at blanks outside quotes, keeping the quotes, because single quotes forbid expansion."""
    found: list[str] = []
    current, quote, skip = "", "", False
    for char in instruction.text:
        if skip:
            current, skip = current + char, False
        elif char == "\\" and quote != "'":
            current, skip = current + char, True
        elif quote:
            current, quote = current + char, "" if char == quote else quote
        elif char in "\"'":
            current, quote = current + char, char
        elif char.isspace():
            found, current = ([*found, current] if current else found), ""
        else:
            current += char
    if quote or skip:
        raise instruction.fail(f"unbalanced quotes: {instruction.text[:80]!r}")
    return [*found, current] if current else found


_PIECE = re.compile(r"'(?P<single>[^']*)'|\"(?P<double>(?:\\.|[^\"\\])*)\"|(?P<bare>(?:\\.|[^'\"\\])+)")


def _unquote(word: str, variables: Mapping[str, str]) -> str:
    out = ""
    for piece in _PIECE.finditer(word):
        if (single := piece["single"]) is not None:
            out += single
        elif (double := piece["double"]) is not None:
            out += _expand_unescaped(double, variables, special='"\\$')
        else:
            out += _expand_unescaped(piece["bare"], variables, special=None)
    return out


def _expand_unescaped(text: str, variables: Mapping[str, str], *, special: str | None) -> str:
    """Expand variables outside escapes; inside double quotes only `special` characters lose their backslash."""
    out, position = "", 0
    for match in re.finditer(r"\\(.)", text, re.DOTALL):
        out += expand(text[position : match.start()], variables)
        out += match[1] if special is None or match[1] in special else match[0]
        position = match.end()
    return out + expand(text[position:], variables)
