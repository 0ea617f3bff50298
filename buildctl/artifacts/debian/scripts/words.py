"""The words of POSIX shell: text to tokens, with what is to be expanded in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Never

_OPERATORS = ("<<-", "&&", "||", ";;", "<<", ">>", ">&", "<&", "<>", ">|", "&", ";", "|", "(", ")", "<", ">")
REDIRECTS = frozenset({"<<-", "<<", ">>", ">&", "<&", "<>", ">|", "<", ">"})
_META = frozenset(" \t\n&;|()<>")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")


class ScriptError(Exception):
    """The script does something unknown; `line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")
        self.line, self.text = line, text


@dataclass(frozen=True, slots=True)
class WordPart:
    """Of a word: literal text, a parameter, a command substitution, or something that is not supported."""

    kind: Literal["text", "parameter", "command", "other"]
    text: str
    quoted: bool


Word = tuple[WordPart, ...]


@dataclass(frozen=True, slots=True)
class Token:
    kind: Literal["word", "operator", "newline", "end"]
    text: str
    line: int
    parts: Word = ()

    @property
    def reserved(self) -> str:
        """The text, if it may be a reserved word: one unquoted literal."""
        return self.text if self.kind == "word" and all(p.kind == "text" and not p.quoted for p in self.parts) else ""


class Lexer:
    def __init__(self, text: str, line: int = 1) -> None:
        self.text, self.at, self.line = text, 0, line
        self.tokens: list[Token] = []
        self.heredocs: list[tuple[str, bool]] = []

    def fail(self, text: str) -> Never:
        raise ScriptError(self.line, text)

    def run(self) -> list[Token]:
        while self.at < len(self.text):
            rest = self.text[self.at :]
            if rest.startswith("\\\n"):
                self.at, self.line = self.at + 2, self.line + 1
            elif rest[0] in " \t":
                self.at += 1
            elif rest[0] == "#":
                self.at += len(rest.partition("\n")[0])
            elif rest[0] == "\n":
                self.newline()
            elif match := re.match(r"[0-9](?=[<>])", rest):
                self.at += 1
                self.operator(match[0])
            elif rest[0] in _META:
                self.operator("")
            else:
                self.word()
        self.tokens.append(Token("end", "", self.line))
        return self.tokens

    def newline(self) -> None:
        self.tokens.append(Token("newline", "\n", self.line))
        self.at, self.line = self.at + 1, self.line + 1
        for end, tabs in self.heredocs:
            while True:
                if self.at >= len(self.text):
                    self.fail(f"a here-document without its end marker {end!r}")
                line = self.text[self.at :].partition("\n")[0]
                self.at, self.line = self.at + len(line) + 1, self.line + 1
                if (line.lstrip("\t") if tabs else line) == end:
                    break
        self.heredocs = []

    def operator(self, number: str) -> None:
        operator = next(o for o in _OPERATORS if self.text.startswith(o, self.at))
        self.at += len(operator)
        self.tokens.append(Token("operator", number + operator, self.line))
        if operator in {"<<", "<<-"}:
            match = re.compile(r"[ \t]*(['\"]?)([A-Za-z0-9_.-]+)\1").match(self.text, self.at)
            if match is None:
                self.fail("an unsupported here-document")
            self.at = match.end()
            self.tokens.append(Token("word", match[2], self.line, (WordPart("text", match[2], True),)))
            self.heredocs.append((match[2], operator == "<<-"))

    def word(self) -> None:
        start, line = self.at, self.line
        parts: list[WordPart] = []
        while self.at < len(self.text) and self.text[self.at] not in _META:
            self.part(parts, quoted=False)
        self.tokens.append(Token("word", self.text[start : self.at], line, tuple(parts)))

    def part(self, parts: list[WordPart], *, quoted: bool) -> None:
        char = self.text[self.at]
        if char == "$":
            parts.append(self.dollar(quoted=quoted))
        elif char == "`":
            parts.append(self.backticks(quoted=quoted))
        elif char == "\\":
            following = self.text[self.at + 1 : self.at + 2]
            self.at += 2
            if following == "\n":
                self.line += 1
            elif quoted and following not in '$`"\\':
                parts.append(WordPart("text", "\\" + following, True))
            else:
                parts.append(WordPart("text", following, True))
        elif char == "'" and not quoted:
            end = self.text.find("'", self.at + 1)
            if end < 0:
                self.fail("an unclosed quote")
            parts.append(WordPart("text", self.text[self.at + 1 : end], True))
            self.line += self.text.count("\n", self.at, end)
            self.at = end + 1
        elif char == '"' and not quoted:
            self.double_quoted(parts)
        else:
            self.line += char == "\n"
            self.at += 1
            parts.append(WordPart("text", char, quoted))

    def double_quoted(self, parts: list[WordPart]) -> None:
        self.at += 1
        parts.append(WordPart("text", "", True))  # an empty string is also a word
        while self.text[self.at : self.at + 1] != '"':
            if self.at >= len(self.text):
                self.fail("an unclosed quote")
            self.part(parts, quoted=True)
        self.at += 1

    def dollar(self, *, quoted: bool) -> WordPart:
        rest = self.text[self.at + 1 :]
        if rest.startswith("(("):
            return WordPart("other", self.enclosed("(", ")"), quoted)
        if rest.startswith("("):
            return WordPart("command", self.enclosed("(", ")")[1:-1], quoted)
        if rest.startswith("{"):
            return WordPart("parameter", self.enclosed("{", "}")[1:-1], quoted)
        if match := re.match(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?]", rest):
            self.at += 1 + match.end()
            return WordPart("parameter", match[0], quoted)
        if rest[:1] in {"$", "!", "-"}:
            self.at += 2
            return WordPart("other", f"${rest[0]}", quoted)
        self.at += 1
        return WordPart("text", "$", quoted)

    def backticks(self, *, quoted: bool) -> WordPart:
        end = self.text.find("`", self.at + 1)
        if end < 0:
            self.fail("an unclosed backtick")
        inside = self.text[self.at + 1 : end]
        self.line += inside.count("\n")
        self.at = end + 1
        return WordPart("other" if "\\" in inside else "command", inside, quoted)

    def enclosed(self, opening: str, closing: str) -> str:
        """From after the `$` to the closing bracket, quotes inside respected."""
        start = at = self.at + 1
        depth = 0
        while at < len(self.text):
            char = self.text[at]
            if char == "\\":
                at += 1
            elif char == "'" and opening == "(":
                at = self.text.find("'", at + 1)
                if at < 0:
                    break
            elif char == opening:
                depth += 1
            elif char == closing:
                depth -= 1
                if not depth:
                    self.line += self.text.count("\n", start, at)
                    self.at = at + 1
                    return self.text[start : self.at]
            at += 1
        raise ScriptError(self.line, f"an unclosed ${opening}")
