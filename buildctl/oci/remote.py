"""Where the blobs are that a layout lacks: one small file for each, `remote/<hex>.json` in the layout.

A layout MAY lack blobs, and other files may lie in its directory (image-spec, image-layout.md). A file for each blob
needs no lock: writers that note the same blob write the same bytes.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.files import TEMPORARY, translated
from buildctl.oci.image import Descriptor, canonical_json
from buildctl.oci.trees.kept import remove_tree

FOLDER = "remote"
_LIMIT = 64 << 10  # bytes of one file


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A repository that has a layer, without asking it: the signed statement of a cache says so.

    `key` is what the layer is made from, `signer` the hint of the key that signed. `contents` lists the packages in
    the layer, `files` its files; both are blobs of the same repository.
    """

    registry: str
    repository: str
    key: str
    signer: str
    layer: Descriptor
    contents: Descriptor
    files: Descriptor

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    def to_json(self) -> dict[str, Any]:
        return {
            "registry": self.registry,
            "repository": self.repository,
            "key": self.key,
            "signer": self.signer,
            "layer": self.layer.to_json(),
            "contents": self.contents.to_json(),
            "files": self.files.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Place:
        """Raises LayoutError, KeyError or TypeError."""
        return cls(
            registry=str(value["registry"]),
            repository=str(value["repository"]),
            key=str(value["key"]),
            signer=str(value["signer"]),
            layer=Descriptor.from_json(value["layer"]),
            contents=Descriptor.from_json(value["contents"]),
            files=Descriptor.from_json(value["files"]),
        )


def note_places(root: Path, places: Iterable[Place]) -> None:
    """In the layout in `root`, before the image that needs them is written. Raises WriteError, EngineError."""
    folder = root / FOLDER
    for place in places:
        path, data = folder / f"{place.layer.digest.hex}.json", canonical_json(place.to_json())
        with suppress(OSError):
            if path.read_bytes() == data:
                continue
        with translated(path, len(data)):
            folder.mkdir(parents=True, exist_ok=True)
            # not synced, one by one: what a crash takes away counts as lost, and the next build writes it again
            temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
            temporary.write_bytes(data)
            if path.is_dir():  # damaged
                remove_tree(path)
            temporary.replace(path)


def place_of(root: Path, digest: Digest) -> Place | None:
    """Where the layout in `root` says that the blob is. None also for a damaged file: then the blob counts as lost."""
    try:
        with (root / FOLDER / f"{digest.hex}.json").open("rb") as file:
            place = Place.from_json(json.loads(file.read(_LIMIT)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, LayoutError):
        return None
    return place if place.layer.digest == digest else None
