"""The grammar of POSIX shell, as far as Debian's maintainer scripts use it: text to a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buildctl.artifacts.debian.scripts.words import (
    ASSIGNMENT,
    NAME,
    REDIRECTS,
    Lexer,
    ScriptError,
    Token,
    Word,
    WordPart,
)


@dataclass(frozen=True, slots=True)
class Simple:
    line: int
    assignments: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    redirects: tuple[tuple[str, Word], ...]


@dataclass(frozen=True, slots=True)
class Not:
    node: Node


@dataclass(frozen=True, slots=True)
class Chain:
    """`first`, then each (operator, node) of `rest`: `&&` and `||` from left to right."""

    first: Node
    rest: tuple[tuple[str, Node], ...]


@dataclass(frozen=True, slots=True)
class If:
    branches: tuple[tuple[Block, Block], ...]
    otherwise: Block


@dataclass(frozen=True, slots=True)
class Case:
    word: Word
    branches: tuple[tuple[tuple[Word, ...], Block], ...]


@dataclass(frozen=True, slots=True)
class For:
    line: int
    name: str
    words: tuple[Word, ...] | None
    body: Block


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    body: Node


@dataclass(frozen=True, slots=True)
class Group:
    body: Block
    subshell: bool


@dataclass(frozen=True, slots=True)
class Other:
    """Parsed, and not run: loops over a condition, pipelines, redirected groups."""

    line: int
    what: str


Node = Simple | Not | Chain | If | Case | For | Function | Group | Other
Block = tuple[Node, ...]


class _Parser:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens, self.at = tokens, 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        if self.token.kind == "end":
            raise ScriptError(self.token.line, "the script ends in the middle of a command")
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, text: str) -> None:
        if self.token.text != text:
            raise ScriptError(self.token.line, f"{text!r} expected, found {self.token.text!r}")
        self.at += 1

    def newlines(self) -> None:
        while self.token.kind == "newline":
            self.at += 1

    def block(self, *ends: str) -> Block:
        nodes: list[Node] = []
        while True:
            while self.token.kind == "newline" or self.token.text == ";":
                self.at += 1
            if self.token.kind == "end" or (self.token.text in ends and self._is_end()):
                return tuple(nodes)
            nodes.append(self.chain())
            if self.token.text == "&":
                raise ScriptError(self.token.line, "a command in the background")

    def _is_end(self) -> bool:
        return self.token.kind == "operator" or bool(self.token.reserved)

    def chain(self) -> Node:
        first = self.pipeline()
        rest: list[tuple[str, Node]] = []
        while self.token.kind == "operator" and self.token.text in {"&&", "||"}:
            operator = self.take().text
            self.newlines()
            rest.append((operator, self.pipeline()))
        return Chain(first, tuple(rest)) if rest else first

    def pipeline(self) -> Node:
        negated = False
        while self.token.reserved == "!":
            negated, _ = not negated, self.take()
        line, node = self.token.line, self.command()
        piped = False
        while self.token.kind == "operator" and self.token.text == "|":
            self.take()
            self.newlines()
            self.command()
            piped = True
        if piped:
            node = Other(line, "a pipeline")
        return Not(node) if negated else node

    def command(self) -> Node:
        token = self.token
        if token.kind == "operator" and token.text == "(":
            self.take()
            return self.finished(Group(self.block(")"), subshell=True), ")")
        match token.reserved:
            case "{":
                self.take()
                return self.finished(Group(self.block("}"), subshell=False), "}")
            case "if":
                return self.if_()
            case "case":
                return self.case()
            case "for":
                return self.for_()
            case "while" | "until":
                self.take()
                self.block("do")
                self.expect("do")
                self.block("done")
                return self.finished(Other(token.line, f"a {token.text} loop"), "done")
            case _:
                return self.simple()

    def finished(self, node: Node, end: str) -> Node:
        self.expect(end)
        if redirects := self.redirects():
            if all(_harmless(operator, word) for operator, word in redirects):
                return node
            return Other(self.token.line, "a redirected group of commands")
        return node

    def redirects(self) -> list[tuple[str, Word]]:
        found: list[tuple[str, Word]] = []
        while self.token.kind == "operator" and self.token.text.lstrip("0123456789") in REDIRECTS:
            operator = self.take().text
            target = self.take()
            if target.kind != "word":
                raise ScriptError(target.line, f"{operator} without a word")
            found.append((operator, target.parts))
        return found

    def if_(self) -> Node:
        branches: list[tuple[Block, Block]] = []
        otherwise: Block = ()
        while True:
            self.take()  # if, elif
            condition = self.block("then")
            self.expect("then")
            branches.append((condition, self.block("elif", "else", "fi")))
            if self.token.text != "elif":
                break
        if self.token.text == "else":
            self.take()
            otherwise = self.block("fi")
        return self.finished(If(tuple(branches), otherwise), "fi")

    def case(self) -> Node:
        self.take()
        word = self.take().parts
        self.newlines()
        self.expect("in")
        branches: list[tuple[tuple[Word, ...], Block]] = []
        self.newlines()
        while self.token.reserved != "esac":
            if self.token.text == "(":
                self.take()
            patterns = [self.take().parts]
            while self.token.text == "|":
                self.take()
                patterns.append(self.take().parts)
            self.expect(")")
            branches.append((tuple(patterns), self.block(";;", "esac")))
            if self.token.text == ";;":
                self.take()
            self.newlines()
        return self.finished(Case(word, tuple(branches)), "esac")

    def for_(self) -> Node:
        line = self.take().line
        name = self.take().text
        self.newlines()
        words: tuple[Word, ...] | None = None
        if self.token.reserved == "in":
            self.take()
            found = []
            while self.token.kind == "word":
                found.append(self.take().parts)
            words = tuple(found)
        while self.token.kind == "newline" or self.token.text == ";":
            self.at += 1
        self.expect("do")
        return self.finished(For(line, name, words, self.block("done")), "done")

    def simple(self) -> Node:
        line = self.token.line
        assignments: list[tuple[str, Word]] = []
        words: list[Word] = []
        redirects: list[tuple[str, Word]] = []
        while True:
            redirects += self.redirects()
            if self.token.kind != "word":
                break
            token = self.take()
            match = ASSIGNMENT.match(token.text) if not words else None
            if match and token.parts[0].kind == "text" and not token.parts[0].quoted:
                assignments.append((match[1], _without(token.parts, match.end())))
                continue
            words.append(token.parts)
            if len(words) == 1 and self.token.text == "(" and NAME.fullmatch(token.text):
                self.take()
                self.expect(")")
                self.newlines()
                return Function(token.text, self.command())
        if not words and not assignments and not redirects:
            raise ScriptError(line, f"unexpected {self.token.text!r}")
        return Simple(line, tuple(assignments), tuple(words), tuple(redirects))


def _harmless(operator: str, word: Word) -> bool:
    text = "".join(part.text for part in word)
    return text == "/dev/null" or (operator.endswith(">&") and text in {"1", "2"})


def _without(parts: Word, count: int) -> Word:
    """The parts after the first `count` characters, which are literal."""
    out = list(parts)
    while count:
        first = out.pop(0)
        if len(first.text) > count:
            out.insert(0, WordPart(first.kind, first.text[count:], first.quoted))
        count -= min(count, len(first.text))
    return tuple(out)


def parse(text: str, line: int = 1) -> Block:
    """Raises ScriptError for anything outside the grammar."""
    parser = _Parser(Lexer(text, line).run())
    nodes = parser.block()
    if parser.token.kind != "end":
        raise ScriptError(parser.token.line, f"unexpected {parser.token.text!r}")
    return nodes
