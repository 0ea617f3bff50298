"""CycloneDX's own JSON schema, as cyclonedx-python-lib ships it.

That library's validator wants jsonschema with all its formats, and one of those takes 0.6 s to import, in every command
that shares the environment; the schema itself needs none of them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import cyclonedx.schema
import jsonschema
from referencing import Registry, Resource

_FOLDER = Path(cyclonedx.schema.__file__).parent / "_res"


@cache
def _validator() -> jsonschema.Draft7Validator:
    parts = {
        name: json.loads((_FOLDER / name).read_text())
        for name in ("spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
    }
    schema = json.loads((_FOLDER / "bom-1.6.SNAPSHOT.schema.json").read_text())
    base = schema["$id"].rpartition("/")[0]
    registry: Registry[Any] = Registry().with_resources(
        (f"{base}/{name}", Resource.from_contents(part)) for name, part in parts.items()
    )
    return jsonschema.Draft7Validator(schema, registry=registry)


def problems(data: str | bytes) -> list[str]:
    """What the schema of CycloneDX 1.6 finds wrong; where it may not say, `$` names the document."""
    return [f"{error.json_path}: {error.message}"[:500] for error in _validator().iter_errors(json.loads(data))]
