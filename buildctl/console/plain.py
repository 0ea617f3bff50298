"""Text of others on a terminal: labels, tags, file names and registry answers may contain control characters, which can
hide or replace what is shown.
"""

from __future__ import annotations

import re
from typing import Any, TextIO

# C0 except tab and newline, DEL, C1, what turns the direction of text around, and surrogates, which no encoding has:
# they come from names that are not UTF-8 and from JSON
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Replaces each control character by a question mark, which is valid in JSON and in every encoding."""
    return text if text.isprintable() else _CONTROL.sub("?", text)


class Plain:
    """A text stream that replaces control characters; in all else it behaves as `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._stream.write(plain(text))
