"""What debconf answers to a package's scripts without a user to ask: the defaults of its templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from buildctl.artifacts.debian.deb import Control
from buildctl.artifacts.debian.deb822 import parse_stanzas
from buildctl.artifacts.debian.scripts.shell import Answer, Call, Shell

_WITHOUT_ANSWER = frozenset(
    f"db_{name}" for name in ("go", "version", "stop", "purge", "title", "capb", "beginblock", "endblock")
)
_SKIPPED = 30  # the exit status for a question that was not put (debconf-devel(7))


@dataclass(frozen=True, slots=True)
class Debconf:
    """`answers` by question; the config script changes them."""

    answers: dict[str, str]

    @classmethod
    def of(cls, control: Control) -> Self:
        text = control.files.get("templates", b"").decode("utf-8", "replace")
        stanzas = [fields for _, fields in parse_stanzas(text, f"{control.package}: templates")]
        return cls({fields["Template"]: fields.get("Default", "") for fields in stanzas})

    def answer(self, call: Call, shell: Shell) -> Answer:
        """Of a db_ command. Raises ScriptError for an unknown one, and for another package's questions."""
        match call.argv:
            case ("db_get", name) if name in self.answers:
                shell.variables["RET"] = self.answers[name]
                return Answer()
            case ("db_set", name, value) if name in self.answers:
                self.answers[name] = value
                return Answer()
            case ("db_fset", name, *_) if name in self.answers:
                return Answer()
            case ("db_input", *_):
                return Answer(_SKIPPED)
            case (name, *_) if name in _WITHOUT_ANSWER:
                return Answer()
            case _:
                raise call.problem()
