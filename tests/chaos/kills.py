"""A command is ended at a random time, then run again: the result must be the same as if nothing had happened."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildctl.artifacts.store import Store
from buildctl.lock.debian import read_base_lock, write_base_lock
from buildctl.lock.wheels import LockedWheel, read_wheel_lock
from buildctl.oci.check import check_layout
from buildctl.oci.digest import Digest
from buildctl.oci.layout import Layout
from buildctl.registry.client import Repository, open_repository
from buildctl.registry.reference import Reference
from tests.chaos.world import CELL, NAME, Ended, NotRunError, Tally, World
from tests.support.projects import small
from tests.support.registry import docker_registry
from tests.support.servers import torch_wheel
from tests.support.wheelhouse import wheelhouse

COMMANDS = ("build", "lock", "publish", "promote", "rebase")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
Attack = Callable[[World, argparse.Namespace], Tally]


class Victim:
    """A command that is killed. `prepare` comes before each try, `judge` after it ran to its end."""

    argv: tuple[str, ...] = ()

    def __init__(self, world: World) -> None:
        self.world = world
        self.env: dict[str, str] = {}

    def prepare(self, number: int) -> None: ...

    def half(self) -> list[str]:
        """What is wrong just after the kill."""
        return self.world.half_made()

    def lost(self) -> list[str]:
        return []

    def judge(self, done: Ended) -> list[str]:
        return []

    def close(self) -> None: ...


class Build(Victim):
    argv = ("build", NAME, "--no-load", "--json")

    def prepare(self, number: int) -> None:
        if number % 3:  # else it continues on what the last one left
            self.world.forget()
        self.before = self.world.named()

    def lost(self) -> list[str]:
        return [f"{name} is not in the layout any more" for name in self.before - self.world.named()]

    def judge(self, done: Ended) -> list[str]:
        return self.world.built(done)


class Lock(Victim):
    """The lock of the wheels, from an index on loopback."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        project, store = world.root / "locking", Store(world.root / "index")
        shutil.copytree(world.project, project, symlinks=True, ignore=shutil.ignore_patterns("dist"))
        self.path, self.whole = project / f"images/{NAME}/requirements.arm64.txt", b""
        self.argv = ("--project", str(project), "lock", NAME)
        wheels = [self._served(wheel, store) for wheel in read_wheel_lock(self.path).wheels]
        self.stack = ExitStack()
        url = self.stack.enter_context(wheelhouse(wheels, store))
        self.env = {"UV_DEFAULT_INDEX": url, "UV_NO_CONFIG": "1", "NO_PROXY": "127.0.0.1"}

    def _served(self, wheel: LockedWheel, store: Store) -> LockedWheel:
        """With a torch that says what it is."""
        data = self.world.store.artifact_path(wheel.digest).read_bytes()
        if wheel.name == "torch":
            data = torch_wheel(wheel.filename)
        store.artifact_path(Digest.of(data)).write_bytes(data)
        return replace(wheel, digest=Digest.of(data), size=len(data))

    def prepare(self, number: int) -> None:
        there = self.path.read_bytes()
        self.stale = re.sub(rb"(# inputs: sha256:)[0-9a-f]{64}", rb"\g<1>" + b"0" * 64, there)
        self.path.write_bytes(self.stale)

    def half(self) -> list[str]:
        there = self.path.read_bytes() if self.path.exists() else b""
        return [] if there in (self.whole, self.stale) else [f"half a lock: {there[:200]!r}"]

    def lost(self) -> list[str]:
        return [] if self.path.exists() else ["the lock"]

    def judge(self, done: Ended) -> list[str]:
        self.whole = self.whole or self.path.read_bytes()  # of the run that nothing disturbed
        return [] if self.path.read_bytes() == self.whole else ["another lock"]

    def close(self) -> None:
        self.stack.close()


class Publish(Victim):
    """Two small images into a registry on loopback; other images are there already, as an earlier revision."""

    revisions: tuple[tuple[str, ...], ...] = (("small-before", "r1"),)  # project and revision of what is there

    def __init__(self, world: World) -> None:
        super().__init__(world)
        for name in ("small", "small-before"):
            if not (world.root / name).exists():
                small(world.root / name)
        self.stack = ExitStack()
        try:
            self.registry = self.stack.enter_context(docker_registry(world.root / "registry"))
        except pytest.skip.Exception as reason:
            raise NotRunError(str(reason).removeprefix("NOT RUN: ")) from None
        self.env = {"NO_PROXY": "127.0.0.1"}
        self.place = f"{self.registry}/first"
        for project, *options in self.revisions:
            done = self.world.run(*self.command(project, *options), env=self.env)
            assert done.status == 0, done.stderr
        self.first = self.seen()

    def command(self, project: str, revision: str, *more: str) -> tuple[str, ...]:
        where = ("--project", str(self.world.root / project), "publish", "--to", self.place)
        return (*where, "--revision", revision, "--no-sbom", *more)

    def prepare(self, number: int) -> None:
        """A repository of its own, as `first` is: publishing that anew would be most of a try."""
        name = f"t{number}"
        self.place = f"{self.registry}/{name}"
        repositories = self.world.root / "registry/data/docker/registry/v2/repositories"
        shutil.copytree(repositories / "first", repositories / name)
        self.argv = self.command("small", "r2")

    def seen(self) -> dict[str, str]:
        """Digest by tag of everything that can be pulled whole; `broken` for what cannot."""
        repository, out = open_repository(Reference.parse(self.place)), {}
        for tag in repository.tags():
            found = repository.manifest(tag)
            out[tag] = str(found.descriptor.digest) if _whole(repository, found.json()) else "broken"
        return out

    def half(self) -> list[str]:
        return [f"{tag} leads to something incomplete" for tag, digest in self.seen().items() if digest == "broken"]

    def lost(self) -> list[str]:
        return [f"tag {tag}" for tag in self.first.keys() - self.seen().keys()]

    def judge(self, done: Ended) -> list[str]:
        there = self.seen()
        expected = {tag.replace("-r1", "-r2") if "-r1" in tag else tag for tag in self.first}
        return [f"tag {tag} is missing" for tag in expected - there.keys()]

    def close(self) -> None:
        self.stack.close()


class Promote(Publish):
    revisions = (("small-before", "r1"), ("small", "r2", "--tags", "immutable"))

    def prepare(self, number: int) -> None:
        super().prepare(number)
        self.argv = ("--project", str(self.world.root / "small"), "promote", "--to", self.place, "--revision", "r2")


class Rebase(Victim):
    """The base gets one package less, and back."""

    argv = ("rebase", NAME, "--locked")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.path = next((world.project / "images/bases").rglob("runtime.arm64.packages"))
        self.full = self.path.read_bytes()
        lock = read_base_lock(self.path)
        packages = tuple(p for p in lock.packages if p.name != "python3-minimal")
        write_base_lock(self.path, replace(lock, packages=packages))
        self.less, self.expected = self.path.read_bytes(), ""
        self.kept: set[Path] = set()

    def _made(self) -> set[Path]:
        """Layers, and what says which layer a recipe has."""
        return {p for name in ("layers", "blobs/sha256") for p in (self.world.store.root / name).iterdir()}

    def prepare(self, number: int) -> None:
        self.path.write_bytes(self.full)
        assert self.world.rebuilt() == []
        self.kept = self.kept or self._made()
        if number % 3:  # else the new base's layer is there already
            for path in self._made() - self.kept:
                path.unlink()
        self.path.write_bytes(self.less)
        self.before = self.world.named()

    def lost(self) -> list[str]:
        return [f"{name} is not in the layout any more" for name in self.before - self.world.named()]

    def judge(self, done: Ended) -> list[str]:
        digest = str(Layout(self.world.layout).resolve(CELL).digest)
        self.expected = self.expected or digest  # of the run that nothing disturbed
        return [f"another image: {digest}"] * (digest != self.expected) + check_layout(self.world.layout)

    def close(self) -> None:
        self.path.write_bytes(self.full)
        self.world.rebuilt()


VICTIMS: dict[str, type[Victim]] = dict(zip(COMMANDS, (Build, Lock, Publish, Promote, Rebase), strict=True))


def attack(name: str) -> Attack:
    def kill(world: World, options: argparse.Namespace) -> Tally:
        tally, count = Tally(), max(1, options.kills // len(COMMANDS))
        with _victim(VICTIMS[name], world) as victim:
            seconds = _duration(victim)
            for number in range(1, count + 1):
                victim.prepare(number)
                _try(
                    victim,
                    world.chance.random() * seconds * 1.1,
                    world.chance.choice(SIGNALS),
                    tally,
                    f"{name} {number}",
                )
        return tally

    return kill


def _duration(victim: Victim) -> float:
    victim.prepare(0)
    start = time.monotonic()
    done = victim.world.run(*victim.argv, env=victim.env)
    assert done.status == 0, done.stderr
    seconds = time.monotonic() - start
    assert victim.judge(done) == []
    return seconds


def _whole(repository: Repository, value: Mapping[str, Any]) -> bool:
    """Whether all that a manifest or index leads to is there."""
    for below in value.get("manifests", ()):
        found = repository.find(below["digest"])
        if found is None or not _whole(repository, found.json()):
            return False
    blobs = [value["config"], *value["layers"]] if "layers" in value else []
    return all(repository.blob_size(Digest.parse(blob["digest"])) == blob["size"] for blob in blobs)


def _try(victim: Victim, after: float, number: signal.Signals, tally: Tally, what: str) -> None:
    world = victim.world
    what = f"{what}, {number.name} after {after:.2f} s"
    process = world.start(*victim.argv, env=victim.env)
    time.sleep(after)
    if number == signal.SIGKILL and world.chance.random() < 0.5:
        process.kill()
    else:
        os.killpg(process.pid, number)
    _, stderr = process.communicate()
    left = world.processes()
    wrong, lost = victim.half(), victim.lost()
    if "Traceback" in stderr:
        wrong.append(f"a traceback: {stderr.strip().splitlines()[-1]}")
    done = world.run(*victim.argv, env=victim.env)
    if done.status != 0:
        wrong.append(f"the next run ends with {done.status}: {done.stderr.strip()[-300:]}")
    tally.note(
        what,
        wrong=[*wrong, *(victim.judge(done) if done.status == 0 else [])],
        lost=[*lost, *victim.lost()],
        left=[*left, *world.left()],
    )


@contextmanager
def _victim(kind: type[Victim], world: World) -> Iterator[Victim]:
    victim = kind(world)
    try:
        yield victim
    finally:
        victim.close()
        shutil.rmtree(world.root / "registry", ignore_errors=True)
