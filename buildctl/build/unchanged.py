"""Lets a build with nothing to do answer before it imports what building needs.

The answer of a build is kept in the store, under a digest of everything that it depends on: this program, options,
environment, and every file of the project that a build reads (by content; big files by their state). If the digest is
the same, the answer is the same. Whether the results are still there and intact is checked each time, as strictly as in
a build: layers in the store by their receipts, everything small in the layout by its content. It is not kept in
the layout, which may come from elsewhere (a CI cache): whoever put another image there could have put the answer there.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildctl.artifacts.sealed import sealed, unsealed
from buildctl.artifacts.store import Store
from buildctl.build.engine import BuildResult, Built
from buildctl.console.log import told
from buildctl.docker.context import may_answer
from buildctl.ground.errors import BuildctlError
from buildctl.ground.machine import machine
from buildctl.matrix.project import BAKE, MATRIX, Project
from buildctl.oci.digest import Digest
from buildctl.oci.files import is_the_same, keep_whole
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import MANIFEST_TYPES, Layout

PACKAGE = Path(__file__).parents[1]
REMEMBERED = "remembered"  # folder of the store
_BIG, _SETTLED = 1 << 20, 2.0  # bytes, seconds
_MOST = 5000  # files of a project
# The environment that a build reads, by the beginning of its names; of the rest only programs know that it starts for
# work, and then there is something to do.
ENVIRONMENT = ("BUILDCTL_", "HOME", "PIP_", "PYTHONPATH", "SOURCE_DATE_EPOCH", "UV_", "XDG_")


def remembered(
    project: Project, *, load: bool | None, **asked: str | bool | Sequence[str | None] | None
) -> Memory | None:
    """The memory of builds that were `asked` for the same; None if their images may have to go into Docker."""
    if load or (load is None and may_answer()):
        return None
    with suppress(OSError):  # a folder that cannot be read: the build says so if it needs it
        return Memory(project=project, asked=asked, digest=_digest(project, asked), told=told())
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The answer of one build. `digest` covers all that the answer depends on; `told` counts the messages before it."""

    project: Project
    asked: Mapping[str, Any]
    digest: str
    told: int

    def recall(self) -> BuildResult | None:
        """The answer if there is nothing to do, else None."""
        began, layout = time.monotonic(), Layout(self.project.layout)
        with suppress(OSError, ValueError, KeyError, TypeError, BuildctlError):
            kept = unsealed(self.digest, _place(layout).read_bytes())
            if kept is not None and _is_whole(layout, kept["layers"]) and _small(layout) == kept["small"]:
                images = tuple(_built(one) for one in kept["images"])
                shown = self.project.shown(layout.root)
                return BuildResult(
                    layout=shown,
                    images=images,
                    loaded=(),
                    seconds=time.monotonic() - began,
                    began=began,
                    first=kept["first"],
                )
        return None

    def keep(self, result: BuildResult) -> None:
        """Keeps nothing if a result is only elsewhere, if there were messages that people should see again, or if
        anything has changed meanwhile.
        """
        if told() == self.told and not self.project.matrix.cache.read:
            with suppress(OSError, BuildctlError):  # without a memory the next build only takes longer
                self._keep(Layout(self.project.layout), result)

    def _keep(self, layout: Layout, result: BuildResult) -> None:
        built = result.images
        used = {key: str(layer) for image in built for key, layer in image.layers.items()}
        here = all(len(image.layers) == image.made + image.reused for image in built)
        if not here or not _is_whole(layout, used) or _digest(self.project, self.asked) != self.digest:
            return
        images = [
            {"name": i.name, "descriptor": i.descriptor.to_json(), "size": i.size, "layers": len(i.layers)}
            for i in built
        ]
        kept = {"images": images, "first": result.first, "layers": used, "small": _small(layout)}
        path = _place(layout)
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_whole(path, sealed(self.digest, kept))


def _place(layout: Layout) -> Path:
    where = os.fsencode(layout.root.absolute())
    return Store.default().root / REMEMBERED / f"{hashlib.sha256(where).hexdigest()}.json"


def _built(kept: Mapping[str, Any]) -> Built:
    return Built(
        name=kept["name"],
        descriptor=Descriptor.from_json(kept["descriptor"]),
        size=kept["size"],
        made=0,
        reused=kept["layers"],
        seconds=0,
    )


def _digest(project: Project, asked: Mapping[str, Any]) -> str:
    seen = hashlib.sha256()
    environment = sorted((key, value) for key, value in os.environ.items() if key.startswith(ENVIRONMENT))
    places = [str(project.root), str(project.layout.absolute())]
    seen.update(json.dumps([places, asked, environment, sys.version, machine(), _program()]).encode())
    for line in _contents(project.root):
        seen.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return seen.hexdigest()


def _program() -> list[str]:
    """The content of this package, and the names and versions of those installed with it. Times would prove nothing: in
    container images they are often all the same.
    """
    found = []
    for place in (Path(place) for place in sys.path if place.endswith("-packages")):
        with suppress(OSError):
            found += sorted(name for name in os.listdir(place) if name.endswith(".dist-info"))  # noqa: PTH208 - fast
    return found + [hashlib.sha256(data).hexdigest() for data in _files(str(PACKAGE))]


def _files(folder: str) -> Iterator[bytes]:
    with os.scandir(folder) as found:
        for entry in sorted(found, key=lambda entry: entry.name):
            yield entry.name.encode()
            if not entry.is_dir():
                yield Path(entry.path).read_bytes()
            elif entry.name != "__pycache__":
                yield from _files(entry.path)


def _contents(root: Path) -> Iterator[str]:
    """Name, kind, mode and content of every file that a build of this project may read. Raises OSError if they are so
    many that comparing takes longer than building: a link to a folder of data may be among them.
    """
    yield from (_content(root / name) for name in (MATRIX, BAKE))
    left = _MOST
    seen: set[tuple[int, int]] = set()  # folders: links may lead round in circles
    for folder in ("images", "templates"):
        for path, folders, files in os.walk(root / folder, followlinks=True):
            state = Path(path).stat()
            folders[:] = sorted(folders) if (state.st_dev, state.st_ino) not in seen else []
            seen.add((state.st_dev, state.st_ino))
            left -= len(folders) + len(files)
            if left < 0:
                raise OSError(f"more than {_MOST} files in {root}")
            yield from (_content(Path(path, name)) for name in (*folders, *sorted(files)))


def _content(path: Path) -> str:
    """A link counts by its target and the content there. A big file counts by its state, once it is old enough that a
    change would show: its change time (ctime) cannot be set.
    """
    try:
        link = os.readlink(path) if path.is_symlink() else ""  # noqa: PTH115 - Path.readlink tidies it up
        state, what = path.stat(), ""
        if stat.S_ISREG(state.st_mode) and state.st_size > _BIG and time.time() - state.st_ctime > _SETTLED:
            what = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
        elif stat.S_ISREG(state.st_mode):
            what = str(Digest.of_file(path))
        return f"{path} {link} {state.st_mode:o} {what}"
    except OSError as error:
        return f"{path} {error.errno}"


def _is_whole(layout: Layout, used: Mapping[str, str]) -> bool:
    """Whether every layer (by recipe key) is the same in the store and in the layout."""
    layers = Store.default()
    for key, text in used.items():
        layer, digest = layers.get(key), Digest.parse(text)
        if layer is None or layer.descriptor.digest != digest:
            return False
        if not is_the_same(layers.blob(digest), layout.blob_path(digest)):
            return False
    return True


def _small(layout: Layout) -> str:
    """A digest over what the layout says; manifests and configurations are read, and hashed by that. Raises LayoutError
    for one that is damaged.
    """
    seen = hashlib.sha256()
    origins = sorted(layout.root.glob("origins/*"))
    for path in (layout.root / "oci-layout", layout.index_path, *origins):
        seen.update(f"{path.name} {Digest.of_file(path)}\n".encode())
    for descriptor in _small_blobs(layout):
        seen.update(f"{descriptor.digest} {len(layout.read_bytes(descriptor))}\n".encode())
    return seen.hexdigest()


def _small_blobs(layout: Layout) -> Iterable[Descriptor]:
    """Everything that index.json leads to but layers, once."""
    found: dict[Digest, Descriptor] = {}
    for descriptor in layout.walk(layout.entries()):
        found[descriptor.digest] = descriptor
        if descriptor.media_type in MANIFEST_TYPES:
            config = layout.manifest(descriptor).config
            found[config.digest] = config
    return found.values()
