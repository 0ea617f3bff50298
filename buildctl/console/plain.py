"""Text of others on a terminal: labels, tags, file names and what registries say may hold control characters, which can
hide or replace what is shown.
"""

from __future__ import annotations

import re
from typing import Any, TextIO

# C0 except tab and newline, DEL, C1, what turns the direction of text around, and surrogates, which no encoding has: they
# come from names that are not UTF-8 and from JSON
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """With a question mark for each control character: that is valid in JSON and in every encoding."""
    return text if text.isprintable() else _CONTROL.sub("?", text)


class Plain:
    """A text stream through which no control character passes; all else is that of `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._stream.write(plain(text))
