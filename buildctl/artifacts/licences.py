"""Licence names as packages write them, to SPDX identifiers: only if the name is unambiguous.

Debian's short names are defined in the machine-readable copyright format 1.0, "License specification"; of PyPI's
classifiers, "BSD License" or "GPLv3" do not say which, so they stay names (PEP 639, "mapping").
"""

from __future__ import annotations

_SAME = (
    "0BSD", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-4-Clause", "BSD-4-Clause-UC",
    "BSL-1.0", "CC-BY-3.0", "CC0-1.0", "FSFAP", "FSFUL", "FSFULLR", "ISC", "Latex2e", "MIT", "MPL-1.1",
    "MPL-2.0", "MS-PL", "PSF-2.0", "Sleepycat", "Unicode-DFS-2016", "X11", "Zlib",
)  # fmt: skip
_GNU = {"GPL": ("1.0", "2.0", "3.0"), "LGPL": ("2.0", "2.1", "3.0"), "GFDL": ("1.1", "1.2", "1.3")}
_OTHER = {
    "expat": "MIT",
    "artistic-2": "Artistic-2.0",
    "gfdl-niv-1.2": "GFDL-1.2-no-invariants-only",
    "gfdl-niv-1.2+": "GFDL-1.2-no-invariants-or-later",
    "gfdl-niv-1.3": "GFDL-1.3-no-invariants-only",
    "gfdl-niv-1.3+": "GFDL-1.3-no-invariants-or-later",
    "mit license": "MIT",
    "isc license (iscl)": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "the unlicense (unlicense)": "Unlicense",
    "zlib/libpng license": "Zlib",
}


def _known() -> dict[str, str]:
    out = {name.lower(): name for name in _SAME} | _OTHER
    for family, versions in _GNU.items():
        for version in versions:
            for written in {version, version.removesuffix(".0")}:
                only, later = f"{family}-{version}-only", f"{family}-{version}-or-later"
                out |= {f"{family}-{written}".lower(): only, f"{family}-{written}+".lower(): later}
            out |= {only.lower(): only, later.lower(): later}
    return out


_KNOWN = _known()


def spdx(name: str) -> str | None:
    """`GPL-2+` is GPL-2.0-or-later; None for anything that is not exactly one licence of the list."""
    return _KNOWN.get(name.strip().lower())
