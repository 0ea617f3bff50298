"""A machine that has nothing, with a full cache: build and publish without a wheel or a layer."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from measured import ROOT, SMALL, Took, buildctl
from results import Goal, Part, Row
from throttled import Wire, throttled

sys.path.insert(0, str(ROOT))  # the tests' registry

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from buildctl.artifacts.facts import CONTENTS_TYPE, FILES_TYPE, Facts, facts_of
from buildctl.artifacts.store import RECIPE_VERSION, Store
from buildctl.build.planner import Planned, Planner, chosen_compression
from buildctl.console.progress import Silent
from buildctl.lock.locked import load_locked
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.image import Layer
from buildctl.oci.layout import Layout
from buildctl.registry.cache.entry import Trust
from buildctl.registry.cache.write import Fresh, Writer
from buildctl.registry.client import open_repository
from buildctl.registry.keys import PrivateKey
from buildctl.registry.reference import Reference
from buildctl.registry.upload import Blob
from tests.support.registry import docker_registry

FEW: tuple[str, ...] = ("cuda-2.6", "cpu-2.6")
CACHE = "team/cache"
NOTES = """\
Debian's docker-registry on loopback; bytes are counted by a proxy. The cache is filled before, which is not measured:
the layers of the user's store become blobs of the registry by hard links, and the entries and sets are signed as
`build --cache-to` does. Every image has the digest that it has where it was made. Nothing is tested on the empty
machine, so `publish` sets immutable tags."""


def cache(root: Path, repeat: int) -> Part:
    project = Project.find(ROOT)
    every = tuple(sorted({cell.image for cell in project.matrix.images_of()}))
    asked = {"cuda-2.6 and cpu-2.6": FEW, f"the whole matrix, {len(every)} names": every}
    if SMALL:
        asked = {"cpu-2.6": ("cpu-2.6",)}
    wanted = tuple(dict.fromkeys(name for names in asked.values() for name in names))
    buildctl("build", *wanted, "--no-load", env={})
    private, public = _keys(root)
    with docker_registry(root / "registry") as registry:
        _fill(registry, root / "registry" / "data", PrivateKey.load(str(private)), project, wanted)
        host, _, port = registry.partition(":")
        with throttled(host, int(port)) as wire:
            found = {
                what: [_empty(root / f"machine{n}-{len(names)}", wire, public, names) for n in range(repeat)]
                for what, names in asked.items()
            }
    rows = [row for what, turns in found.items() for row in _rows(what, turns)]
    limits = ((4, 2), (10, 10))
    goals = [
        goal
        for (what, turns), (seconds, megabytes) in zip(found.items(), limits, strict=False)
        for goal in _goals(what, turns, seconds, megabytes)
    ]
    return Part(title="With a shared cache", rows=tuple(rows), notes=NOTES, goals=tuple(goals), turns=repeat)


_Turn = tuple[tuple[Took, int], tuple[Took, int]]


def _rows(what: str, turns: Sequence[_Turn]) -> list[Row]:
    commands = (f"build on an empty machine, full cache: {what}", f"publish to the same registry: {what}")
    return [
        Row(what=command, turns=tuple(turn[i][0] for turn in turns), note=f"{turns[0][i][1] / 1e3:,.0f} kB moved")
        for i, command in enumerate(commands)
    ]


def _goals(what: str, turns: Sequence[_Turn], seconds: float, megabytes: float) -> list[Goal]:
    wall = min(built.plus(published).wall for (built, _), (published, _) in turns)
    moved = max(built + published for (_, built), (_, published) in turns) / 1e6
    said = f"empty machine, full cache, {what}"
    return [
        Goal(what=f"{said}: build and publish", want=seconds, got=wall, unit="s"),
        Goal(what=f"{said}: bytes moved", want=megabytes, got=moved, unit="MB"),
    ]


def _empty(machine: Path, wire: Wire, key: Path, names: Sequence[str]) -> _Turn:
    """Seconds and bytes of each of the two commands."""
    env, layout = {"BUILDCTL_CACHE": str(machine / "store")}, ["--layout", machine / "dist"]
    trust = ["--cache-from", f"{wire.netloc}/{CACHE}", "--cache-trust", key]
    before = wire.up + wire.down
    built, _ = buildctl(*layout, "build", *names, "--no-load", *trust, env=env)
    between = wire.up + wire.down
    to = f"{wire.netloc}/{machine.name}/pytorch"
    published, _ = buildctl(*layout, "publish", *names, "--to", to, "--tags", "immutable", env=env)
    after = wire.up + wire.down
    if found := list((machine / "store").glob("artifacts/*")):
        sys.exit(f"something was downloaded: {found[0]}")
    if (here := _digests(machine / "dist", names)) != (there := _digests(Project.find(ROOT).layout, names)):
        sys.exit(f"other images than where they were made: {here} and {there}")
    shutil.rmtree(machine)
    return (built, between - before), (published, after - between)


def _digests(layout: Path, names: Sequence[str]) -> dict[str, str]:
    cells = Project.find(ROOT).matrix.images_of(names)
    return {cell.id: str(Layout(layout).resolve(cell.id, cell.arch).digest) for cell in cells}


def _fill(registry: str, data: Path, key: PrivateKey, project: Project, names: Sequence[str]) -> None:
    """What `build --cache-to` leaves there, without making the layers or sending them."""
    store, compression = Store.default(), chosen_compression(project)
    planner = Planner(project=project, compression=compression)
    planned = [planner.plan(locked) for locked in load_locked(project, project.matrix.images_of(names))]
    layers = {recipe.key: layer for one in planned for recipe in one.recipes if (layer := store.get(recipe.key))}
    _link((layer.descriptor.digest for layer in layers.values()), store, data / "docker" / "registry" / "v2")
    writer = Writer(
        repository=open_repository(Reference.parse_repository(f"{registry}/{CACHE}"), write=True),
        key=key,
        trust=Trust(keys=(key.public,), media_type=str(compression.media_type)),
        version=RECIPE_VERSION,
    )
    entries = writer.entries(_fresh(planned, layers, store), Silent())
    for keys in dict.fromkeys(one.keys for one in planned):
        writer.set([entries[key] for key in keys], unlapped=True)  # the build that made them here compared them
    if writer.failed:
        sys.exit(f"the cache was not filled: {writer.failed}")


def _link(digests: Iterable[Digest], store: Store, data: Path) -> None:
    """As docker-registry stores blobs and which of them a repository has (distribution, storage/paths.go)."""
    for digest in digests:
        blob = data / "blobs" / "sha256" / digest.hex[:2] / digest.hex / "data"
        link = data / "repositories" / CACHE / "_layers" / "sha256" / digest.hex / "link"
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            os.link(store.blob(digest), blob)
        link.write_text(str(digest))


def _fresh(planned: Sequence[Planned], layers: dict[str, Layer], store: Store) -> list[Fresh]:
    """Layers are read for the documents about them, by all processors."""
    recipes = {recipe.key: recipe for one in planned for recipe in one.recipes}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        paths = {key: store.blob(layers[key].descriptor.digest) for key in recipes}
        facts = dict(zip(recipes, pool.map(lambda key: facts_of(paths[key], layers[key]), recipes), strict=True))
    return [
        Fresh(
            key=key,
            label=recipe.label,
            layer=layers[key],
            path=paths[key],
            documents=partial(_documents, facts[key]),
        )
        for key, recipe in recipes.items()
    ]


def _documents(facts: Facts) -> tuple[Blob, Blob]:
    return Blob.of(facts.contents, CONTENTS_TYPE), Blob.of(facts.files, FILES_TYPE)


def _keys(root: Path) -> tuple[Path, Path]:
    pair, private, public = generate_private_key(SECP256R1()), root / "cache.key", root / "cache.pub"
    private.write_bytes(pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(pair.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public
