"""A small POSIX shell that runs nothing: it follows a script's control flow and asks the caller what each command does.

Made for Debian's maintainer scripts: it finds out what a fresh install would do without running them. What it does not
understand, and would have to, is a ScriptError; what is never reached does not matter.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from buildctl.artifacts.debian.scripts.parse import (
    Block,
    Case,
    Chain,
    For,
    Function,
    Group,
    If,
    Node,
    Not,
    Other,
    Simple,
    parse,
)
from buildctl.artifacts.debian.scripts.words import Lexer, ScriptError, Word, WordPart

_MAX_STEPS = 10_000
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*|[0-9@*#?])(?:(:?[-+])(.*))?", re.DOTALL)
_SHELL = re.compile(r"#! ?/(?:usr/)?bin/(?:ba)?sh(?: +(-[eux]+))?[ \t]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A command that the script would run: its words after expansion, and where its output would go."""

    line: int
    argv: tuple[str, ...]
    outputs: tuple[str, ...]

    def problem(self, text: str = "") -> ScriptError:
        return ScriptError(self.line, text or " ".join(self.argv)[:200])


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 0
    output: str = ""


class _ExitError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _ReturnError(_ExitError):
    pass


@dataclass(slots=True, kw_only=True)
class Shell:
    """Follows scripts. `answer` gives the effect of commands other than functions and control flow; one that it `skips`
    is not given its arguments.
    """

    answer: Callable[[Call, Shell], Answer]
    skips: Callable[[str], bool] = lambda _: False
    variables: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    functions: dict[str, Node] = field(default_factory=dict)
    errexit: bool = False
    status: int = 0
    steps: int = 0
    local: list[dict[str, str | None]] = field(default_factory=list)  # what they hide, for each function being called
    last_line: int = 1

    def run_script(self, text: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Raises ScriptError if it does something unknown or would fail."""
        match = _SHELL.fullmatch(text.partition("\n")[0])
        if match is None:
            raise ScriptError(1, f"not a shell script: {text[:40]!r}")
        self.errexit = "e" in (match[1] or "")
        self.variables, self.arguments, self.functions = dict(environment), tuple(arguments), {}
        try:
            self.block(parse(text))
            if self.status:
                raise _ExitError(self.status)
        except _ExitError as end:
            if end.status:
                raise ScriptError(self.last_line, f"it would fail (exit {end.status})") from None
        except RecursionError:
            raise ScriptError(self.last_line, "it never ends") from None

    def block(self, nodes: Block, *, tested: bool = False) -> str:
        """Run and return what was printed."""
        return "".join(self.node(node, tested=tested) for node in nodes)

    def node(self, node: Node, *, tested: bool) -> str:
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise ScriptError(self.last_line, "it never ends")
        match node:
            case Simple():
                return self.simple(node, tested=tested)
            case Not(inner):
                out = self.node(inner, tested=True)
                self.status = int(not self.status)
                return out
            case Chain(first, rest):
                return self.chain(first, rest, tested=tested)
            case If():
                return self.if_(node, tested=tested)
            case Case(word, branches):
                value = self.text(word)
                for patterns, body in branches:
                    if any(fnmatch.fnmatchcase(value, self.pattern(p)) for p in patterns):
                        return self.block(body, tested=tested)
                self.status = 0
                return ""
            case For(_, name, words, body):
                values = self.arguments if words is None else [v for w in words for v in self.fields(w)]
                out = ""
                for value in values:
                    self.variables[name] = value
                    out += self.block(body, tested=tested)
                return out
            case Function(name, body):
                self.functions[name] = body
                return ""
            case Group(body, subshell):
                return self.subshell(body, tested=tested) if subshell else self.block(body, tested=tested)
            case Other(line, what):
                raise ScriptError(line, what)

    def chain(self, first: Node, rest: Sequence[tuple[str, Node]], *, tested: bool) -> str:
        out = self.node(first, tested=True)
        for number, (operator, node) in enumerate(rest):
            if (self.status == 0) == (operator == "&&"):
                last = number == len(rest) - 1
                out += self.node(node, tested=tested or not last)
        return out

    def if_(self, node: If, *, tested: bool) -> str:
        out = ""
        for condition, body in node.branches:
            out += self.block(condition, tested=True)
            if self.status == 0:
                return out + self.block(body, tested=tested)
        self.status = 0
        return out + self.block(node.otherwise, tested=tested)

    def subshell(self, body: Block, *, tested: bool) -> str:
        variables, functions = dict(self.variables), dict(self.functions)
        try:
            return self.block(body, tested=tested)
        except _ExitError as end:
            self.status = end.status
            return ""
        finally:
            self.variables, self.functions = variables, functions

    def simple(self, node: Simple, *, tested: bool) -> str:
        self.last_line = node.line
        argv = tuple(value for word in node.words[:1] for value in self.fields(word))
        if not (argv and self.skips(argv[0])):  # what is skipped may have arguments that nobody understands
            argv += tuple(value for word in node.words[1:] for value in self.fields(word))
        self.status = 0
        values = {name: self.text(word) for name, word in node.assignments}
        if "IFS" in values or (values and argv and argv[0] in self.functions):
            raise ScriptError(node.line, f"{', '.join(values)} set for a command or for the shell itself")
        if not argv:
            self.variables |= values
            out = ""
        else:
            out = self.command(node, argv)
        if self.status and self.errexit and not tested:
            raise ScriptError(node.line, f"it would fail: {' '.join(argv)[:100]}")
        return out

    def command(self, node: Simple, argv: tuple[str, ...]) -> str:
        outputs = tuple(self.text(word) for operator, word in node.redirects if operator.lstrip("012") in {">", ">>"})
        if any(operator.lstrip("012") not in {">", ">>", ">&"} for operator, _ in node.redirects):
            raise ScriptError(node.line, f"{' '.join(argv)[:100]} with a here-document or input")
        name = argv[0]
        ours = name in self.functions
        found = None if ours else _builtin(self, node.line, argv)
        if (ours or found) and any(output != "/dev/null" for output in outputs):
            raise ScriptError(node.line, f"{' '.join(argv)[:100]} writes to {', '.join(outputs)}")
        if ours:
            out = self.call(self.functions[name], argv[1:])
        else:
            found = found or self.answer(Call(line=node.line, argv=argv, outputs=outputs), self)
            self.status, out = found.status, found.output
        to_stderr = any(operator in {">&", "1>&"} and self.text(word) == "2" for operator, word in node.redirects)
        return "" if to_stderr or any(o.lstrip("1") in {">", ">>"} for o, _ in node.redirects) else out

    def call(self, body: Node, arguments: tuple[str, ...]) -> str:
        saved, self.arguments = self.arguments, arguments
        self.local.append({})
        try:
            return self.node(body, tested=False)
        except _ReturnError as end:
            self.status = end.status
            return ""
        finally:
            self.arguments = saved
            for name, value in self.local.pop().items():
                self.variables.pop(name, None)
                if value is not None:
                    self.variables[name] = value

    # ---------------------------------------------------------------------------------------------------- expansion

    def text(self, word: Word) -> str:
        return "".join(self.value(part) for part in word)

    def pattern(self, word: Word) -> str:
        def escaped(text: str) -> str:
            return re.sub(r"([*?\[])", r"[\1]", text)

        return "".join(escaped(self.value(p)) if p.quoted else self.value(p) for p in word)

    def fields(self, word: Word) -> list[str]:
        """The arguments that a word becomes: unquoted expansions are split at white space."""
        fields: list[str] = []
        current: str | None = None
        for part in word:
            if part.kind == "parameter" and part.text == "@" and part.quoted:
                if len(word) > 2:
                    raise ScriptError(self.last_line, '"$@" inside of a word')
                return list(self.arguments)
            value = self.value(part)
            if part.kind == "text" or part.quoted:
                if not part.quoted and re.search(r"[*?]", value):
                    raise ScriptError(self.last_line, f"a file pattern: {''.join(p.text for p in word)}")
                current = (current or "") + value
                continue
            pieces = re.split(r"[ \t\n]+", value)
            for number, piece in enumerate(pieces):
                if number and current is not None:
                    fields.append(current)
                    current = None
                if piece:
                    current = (current or "") + piece
        return fields if current is None else [*fields, current]

    def value(self, part: WordPart) -> str:
        match part.kind:
            case "text":
                return part.text
            case "parameter":
                return self.parameter(part.text)
            case "command":
                saved = self.errexit
                out = self.subshell(parse(part.text, self.last_line), tested=True)
                self.errexit = saved
                return out.rstrip("\n")
            case _:
                raise ScriptError(self.last_line, f"an expansion: {part.text[:60]}")

    def parameter(self, text: str) -> str:
        match = _BRACED.fullmatch(text)
        if match is None:
            raise ScriptError(self.last_line, f"an expansion: ${{{text[:60]}}}")
        name, operator, word = match[1], match[2] or "", match[3] or ""
        value = self.plain(name)
        there = bool(value) if operator.startswith(":") else name in self.variables or bool(value)
        if operator.endswith("-") and not there:
            return self.inner(word)
        if operator.endswith("+"):
            return self.inner(word) if there else ""
        return value

    def inner(self, text: str) -> str:
        lexer, parts = Lexer(text), list[WordPart]()
        while lexer.at < len(text):
            lexer.part(parts, quoted=False)
        return self.text(tuple(parts))

    def plain(self, name: str) -> str:
        if name.isdigit():
            number = int(name)
            if number == 0:
                return self.variables.get("0", "sh")
            return self.arguments[number - 1] if number <= len(self.arguments) else ""
        match name:
            case "@" | "*":
                return " ".join(self.arguments)
            case "#":
                return str(len(self.arguments))
            case "?":
                return str(self.status)
            case _:
                return self.variables.get(name, "")


def _builtin(shell: Shell, line: int, argv: Sequence[str]) -> Answer | None:
    """What belongs to the shell itself; None for a command."""
    match argv:
        case (":" | "true", *_):
            return Answer()
        case ("false",):
            return Answer(1)
        case ("set", *options):
            if any(not re.fullmatch(r"[-+][eux]+", option) for option in options):
                raise ScriptError(line, " ".join(argv))
            for option in options:
                shell.errexit = option[0] == "-" if "e" in option else shell.errexit
            return Answer()
        case ("exit", *rest):
            raise _ExitError(int(rest[0]) if rest else shell.status)
        case ("return", *rest):
            raise _ReturnError(int(rest[0]) if rest else shell.status)
        case ("shift",):
            shell.arguments = shell.arguments[1:]
            return Answer()
        case ("export" | "local" | "readonly", *names):
            for name, equals, value in (text.partition("=") for text in names):
                if argv[0] == "local" and shell.local:
                    shell.local[-1].setdefault(name, shell.variables.get(name))
                if equals:
                    shell.variables[name] = value
            return Answer()
        case ("unset", *names):
            for name in names:
                shell.variables.pop(name, None)
            return Answer()
        case ("umask", "022" | "0022"):
            return Answer()
        case ("echo", *words):
            return Answer(0, " ".join(word for word in words if word != "-n") + "\n")
        case _:
            return None
