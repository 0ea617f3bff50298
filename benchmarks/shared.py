"""A machine that has nothing, with a full cache: build and publish without a wheel or a layer."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from measured import ROOT, Took, buildctl
from results import Goal, Part, Row
from throttled import Wire, throttled

sys.path.insert(0, str(ROOT))  # the tests' registry

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.registry import docker_registry

NAMES = ("cuda-2.6", "cpu-2.6")
BUILD, PUBLISH = "build cuda-2.6 cpu-2.6 on an empty machine, full cache", "publish to the same registry"
NOTES = """\
Debian's docker-registry on loopback; bytes are counted by a proxy. The cache is filled before, from the user's store.
The whole default matrix with a full cache is not measured: filling it moves 13.9 GB."""


def cache(root: Path, repeat: int) -> Part:
    keys = _keys(root)
    with docker_registry(root / "registry") as registry:
        host, _, port = registry.partition(":")
        with throttled(host, int(port)) as wire:
            to = f"{wire.netloc}/team/cache"
            fill = ["--cache-to", to, "--cache-key", keys[0]]
            buildctl("--layout", root / "filled", "build", *NAMES, "--no-load", *fill, env={})
            turns = [_empty(root / f"machine{n}", wire, to, keys[1]) for n in range(repeat)]
    built, published = ([turn[i] for turn in turns] for i in (0, 1))
    both = min((b.plus(p) for (b, _), (p, _) in zip(built, published, strict=True)), key=lambda took: took.wall)
    moved = max(b + p for (_, b), (_, p) in zip(built, published, strict=True)) / 1e6
    rows = tuple(
        Row(what=what, turns=tuple(took for took, _ in found), note=f"{found[0][1] / 1e3:,.0f} kB moved")
        for what, found in ((BUILD, built), (PUBLISH, published))
    )
    goals = (
        Goal(what="empty machine, full cache: build and publish", want=4, got=both.wall, unit="s"),
        Goal(what="empty machine, full cache: bytes moved", want=2, got=moved, unit="MB"),
        Goal(what="the whole matrix likewise", want=10, got=None, unit="s", why="filling the cache moves 13.9 GB"),
    )
    return Part(title="With a shared cache", rows=rows, notes=NOTES, goals=goals, turns=repeat)


def _empty(machine: Path, wire: Wire, to: str, key: Path) -> tuple[tuple[Took, int], tuple[Took, int]]:
    """Seconds and bytes of each of the two commands."""
    env, layout = {"BUILDCTL_CACHE": str(machine / "store")}, ["--layout", machine / "dist"]
    before = wire.up + wire.down
    built, _ = buildctl(*layout, "build", *NAMES, "--no-load", "--cache-from", to, "--cache-trust", key, env=env)
    between = wire.up + wire.down
    published, _ = buildctl(
        *layout, "publish", *NAMES, "--to", f"{wire.netloc}/{machine.name}/pytorch", "--tags", "immutable", env=env
    )
    after = wire.up + wire.down
    if wheels := list((machine / "store").glob("artifacts/**/*.whl")):
        sys.exit(f"a wheel was downloaded: {wheels[0]}")
    shutil.rmtree(machine)
    return (built, between - before), (published, after - between)


def _keys(root: Path) -> tuple[Path, Path]:
    pair, private, public = generate_private_key(SECP256R1()), root / "cache.key", root / "cache.pub"
    private.write_bytes(pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(pair.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public
