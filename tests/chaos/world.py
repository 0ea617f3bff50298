"""What is attacked: a project with a tiny image, a store and a layout; and how to tell what an attack has done."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildctl.artifacts.kept_bytecode import is_whole
from buildctl.artifacts.store import Store
from buildctl.lock.debian import read_base_lock
from buildctl.oci.check import check_layout
from buildctl.oci.digest import Digest
from buildctl.oci.layout import Layout
from tests.chaos.slim import slim
from tests.conftest import ROOT
from tests.support.tiny import CELL, NAME, tiny, tiny_wheels

PATIENCE = 600.0  # seconds for one command on a busy machine


class NotRunError(Exception):
    """Why an attack is impossible here."""


@dataclass(slots=True)
class Tally:
    """How many tries there were, and in how many of them something was wrong, lost or left behind."""

    tries: int = 0
    wrong: int = 0
    lost: int = 0
    left: int = 0

    @property
    def good(self) -> bool:
        return not (self.wrong or self.lost or self.left)

    def add(self, other: Tally) -> None:
        self.tries, self.wrong, self.lost = self.tries + other.tries, self.wrong + other.wrong, self.lost + other.lost
        self.left += other.left

    def note(self, what: str, *, wrong: Sequence[str] = (), lost: Sequence[str] = (), left: Sequence[str] = ()) -> None:
        """One try."""
        self.tries += 1
        self.wrong, self.lost, self.left = (
            self.wrong + bool(wrong),
            self.lost + bool(lost),
            self.left + bool(left),
        )
        for kind, found in (("wrong", wrong), ("lost", lost), ("left behind", left)):
            for line in found:
                print(f"    {what}: {kind}: {line}", flush=True)

    def __str__(self) -> str:
        return f"tries {self.tries}, wrong {self.wrong}, lost {self.lost}, left behind {self.left}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    status: int
    stdout: str
    stderr: str

    @property
    def traceback(self) -> list[str]:
        return [self.stderr.strip().splitlines()[-1]] if "Traceback (most recent" in self.stderr else []


@dataclass(slots=True, kw_only=True)
class World:
    """`expected` is the digest that the image must have."""

    root: Path
    chance: random.Random
    store: Store
    project: Path
    env: dict[str, str]
    expected: str = ""
    files: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def make(cls, root: Path, chance: random.Random) -> World:
        store, temporary = Store(root / "store"), root / "tmp"
        project = tiny(root / "project", store.root, wheels=tiny_wheels(most=1_000_000))
        temporary.mkdir()
        slim(project / "images/bases/debian13/runtime.arm64.packages", Store.default(), store)
        for lock in sorted((project / "images/bases").rglob("*.packages")):
            for package in read_base_lock(lock).packages:
                source, target = Store.default().artifact(package.digest), store.artifact_path(package.digest)
                if source is not None and not target.exists():
                    shutil.copyfile(source, target)  # not a link: it is going to be damaged
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("BUILDCTL_", "PYTHON"))}
        env = {
            **kept,
            "BUILDCTL_CACHE": str(store.root),
            "TMPDIR": str(temporary),
            "UV_CACHE_DIR": str(root / "uv"),
            "PYTHONPYCACHEPREFIX": str(root / "pycache"),  # compiling the program is most of a short command
        }
        world = cls(root=root, chance=chance, store=store, project=project, env=env)
        done = world.run("build", NAME, "--no-load", "--json")
        assert done.status == 0, done.stderr
        world.expected = json.loads(done.stdout)["images"][0]["digest"]
        return world

    @property
    def layout(self) -> Path:
        return self.project / "dist"

    def start(
        self, *args: str | Path, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """In a process group of its own; stdout and stderr go to pipes."""
        argv = [*prefix, sys.executable, "-m", "buildctl", "--project", str(self.project), *map(str, args)]
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**self.env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *args: str | Path, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Ended:
        process = self.start(*args, prefix=prefix, env=env)
        stdout, stderr = process.communicate(timeout=PATIENCE)
        return Ended(status=process.returncode, stdout=stdout, stderr=stderr)

    def forget(self) -> None:
        """Layers and layout are gone; downloads stay."""
        for folder in (self.store.root / "layers", self.store.root / "blobs", self.layout):
            shutil.rmtree(folder, ignore_errors=True)

    def half_made(self) -> list[str]:
        """What is there under a final name, but is not what the name says."""
        files = [*self.store.root.glob("artifacts/*/*"), *self.store.root.glob("blobs/sha256/*")]
        wrong = [f"{path} is not what its name says" for path in files if Digest.of_file(path).hex != path.name]
        packs = self.store.root.glob("bytecode/*/*")
        wrong += [f"{path} is not what its name says" for path in packs if not is_whole(path)]
        if (self.layout / "oci-layout").exists():
            wrong += check_layout(self.layout)
        return wrong

    def rebuilt(self, *more: str) -> list[str]:
        """Build again: what is wrong with the answer, or with the image."""
        return self.built(self.run("build", NAME, "--no-load", "--json", *more))

    def built(self, done: Ended) -> list[str]:
        """The same of a build that has ended, with --json."""
        if done.status != 0:
            return [f"the next build ends with {done.status}: {done.stderr.strip()[-300:]}"]
        digest = json.loads(done.stdout)["images"][0]["digest"]
        return [*([f"another image: {digest}"] if digest != self.expected else []), *check_layout(self.layout)]

    def left(self) -> list[str]:
        """What nothing needs any more after a command has ended well."""
        found = [p for name in ("tmp", "locks") for p in (self.store.root / name).glob("*")]
        found += [*self.store.root.glob("python/*.new"), *self.store.root.rglob(".*unpack-*")]
        found += [*self.layout.rglob(".tmp-*"), *(self.root / "tmp").iterdir(), *self.root.glob("shm/*")]
        return [str(path) for path in found] + self.processes()

    def processes(self) -> list[str]:
        """Commands of this world that are still running after a while."""
        until = time.monotonic() + 15
        while (alive := self._alive()) and time.monotonic() < until:
            time.sleep(0.1)
        return alive

    def _alive(self) -> list[str]:
        mark, out = f"BUILDCTL_CACHE={self.store.root}".encode(), []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    out.append(f"process {place.name}: {(place / 'cmdline').read_bytes()[:80]!r}")
            except OSError:
                continue
        return out

    def named(self) -> set[str]:
        return set(Layout(self.layout).names()) if (self.layout / "index.json").exists() else set()


__all__ = ["CELL", "NAME", "Ended", "NotRunError", "Tally", "World"]
