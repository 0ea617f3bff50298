"""Stanzas of Debian's control files (deb822)."""

from __future__ import annotations

from collections.abc import Iterator

from buildctl.ground.errors import ArtifactError


def parse_stanzas(text: str, source: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Paragraphs of Debian control syntax (deb822(5)) as (line number, fields); `#` lines are comments.

    Continuation lines keep their leading space. Raises ArtifactError with `source` and the line.
    """
    fields: dict[str, str] = {}
    start = last = 0
    key = ""
    for last, line in enumerate(text.split("\n"), 1):
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield start, fields
            fields, key = {}, ""
        elif line[0] in " \t":
            if not key:
                raise ArtifactError(f"{source}:{last}: a continuation line without a field before it")
            fields[key] += "\n" + line
        else:
            key, colon, value = line.partition(":")
            if not colon or not key or any(c <= " " or c > "~" for c in key):
                raise ArtifactError(f"{source}:{last}: not a `Field: value` line: {line[:80]!r}")
            if key in fields:
                raise ArtifactError(f"{source}:{last}: field {key} is given twice")
            start = start if fields else last
            fields[key] = value.strip()
    if fields:
        yield start, fields
