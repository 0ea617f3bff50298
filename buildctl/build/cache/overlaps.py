"""Wheels that overwrite each other are found also where a wheel, or its layer, is not on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from buildctl.artifacts.facts import KnownFile, files_of
from buildctl.artifacts.store import LayerStore, Store
from buildctl.artifacts.wheels.layer import WheelFile, refuse_overlaps
from buildctl.build.assemble import ImageRecipe, Recipe
from buildctl.build.recipes import WheelsSource
from buildctl.ground.errors import ArtifactError
from buildctl.oci.files import translated, write_whole

Known = Callable[[str], Sequence[KnownFile] | None]


def wheel_recipes(image: ImageRecipe) -> tuple[Recipe, ...]:
    return tuple(recipe for recipe in image.layers if isinstance(recipe.source, WheelsSource))


def refuse_conflicts(image: ImageRecipe, store: Store, layers: LayerStore, known: Known) -> tuple[str, ...]:
    """What is odd about the image's wheels and harmless, for people. Raises ArtifactError if wheels of different layers
    would install files at the same path that differ so that it matters.

    A layer's files are those of its wheels in the store, else what `known` says of its key, else those of the layer
    itself. One of which nothing is known is an error, because nothing could be compared.
    """
    wheels: list[WheelFile] = []
    files: list[Sequence[KnownFile]] = []
    recipes = wheel_recipes(image)
    for recipe in recipes:
        if (here := _wheels(recipe, store)) is not None:
            wheels += here
        elif (said := known(recipe.key)) is not None:
            files.append(said)
        else:
            files.append(_from_layer(recipe, layers))
    if not recipes:
        return ()
    source = recipes[0].source
    assert isinstance(source, WheelsSource)  # noqa: S101 - wheel_recipes
    return refuse_overlaps(wheels, site=source.site, known=files)


def _wheels(recipe: Recipe, store: Store) -> list[WheelFile] | None:
    """None unless all are in the store."""
    assert isinstance(recipe.source, WheelsSource)  # noqa: S101 - wheel_recipes
    found = [(store.artifact(wheel.digest), wheel.filename) for wheel in recipe.source.wheels]
    files = [WheelFile(path=path, filename=name) for path, name in found if path is not None]
    return files if len(files) == len(found) else None


def _from_layer(recipe: Recipe, layers: LayerStore) -> tuple[KnownFile, ...]:
    layer = layers.get(recipe.key)
    path = layers.blob(layer.descriptor.digest) if layer is not None else None
    if layer is None or path is None or not path.is_file():
        raise ArtifactError(
            f"{recipe.label}: neither its wheels nor its layer are here, so that nothing tells which files it has",
            hint="run the build again, or `buildctl fetch` first",
        )
    return files_of(path, layer, recipe.label)


def was_checked(image: ImageRecipe, store: Store) -> bool:
    """Whether these layers of wheels were compared on this machine before."""
    return not wheel_recipes(image) or _mark(image, store).exists()


def note_checked(image: ImageRecipe, store: Store) -> None:
    if wheel_recipes(image):
        path = _mark(image, store)
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, b"")


def _mark(image: ImageRecipe, store: Store) -> Path:
    keys = " ".join(sorted(recipe.key for recipe in wheel_recipes(image)))
    return store.root / "checked" / hashlib.sha256(keys.encode()).hexdigest()
