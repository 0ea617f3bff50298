"""The recorder on this side of the sandbox: a root of the base, one or two runs in it, and what comes of them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildctl.artifacts.debian.base import KEPT, LEFT_OUT, base_tree, open_all
from buildctl.artifacts.debian.deb import Deb
from buildctl.artifacts.debian.dpkg_database import SCRIPTS
from buildctl.artifacts.debian.package import BaseLock, DebPackage, Recorded
from buildctl.artifacts.debian.recorded import kind_of
from buildctl.artifacts.store import Store
from buildctl.console.log import say
from buildctl.ground.errors import ResolveError, RuntimeUnavailableError
from buildctl.ground.jsontext import parse_json
from buildctl.ground.machine import require_linux
from buildctl.ground.scratch import scratch
from buildctl.matrix.account import PATH
from buildctl.oci.compression import UNCOMPRESSED
from buildctl.oci.digest import Digest
from buildctl.oci.entry import EPOCH, Entry, Kind
from buildctl.oci.image import ImageConfig, Platform
from buildctl.oci.layer import write_layer
from buildctl.oci.trees.unpack import unpack_layer
from buildctl.runtimes.recorder.rules import DROPPED, LINES, MIME, Seen, sort_out
from buildctl.runtimes.sandbox.ids import Ids, find_ids
from buildctl.runtimes.sandbox.sandbox import NAMESPACES, SandboxSession, emulators_for, open_session
from buildctl.runtimes.sandbox.tree import Tree

PROGRAM = Path(__file__).with_name("observe.py")
PLACE = "recorder"  # in the root of the sandbox
DEADLINE = 1800.0  # seconds for one run; the slowest of 71 measured took 18, and emulation takes ten times as long
AS_ROOT = "run this one command as root, which a sandbox of buildctl turns into nobody of this machine"

Debs = Callable[[DebPackage], Path]


@contextlib.contextmanager
def open_recorder(store: Store) -> Iterator[Recorder]:
    """Raises RuntimeUnavailableError where scripts cannot be run so that owners come out right."""
    require_linux("recording maintainer scripts", NAMESPACES, error=RuntimeUnavailableError)
    ids = find_ids()
    if ids is None:
        raise RuntimeUnavailableError(
            "recording maintainer scripts needs a range of ids, which only root has here: with one id the files of "
            "other users would get wrong owners",
            hint=AS_ROOT,
        )
    folder = store.root / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    with scratch("record", under=folder) as place:
        yield Recorder(ids=ids, place=place, stage=store.root / "mnt")


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Keeps the root of each base that it has unpacked, until it is closed."""

    ids: Ids
    place: Path
    stage: Path
    roots: dict[tuple[BaseLock, ...], Path] = field(default_factory=dict)
    known: dict[tuple[tuple[BaseLock, ...], tuple[DebPackage, ...]], Recorded] = field(default_factory=dict)

    def record(self, lock: BaseLock, below: Sequence[BaseLock], debs: Debs) -> Recorded:
        """What the scripts of `lock` do on top of `below`. Raises ResolveError for what cannot be recorded."""
        key = (tuple(below), lock.packages)
        if key not in self.known:
            say(f"running the maintainer scripts of {len(lock.packages)} packages for {lock.arch} in a sandbox")
            with ExitStack() as stack:
                self.known[key] = self._record(stack, lock, tuple(below), debs)
        return self.known[key]

    def _record(self, stack: ExitStack, lock: BaseLock, below: tuple[BaseLock, ...], debs: Debs) -> Recorded:
        lower = open_all(stack, [p for one in below for p in one.packages], debs, self.place)
        upper = open_all(stack, lock.packages, debs, self.place)
        under, _ = base_tree(below[-1], lower)
        tree, _ = base_tree(replace(lock, recorded=Recorded()), [*lower, *upper], added=upper)
        if below not in self.roots:
            self.roots[below] = self._unpacked(under)
        material = self._material(tree, lock, len(lower) + len(upper), debs)
        session = self._session(lock.arch, (material, self.roots[below]))
        first, second = _run(session), _run(session)
        sorted_ = sort_out(first, _contents(tree), frozenset(under))
        changed = {change.path for change in sorted_.changes}
        for path in sorted(changed & {p for p in first.keys() | second.keys() if first.get(p) != second.get(p)}):
            sorted_.notes[f"/{path} differs from run to run: it is kept as it was when it was recorded"] = None
        return Recorded(
            scripts=tuple(_scripts(upper)),
            notes=tuple(sorted_.notes),
            compiled=tuple(sorted(sorted_.compiled)),
            changes=tuple(sorted(sorted_.changes, key=lambda change: change.path)),
        )

    def _unpacked(self, tree: Mapping[str, Entry]) -> Path:
        target = self.place / f"root-{len(self.roots)}"
        blob = self.place / "base.tar"
        ordered = sorted(tree.values(), key=lambda e: (e.kind is Kind.HARDLINK, e.path))
        with blob.open("wb") as file:
            layer = write_layer(ordered, file, compression=UNCOMPRESSED)
        unpack_layer(blob, layer.descriptor.media_type, target, owner=self.ids.owner)
        blob.unlink()
        return target

    def _material(self, tree: Mapping[str, Entry], lock: BaseLock, count: int, debs: Debs) -> Path:
        """What goes on top of the root: packages, what is expected, and folders of manual pages that scripts want."""
        top = Path(tempfile.mkdtemp(prefix="material-", dir=self.place))
        folder = top / PLACE
        (folder / "debs").mkdir(parents=True)
        for package in lock.packages:
            name = f"{package.name}_{package.architecture}.deb"
            shutil.copyfile(debs(package), folder / "debs" / name)
        (folder / "expected.json").write_text(json.dumps({path: _fact(e, tree) for path, e in tree.items()}))
        excluded = [f"--path-exclude=/{name}*" for name in (*LEFT_OUT, "usr/share/doc/")]
        excluded += [f"--path-include=/{name}" for name in (*KEPT, "usr/share/doc/*/copyright")]
        (folder / "excluded.json").write_text(json.dumps(excluded))
        (folder / "dropped").write_text(f"{DROPPED.pattern}|{MIME.pattern}")  # their contents would only fill the pipe
        (folder / "count").write_text(str(count))
        shutil.copyfile(PROGRAM, folder / PROGRAM.name)
        for number in range(1, 9):
            (top / f"usr/share/man/man{number}").mkdir(parents=True)
        for path in (top, *top.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.chown(path, self.ids.first, self.ids.first)
        return top

    def _session(self, arch: str, layers: tuple[Path, ...]) -> SandboxSession:
        config = ImageConfig(platform=Platform(architecture=arch), env=(("PATH", PATH),))
        emulators = emulators_for(arch)
        return open_session(Tree(layers=layers), config, arch=arch, stage=self.stage, emulators=emulators, ids=self.ids)


def _run(session: SandboxSession) -> Seen:
    """Once from an untouched root: what one run writes is thrown away. Never with a network."""
    env = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": str(EPOCH), "TZ": "UTC"}
    argv = ["python3", "-I", "-S", "-B", f"/{PLACE}/{PROGRAM.name}"]
    outcome = session.run(argv, timeout=DEADLINE, user="0", env=env, read_only=False, network=False)
    if outcome.returncode != 0:
        last = "\n".join(outcome.stderr.strip().splitlines()[-12:])
        raise ResolveError(f"the maintainer scripts failed in the sandbox:\n{last}")
    try:
        found = parse_json(zlib.decompress(base64.b64decode(outcome.stdout.strip(), validate=True)))
    except (ValueError, zlib.error) as error:
        raise ResolveError("the scripts changed more than can be recorded (1 MiB compressed)") from error
    return {path: tuple(fact) if fact else None for path, fact in found.items()}


def _fact(entry: Entry, tree: Mapping[str, Entry]) -> list[object]:
    real = tree[entry.target] if entry.kind is Kind.HARDLINK else entry
    content = real.target if real.kind is Kind.SYMLINK else ""
    if real.kind is Kind.FILE:
        digest = hashlib.sha256()
        for chunk in real.body.chunks() if real.body else ():
            digest.update(chunk)
        content = digest.hexdigest()
    return [kind_of(real), real.mode, real.uid, real.gid, content]


def _contents(tree: Mapping[str, Entry]) -> Mapping[str, bytes]:
    return {p: b"".join(e.body.chunks()) if e.body else b"" for p, e in tree.items() if LINES.fullmatch(p)}


def _scripts(debs: Sequence[Deb]) -> Iterator[str]:
    for deb in debs:
        for name in SCRIPTS:
            if (data := deb.control.files.get(name)) is not None:
                yield f"{deb.control.package} {name} {Digest.of(data)}"
