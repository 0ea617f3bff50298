"""The system says no: errors of calls, injected by strace one after the other, and disks of every size."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.kills import Publish
from tests.chaos.world import NAME, Ended, NotRunError, Tally, World

# Calls that Python does not need to start, with an error that each can give.
CALLS = (
    ("fsync", "EIO"),
    ("write", "ENOSPC"),
    ("rename", "ENOSPC"),
    ("link", "EIO"),
    ("mkdir", "ENOSPC"),
    ("unlink", "EIO"),
    ("ftruncate", "EIO"),
    ("flock", "ENOLCK"),
    ("fchmod", "EPERM"),
    ("socketpair", "EMFILE"),
    ("pipe2", "EMFILE"),
)
# not ECONNRESET: urllib3 passes over it, because then the socket has an answer, which this one has not
NETWORK = (("sendto", "ENETUNREACH"), ("connect", "EIO"))
MOST = 25  # about so many calls of one kind are tried, spread over all
SIZES = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 56, 64)  # MB
FILES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)  # inodes


def strace_build(world: World, options: argparse.Namespace) -> Tally:
    tally = Tally()

    def run(prefix: Sequence[str]) -> Ended:
        world.forget()
        return world.run("build", NAME, "--no-load", "--jobs", "1", prefix=prefix)

    for what, done in _injected(world, options, run):
        wrong = done.traceback + world.half_made()
        tally.note(what, wrong=[*wrong, *world.rebuilt()], left=world.left())
    return tally


def strace_publish(world: World, options: argparse.Namespace) -> Tally:
    tally, victim = Tally(), Publish(world)
    numbers = iter(range(1, 1 << 30))

    def run(prefix: Sequence[str]) -> Ended:
        victim.prepare(next(numbers))
        return world.run(*victim.argv, prefix=prefix, env=victim.env)

    try:
        for what, done in _injected(world, options, run, calls=(*CALLS, *NETWORK)):
            wrong, lost = [*done.traceback, *victim.half()], victim.lost()
            again = world.run(*victim.argv, env=victim.env)
            wrong += [again.stderr[-300:]] if again.status else victim.judge(again)
            tally.note(what, wrong=wrong, lost=lost, left=world.left())
    finally:
        victim.close()
        shutil.rmtree(world.root / "registry", ignore_errors=True)
    return tally


def _injected(
    world: World,
    options: argparse.Namespace,
    run: Callable[[Sequence[str]], Ended],
    calls: Sequence[tuple[str, str]] = CALLS,
) -> Iterator[tuple[str, Ended]]:
    """Every n-th call of each kind fails once. strace counts for each thread: the n-th of all of them fail together."""
    if shutil.which("strace") is None:
        raise NotRunError("no strace here: apt-get install strace")
    log = world.root / "strace.log"
    traced = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(log)]
    done = run([*traced, "-e", f"trace={','.join(call for call, _ in calls)}"])
    if "PTRACE_TRACEME" in done.stderr or not log.exists():
        raise NotRunError(f"strace cannot trace here: {done.stderr[-200:]}")
    most = _most(log.read_text(errors="replace"))
    for call, error in calls:
        step = max(options.every, most[call] // MOST)
        first = 1 + world.chance.randrange(max(1, min(step, most[call])))  # each kind that there is at least once
        for number in range(first, most[call] + 1, step):
            done = run([*traced, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"])
            if "(INJECTED)" in log.read_text(errors="replace"):  # else this run had fewer of them
                yield f"{call} {number} {error}", done


def _most(log: str) -> dict[str, int]:
    """By kind of call: how many the thread made that made most."""
    made = Counter(re.findall(r"^(\d+) +(\w+)\(", log, re.MULTILINE))
    most: dict[str, int] = defaultdict(int)
    for (_, call), number in made.items():
        most[call] = max(most[call], number)
    return most


def full_disks(world: World, _: argparse.Namespace) -> Tally:
    """A store that has only so many bytes, or so many files, and then enough."""
    if os.geteuid() != 0:
        raise NotRunError("mounting a small disk needs root")
    tally, options = Tally(), [f"size={size}m" for size in SIZES] + [f"size=1g,nr_inodes={count}" for count in FILES]
    for option in options:
        with _disk(world.root / "disk", option) as disk:
            small = World(
                root=world.root,
                chance=world.chance,
                store=type(world.store)(disk / "store"),
                project=world.project,
                env={**world.env, "BUILDCTL_CACHE": str(disk / "store")},
                expected=world.expected,
            )
            shutil.rmtree(world.layout, ignore_errors=True)
            wrong = []
            try:
                small.store.root.mkdir()
                (small.store.root / "artifacts").symlink_to(world.store.root / "artifacts")
            except OSError:
                continue  # not even that fits
            done = small.run("build", NAME, "--no-load")
            if done.status not in (0, 9) or (done.status and not re.search(r" left|is full", done.stderr)):
                wrong.append(f"status {done.status}: {done.stderr.strip()[-200:]}")
            wrong += done.traceback + small.half_made()
            subprocess.run(["mount", "-o", "remount,size=1g,nr_inodes=100000", disk], check=True)
            tally.note(option, wrong=[*wrong, *small.rebuilt()], left=small.left())
    return tally


@contextmanager
def _disk(place: Path, options: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotRunError(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
