"""Small JSON files of the store that say what they are about, with a digest over all of it.

A file that was changed, cut off, or copied to another name says nothing. The digest is not a signature: whoever can
write to the store can also seal (docs/design.md, "The store is hashed, not believed").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from buildctl.oci.image import canonical_json


def sealed(about: str, value: Mapping[str, Any]) -> bytes:
    """`value` as it is kept; `about` is what it is looked up by."""
    return canonical_json({**value, "about": about, "seal": _seal(about, value)})


def unsealed(about: str, data: bytes) -> dict[str, Any] | None:
    """The value that was sealed; None for anything else."""
    try:
        found = json.loads(data)
        seal, named = found.pop("seal"), found.pop("about")
        return dict(found) if (named, seal) == (about, _seal(about, found)) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _seal(about: str, value: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json({**value, "about": about})).hexdigest()
