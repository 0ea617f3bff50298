"""Wheels that overwrite each other are found with the wheels, with a list of files, and with the layer alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from buildctl.artifacts.facts import KnownFile
from buildctl.artifacts.store import Store
from buildctl.artifacts.wheels.layer import group_entries
from buildctl.artifacts.wheels.wheel import Site
from buildctl.build.assemble import ImageRecipe, Recipe
from buildctl.build.cache.overlaps import note_checked, refuse_conflicts, was_checked
from buildctl.build.recipes import WheelsSource
from buildctl.ground.errors import ArtifactError
from buildctl.lock.wheels import LockedWheel
from buildctl.oci.compression import ZSTD
from buildctl.oci.digest import Digest
from buildctl.oci.image import ImageConfig, Platform
from tests.support.servers import wheel

SITE = Site()
SHARED = f"{SITE.purelib}/shared/__init__.py"


def recipe(store: Store, name: str, content: str, *, keep: bool = True) -> Recipe:
    """A layer of one wheel, which is in the store if it is kept."""
    filename = f"{name}-1.0-py3-none-any.whl"
    data = wheel(filename, more={"shared/__init__.py": content})
    locked = LockedWheel(name=name, version="1.0", filename=filename, size=len(data), digest=Digest.of(data))
    store.artifact_path(locked.digest).write_bytes(data)
    source = WheelsSource(wheels=(locked,), site=SITE, compiling=cast("Any", None))
    if not keep:
        from buildctl.artifacts.wheels.layer import WheelFile

        files = [WheelFile(path=store.artifact_path(locked.digest), filename=filename)]
        store.put(name, lambda: group_entries(files, site=SITE, bytecode=None), compression=ZSTD)
        store.artifact_path(locked.digest).unlink()
    return Recipe(key=name, label=name, weight=1, source=source, compression=ZSTD)


def image(*recipes: Recipe) -> ImageRecipe:
    config = ImageConfig(platform=Platform(architecture="amd64"))
    return ImageRecipe(name="x", layers=recipes, config=config, history=(), annotations={})


def nothing(_: str) -> Sequence[KnownFile] | None:
    return None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("keep", [True, False])
def test_wheels_that_are_here_or_only_their_layer(store: Store, keep: bool) -> None:
    first = recipe(store, "a", "x = 1\n")
    refuse_conflicts(image(first, recipe(store, "b", "x = 1\n", keep=keep)), store, store, nothing)
    with pytest.raises(ArtifactError, match=f"would install different files at /{SHARED}"):
        refuse_conflicts(image(first, recipe(store, "c", "x = 2\n", keep=keep)), store, store, nothing)


@pytest.mark.parametrize(("content", "differs"), [(b"x = 1\n", False), (b"x = 2\n", True)])
def test_a_layer_that_is_in_the_cache_only(store: Store, content: bytes, differs: bool) -> None:
    first, second = recipe(store, "a", "x = 1\n"), recipe(store, "b", "")
    source = second.source
    assert isinstance(source, WheelsSource)
    store.artifact_path(source.wheels[0].digest).unlink()
    digest = Digest.of(content).hex[:32]
    listed = KnownFile(path=SHARED, label="layer b", size=len(content), executable=False, content=digest)
    known = {"b": [listed]}.get
    if differs:
        with pytest.raises(ArtifactError, match=r"a-1\.0-py3-none-any\.whl and layer b would install different files"):
            refuse_conflicts(image(first, second), store, store, known)
    else:
        refuse_conflicts(image(first, second), store, store, known)


def test_a_layer_of_which_nothing_is_known_does_not_pass(store: Store) -> None:
    second = recipe(store, "b", "")
    source = second.source
    assert isinstance(source, WheelsSource)
    store.artifact_path(source.wheels[0].digest).unlink()
    with pytest.raises(ArtifactError, match="b: neither its wheels nor its layer are here"):
        refuse_conflicts(image(recipe(store, "a", "x = 1\n"), second), store, store, nothing)


def test_what_was_compared_is_remembered_for_exactly_these_layers(store: Store) -> None:
    both = image(recipe(store, "a", ""), recipe(store, "b", ""))
    assert not was_checked(both, store)
    note_checked(both, store)
    assert was_checked(image(*reversed(both.layers)), store)
    assert not was_checked(image(both.layers[0]), store)
    assert was_checked(image(), store)
