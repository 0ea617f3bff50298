"""Many files of known size and SHA-256 at once: big ones in ranges, resumed, retried, checked as they arrive."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from buildctl.artifacts.partial import Partial, prepare
from buildctl.artifacts.store import Store
from buildctl.artifacts.transfer import (
    FileResponse,
    GoneError,
    OtherFileError,
    RetryError,
    SourceRefusedError,
    open_range,
)
from buildctl.console.progress import Progress, Task
from buildctl.ground.errors import ArtifactError, FetchError
from buildctl.ground.net import UNREACHED_TRIES, Patience, new_session, redact
from buildctl.oci.digest import Digest

if TYPE_CHECKING:
    import requests

_MOVED = 1 << 16  # an attempt that got this far was not a failure, only too short


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """`urls` hold the same file and are tried in order; `size` in bytes."""

    label: str
    urls: tuple[str, ...]
    size: int
    digest: Digest


def download(
    items: Sequence[Download],
    *,
    store: Store,
    progress: Progress,
    connections: int = 8,
    patience: Patience | None = None,
) -> None:
    """Download every item into the store; returns when all are complete and checked. No network if they are already.

    Raises FetchError (`vanished` if every source reports it missing), ArtifactError if wrong bytes
    arrived twice, EngineError if the disk is full. What has arrived stays, and the next call resumes from it.
    """
    biggest_first = sorted(items, key=lambda item: (-item.size, item.label))
    downloads = Downloads(biggest_first, store=store, progress=progress, connections=connections, patience=patience)
    with downloads:
        downloads.wait()


@dataclass(slots=True, kw_only=True)
class _DownloadFile:
    """One download under way. `mutex` guards all below it; `turn` counts the times that it started over."""

    item: Download
    partial: Partial
    task: Task
    opened: bool = False
    mutex: threading.Lock = field(default_factory=threading.Lock)
    turn: int = 0
    active: int = 0
    counted: int = 0
    wrong: str | None = None

    def count(self, n: int) -> None:
        with self.mutex:
            self.counted += n
        if n:
            self.task.advance(n)

    def rewind(self) -> None:
        self.count(-self.counted)
        self.partial.rewind()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """A piece of work: one part of a file, all missing parts of it (`part` None), in turn `turn` of that file."""

    file: _DownloadFile
    turn: int = 0
    part: int | None = None


class _StoppedError(Exception):
    """The whole run ends."""


class _AbandonedError(Exception):
    """Another thread found that the file is wrong; this one stops writing to it."""


class Downloads:
    """Downloads that run while the `with` block runs, in the order of `items`; leaving the block stops what is
    unfinished. With `all_gone`, a file that has vanished raises only after all others are complete. There must be room
    for `also` more bytes.

    Threads take units from one queue. A file's first request finds out whether its source supports ranges; only then
    are the other parts queued, so a source without ranges has exactly one reader.
    """

    def __init__(
        self,
        items: Sequence[Download],
        *,
        store: Store,
        progress: Progress,
        connections: int = 8,
        patience: Patience | None = None,
        all_gone: bool = False,
        also: int = 0,
    ) -> None:
        missing = {item.digest: item for item in items if store.artifact(item.digest) is None}
        if missing:
            prepare(store, sum(item.size for item in missing.values()) + also)
        self.files = [
            _DownloadFile(item=i, partial=Partial(store, i.digest, i.size), task=progress.add(i.label, i.size))
            for i in missing.values()
        ]
        self.units = deque(_Unit(file=file) for file in self.files)
        self.coming = set(missing)
        self.store, self.patience, self.all_gone = store, patience or Patience(), all_gone
        self.change = threading.Condition()
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.vanished: dict[Digest, FetchError] = {}
        self.answered: set[str] = set()  # hosts
        count = min(connections, sum(file.partial.count for file in self.files))
        # daemons: a thread that hangs in a read must not keep a cancelled program alive
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        deadline = time.monotonic() + 0.5  # one that hangs in a read ends with the program
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in self.threads):
            for file in self.files:
                file.partial.close()

    def still_coming(self) -> frozenset[Digest]:
        """Digests of files that are not in the store yet. Raises the first failure of a download."""
        with self.change:
            if self.failure is None and not self.coming:
                self.failure = next(iter(self.vanished.values()), None)
            if self.failure is not None:
                raise self.failure
            return frozenset(self.coming)

    def wait(self) -> None:
        """Wait until all files are complete. Raises as `download`."""
        while self.still_coming():
            with self.change:
                if self.coming and self.failure is None:
                    self.change.wait(0.5)

    def _work(self) -> None:
        try:
            with contextlib.suppress(_StoppedError), new_session() as session:
                while (unit := self._next()) is not None:
                    self._do(unit, session)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            with self.change:
                self.failure = self.failure or error
                self.change.notify_all()
            self.stop.set()

    def _next(self) -> _Unit | None:
        with self.change:
            while self.coming and not self.stop.is_set():
                if self.units:
                    return self.units.popleft()
                self.change.wait(0.2)
        return None

    def _do(self, unit: _Unit, session: requests.Session) -> None:
        file = unit.file
        if not file.opened and not self._open(file):
            return
        with file.mutex:
            if unit.turn != file.turn or file.wrong:
                return
            file.active += 1
        try:
            with contextlib.suppress(_AbandonedError):
                self._fetch(unit, session)
        except OtherFileError as error:
            with file.mutex:
                file.wrong = str(error)
        except FetchError as error:
            if not (error.vanished and self.all_gone):
                raise
            self._finished(file, error)
            return
        finally:
            with file.mutex:
                file.active -= 1
                last = file.active == 0 and (file.wrong is not None or not file.partial.missing)
        if last:
            self._settle(file)

    def _fetch(self, unit: _Unit, session: requests.Session) -> None:
        if unit.part is not None:
            _Fetch(self, unit, session, unit.part, leads=False).fetch()
        elif missing := unit.file.partial.missing:  # none: a former run was killed between the last byte and the rename
            _Fetch(self, unit, session, missing[0], leads=True).fetch()

    def _open(self, file: _DownloadFile) -> bool:
        """False if there is nothing to do now: another process has downloaded it, or is about to."""
        if self.store.artifact(file.item.digest) is not None:
            file.task.finish()
            self._finished(file)
            return False
        if not file.partial.open():
            self.stop.wait(0.2)
            self._queue([_Unit(file=file)], first=False)
            return False
        file.opened = True
        file.count(file.partial.received)
        return True

    def _queue(self, units: Sequence[_Unit], *, first: bool) -> None:
        with self.change:
            if first:
                self.units.extendleft(reversed(units))
            else:
                self.units.extend(units)
            self.change.notify_all()

    def queue_others(self, unit: _Unit, part: int) -> None:
        """The source supports ranges: queue the other missing parts before files not begun yet."""
        others = [n for n in unit.file.partial.missing if n != part]
        self._queue([_Unit(file=unit.file, turn=unit.turn, part=n) for n in others], first=True)

    def _settle(self, file: _DownloadFile) -> None:
        """All writers are done: move it into the store, or start once more."""
        if file.wrong is None:
            digest = file.partial.settle()
            if digest == file.item.digest:
                self._finished(file)
                return
            file.wrong = f"SHA-256 {digest.hex}, the lock has {file.item.digest.hex}"
        if file.turn:
            file.partial.discard()
            raise ArtifactError(
                f"{file.item.label}: the source serves a different file than the lock pins: {file.wrong}",
                hint="find out why before you lock again: a lock guards against a file that changes its bytes",
            )
        file.rewind()
        file.turn, file.wrong = file.turn + 1, None
        self._queue([_Unit(file=file, turn=file.turn)], first=True)

    def _finished(self, file: _DownloadFile, vanished: FetchError | None = None) -> None:
        with self.change:
            self.coming.discard(file.item.digest)
            if vanished is not None:
                self.vanished.setdefault(file.item.digest, vanished)
            self.change.notify_all()

    def attempts(self, url: str, error: RetryError) -> int:
        """A source that never answered is given up soon."""
        unreached = error.unreached and urlsplit(url).netloc not in self.answered
        return min(UNREACHED_TRIES, self.patience.attempts) if unreached else self.patience.attempts

    def pause(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise _StoppedError


class _Fetch:
    """One unit: from the first source that serves it, within the allowed attempts."""

    def __init__(self, run: Downloads, unit: _Unit, session: requests.Session, part: int, *, leads: bool) -> None:
        self.run, self.unit, self.session = run, unit, session
        self.file, self.partial = unit.file, unit.file.partial
        self.part, self.leads = part, leads
        self.position, self.end = self.partial.span(part)

    def fetch(self) -> None:
        urls = self.file.item.urls
        if self.unit.turn:
            urls = (*urls[1:], *urls[:1])
        reasons: list[str] = []
        gone, hint = 0, None
        for url in urls:
            try:
                self._from(url)
                return
            except GoneError as error:
                gone += 1
                reasons.append(f"{redact(url)}: {error}")
            except SourceRefusedError as error:
                hint = error.hint
                reasons.append(f"{redact(url)}: {error}")
            except RetryError as error:
                hint = hint or "is the network up? finished parts are kept, and the next run resumes"
                reasons.append(f"{redact(url)}: {error}, {error.times} times in a row")
        vanished = gone == len(urls)
        if vanished:
            hint = "no source has it any longer: lock again"
        raise FetchError(
            f"cannot fetch {self.file.item.label}: {'; '.join(reasons) or 'no source'}",
            hint=hint,
            vanished=vanished,
        )

    def _from(self, url: str) -> None:
        failures = 0
        while True:
            before = self.position
            try:
                with open_range(
                    self.session,
                    url,
                    self.position,
                    self.end,
                    self.file.item.size,
                    patience=self.run.patience,
                    fresh=self.unit.turn > 0,
                ) as body:
                    self.run.answered.add(urlsplit(url).netloc)
                    self._receive(body)
                return
            except RetryError as error:
                failures = 1 if self.position - before >= _MOVED else failures + 1
                error.times = failures
                if failures >= self.run.attempts(url, error):
                    raise
                backoff = self.run.patience.backoff * 2 ** (failures - 1) * random.uniform(0.8, 1.2)  # noqa: S311
                self.run.pause(error.wait if error.wait is not None else backoff)

    def _receive(self, body: FileResponse) -> None:
        if not body.ranged:
            self._take_all()
        elif self.leads and self.end < self.file.item.size:
            self.leads = False
            self.run.queue_others(self.unit, self.part)
        for chunk in body.chunks:
            if self.run.stop.is_set():
                raise _StoppedError
            if self.file.wrong:
                raise _AbandonedError
            self._write(chunk)
        if self.position < self.end:
            raise RetryError(f"the body ended {self.end - self.position} bytes early")
        if self.end == 0:
            self.partial.finish(0)

    def _take_all(self) -> None:
        """The source does not support ranges: all of it, from the start, by this one reader."""
        if not self.leads:
            raise RetryError("the source no longer supports ranges")
        self.file.rewind()
        self.position, self.end = 0, self.file.item.size

    def _write(self, chunk: bytes) -> None:
        """Write to the file, and record each finished part."""
        rest = memoryview(chunk)
        while rest:
            part = self.partial.part_at(self.position)
            _, end = self.partial.span(part)
            piece = rest[: end - self.position]
            self.partial.write(piece, self.position)
            self.file.count(len(piece))
            self.position += len(piece)
            rest = rest[len(piece) :]
            if self.position == end:
                self.partial.finish(part)
