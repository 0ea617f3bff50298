"""Names of licences: what is known for sure, and what stays as it is written."""

from __future__ import annotations

import json
from pathlib import Path

import cyclonedx.schema
import pytest

from buildctl.artifacts.licences import _KNOWN, spdx


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("LGPL-2.0-or-later", "LGPL-2.0-or-later"),
        ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
        ("Expat", "MIT"),
        ("MIT License", "MIT"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("zlib", "Zlib"),
    ],
)
def test_a_name_with_one_meaning_is_an_identifier(name: str, identifier: str) -> None:
    assert spdx(name) == identifier


@pytest.mark.parametrize(
    "name",
    [
        "BSD License",
        "GPL",
        "GPLv3",
        "Artistic",
        "public-domain",
        "MIT/X11",
        "GPL-2+ or LGPL-3+",
        "BSD-3-clause-Regents",
        "",
    ],
)
def test_a_name_that_leaves_a_doubt_stays_a_name(name: str) -> None:
    assert spdx(name) is None


def test_every_identifier_is_on_the_list_that_the_schema_of_the_bill_knows() -> None:
    listed = Path(cyclonedx.schema.__file__).parent / "_res" / "spdx.SNAPSHOT.schema.json"
    assert set(_KNOWN.values()) <= set(json.loads(listed.read_text())["enum"])
