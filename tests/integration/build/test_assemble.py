"""Layers made in processes of their own. Without any: tests/unit/build/test_assemble.py; images: test_build.py."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.build.assemble import Recipe, make_layers
from buildctl.console.progress import open_progress
from buildctl.ground.errors import ArtifactError
from buildctl.oci.compression import ZSTD
from buildctl.oci.entry import Entry, file_entry


@dataclass(frozen=True)
class Text:
    """A source that crosses to a worker, which imports this module."""

    text: str

    def entries(self, store: Store) -> Iterable[Entry]:
        yield file_entry("a", self.text.encode())


def recipe(text: str) -> Recipe:
    return Recipe(key=text * 64, label=text, weight=1, source=Text(text), compression=ZSTD)


def test_layers_are_made_once_and_the_same_bytes_by_any_number_of_processes(tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        store = Store(tmp_path / str(jobs))
        with open_progress("made") as progress:
            given = {"store": store, "layers": store, "jobs": jobs, "progress": progress}
            first = make_layers([recipe("a"), recipe("b"), recipe("a")], **given)  # type: ignore[arg-type]
            again = make_layers([recipe("a"), recipe("c")], **given)  # type: ignore[arg-type]
        assert [made.fresh for made in first.values()] == [True, True]
        assert {key[0]: made.fresh for key, made in again.items()} == {"a": False, "c": True}
        found.append({key: made.layer for key, made in (first | again).items()})
    assert found[0] == found[1]


def test_what_is_found_out_meanwhile_stops_everything(tmp_path: Path) -> None:
    def refuse() -> None:
        raise ArtifactError("two wheels, one file")

    with open_progress("made") as progress, pytest.raises(ArtifactError, match="two wheels, one file"):
        make_layers(
            [recipe("a")],
            store=Store(tmp_path),
            layers=Store(tmp_path),
            progress=progress,
            meanwhile=refuse,
        )
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name == "layers"]


@dataclass(frozen=True)
class Masked:
    """What the worker is deaf to."""

    def entries(self, store: Store) -> Iterable[Entry]:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        yield file_entry("a", f"{sorted(s.name for s in blocked if isinstance(s, signal.Signals))}".encode())


def test_what_a_terminal_sends_is_answered_by_the_parent_alone(tmp_path: Path) -> None:
    with open_progress("made") as progress:
        given = {"store": Store(tmp_path), "layers": Store(tmp_path), "progress": progress}
        masked = Recipe(key="m" * 64, label="m", weight=1, source=Masked(), compression=ZSTD)
        deaf = replace(recipe("s"), source=Text("['SIGHUP', 'SIGINT', 'SIGTERM']"))
        made = make_layers([masked, deaf], **given)  # type: ignore[arg-type]
    assert len({layer.layer.diff_id for layer in made.values()}) == 1
    assert not {signal.SIGHUP, signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_nothing_is_looked_at_when_every_layer_is_there(tmp_path: Path) -> None:
    asked: list[int] = []
    with open_progress("made") as progress:
        for turn in range(2):
            make_layers(
                [recipe("a")],
                store=Store(tmp_path),
                layers=Store(tmp_path),
                progress=progress,
                meanwhile=functools.partial(asked.append, turn),
            )
    assert set(asked) == {0}
