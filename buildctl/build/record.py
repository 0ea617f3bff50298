"""What the last build that made anything did and when, in a file next to the images, for `buildctl page`.

It is what `buildctl build --json` prints, and its time. A build that found every layer made leaves the file alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from buildctl.ground.clock import now, rfc3339
from buildctl.ground.errors import LayoutError
from buildctl.ground.jsontext import parse_json
from buildctl.oci.files import keep_whole, translated
from buildctl.oci.layout import Layout

_RECORD = "builds/last.json"  # in the layout


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRecord:
    """A layer that was made for `image`; `began` and `seconds` in seconds, from the start of the build."""

    image: str
    layer: str
    began: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    image: str
    digest: str
    made: int
    reused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """`at` is when it ended (RFC 3339, UTC), `seconds` how long it took."""

    at: str
    seconds: float
    images: tuple[ImageRecord, ...]
    work: tuple[WorkRecord, ...]


def keep_record(layout: Layout, result: Mapping[str, Any]) -> None:
    """`result` is what the build answers as JSON."""
    if not any(image["layersMade"] for image in result["images"]):
        return
    path = layout.root / _RECORD
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_whole(path, json.dumps({"at": rfc3339(now()), **result}, indent=1).encode() + b"\n")


def read_record(layout: Layout) -> BuildRecord | None:
    """None if there is none. Raises LayoutError for a file that is not a record."""
    path = layout.root / _RECORD
    try:
        return _parsed(parse_json(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LayoutError(
            f"{path} is not the record of a build ({error!r})", hint="remove it; the next build writes one"
        ) from error


def _parsed(value: Mapping[str, Any]) -> BuildRecord:
    images = [
        ImageRecord(
            image=str(i["id"]), digest=str(i["digest"]), made=int(i["layersMade"]), reused=int(i["layersReused"])
        )
        for i in value["images"]
    ]
    work = [
        WorkRecord(image=str(i["id"]), layer=str(w["layer"]), began=float(w["began"]), seconds=float(w["seconds"]))
        for i in value["images"]
        for w in i["made"]
    ]
    return BuildRecord(at=str(value["at"]), seconds=float(value["seconds"]), images=tuple(images), work=tuple(work))
