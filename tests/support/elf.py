"""Shared libraries that are nothing but their dynamic symbols, as a linker would write them (gABI, 64 bits)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_DYNSYM, _STRTAB, _DYNAMIC, _VERNEED, _VERSYM = 11, 3, 6, 0x6FFFFFFE, 0x6FFFFFFF
_NEEDED, _SONAME, _STRTAB_TAG, _NULL = 1, 14, 5, 0


def library(
    *,
    exports: Sequence[str] = (),
    wants: Sequence[str] = (),
    weak: Sequence[str] = (),
    hidden: Sequence[str] = (),
    needed: Sequence[str] = (),
    soname: str = "",
    versioned: Sequence[str] = ("malloc",),
) -> bytes:
    """`weak` are undefined and may be missing, `versioned` are wanted from glibc; `hidden` are nobody else's."""
    strings = bytearray(b"\0")

    def string(text: str) -> int:
        at = len(strings)
        strings.extend(text.encode() + b"\0")
        return at

    rows = [(0, 0, 0, 0)]  # name, info, other, section
    rows += [(string(name), 0x12, 0, 1) for name in exports]
    rows += [(string(name), 0x12, 2, 1) for name in hidden]
    rows += [(string(name), 0x10, 0, 0) for name in (*wants, *versioned)]
    rows += [(string(name), 0x20, 0, 0) for name in weak]
    symbols = b"".join(struct.pack("<IBBHQQ", *row, 0, 0) for row in rows)
    plain = [0, *[1] * (len(exports) + len(hidden)), *[0] * len(wants), *[2] * len(versioned), *[0] * len(weak)]
    versions = struct.pack(f"<{len(plain)}H", *plain)
    verneed = b""
    if versioned:
        verneed = struct.pack("<HHIII", 1, 1, string("libc.so.6"), 16, 0)
        verneed += struct.pack("<IHHII", 0, 0, 2, string("GLIBC_2.2.5"), 0)
    tags = [(_NEEDED, string(name)) for name in needed] + ([(_SONAME, string(soname))] if soname else [])
    dynamic = b"".join(struct.pack("<qQ", *tag) for tag in [*tags, (_STRTAB_TAG, 0), (_NULL, 0)])
    return _file(
        [
            (".dynstr", _STRTAB, bytes(strings), 0, 0, 0),
            (".dynsym", _DYNSYM, symbols, 1, 1, 24),
            (".gnu.version", _VERSYM, versions, 2, 0, 2),
            *([(".gnu.version_r", _VERNEED, verneed, 1, 1, 0)] if verneed else []),
            (".dynamic", _DYNAMIC, dynamic, 1, 0, 16),
        ]
    )


def _file(sections: Sequence[tuple[str, int, bytes, int, int, int]]) -> bytes:
    """(name, type, data, link, info, size of an entry) of each, numbered from 1; the table of sections is last."""
    names, at, body = bytearray(b"\0"), 64, b""
    headers = [bytes(64)]
    shstrtab = (".shstrtab", _STRTAB, b"", 0, 0, 0)
    for name, kind, data, link, info, entry in (*sections, shstrtab):
        start = len(names)
        names.extend(name.encode() + b"\0")
        content = bytes(names) if name == ".shstrtab" else data
        content += bytes(-len(content) % 8)
        headers.append(
            struct.pack("<IIQQQQIIQQ", start, kind, 0, 0, at + len(body), len(content), link, info, 8, entry)
        )
        body += content
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(headers), len(headers) - 1
    )
    return head + body + b"".join(headers)
