"""fsck and verify read a zstd:chunked layer through its table too: a lazy client gets nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from buildctl.ground.errors import LayoutError
from buildctl.oci import tarread
from buildctl.oci.check import check_image
from buildctl.oci.chunked import read, table, write
from buildctl.oci.chunked.read import RebuiltTar, read_table
from buildctl.oci.chunked.table import FRAME_HEADER, Part, Places, skippable
from buildctl.oci.chunked.tarsplit import SEGMENT
from buildctl.oci.compression import CHUNKED
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Bytes, Entry, capability, directory_entry, file_entry, symlink_entry
from buildctl.oci.image import Layer, canonical_json
from buildctl.oci.layer import write_layer
from buildctl.oci.layout import Layout
from tests.support.images import config_of

ENTRIES = [
    directory_entry("bin"),
    file_entry("bin/a", b"a" * 2500),
    file_entry("bin/b", b"harmless"),
    symlink_entry("c", "bin/b"),
    Entry(path="ping", size=4, body=Bytes(b"ping"), capability=capability("cap_net_raw+ep")),
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "CHUNK", 1000)


def made(root: Path) -> tuple[bytes, Layer]:
    with (root / "blob").open("wb") as file:
        layer = write_layer(ENTRIES, file, compression=CHUNKED)
    return (root / "blob").read_bytes(), layer


def problems(root: Path, blob: bytes, layer: Layer) -> list[str]:
    """Of an image of that layer, whose digests are right."""
    descriptor = replace(layer.descriptor, digest=Digest.of(blob), size=len(blob))
    path = root / descriptor.digest.hex
    path.write_bytes(blob)
    layout = Layout(root / "dist")
    one = replace(layer, descriptor=descriptor)
    image = layout.put_image(name="a", config=config_of([one]), layers=[one], blob=lambda _: path)
    path.unlink()  # a link to the layout's
    return check_image(layout, image)


Change = Callable[[dict[str, Any], list[dict[str, Any]]], object]


def forged(root: Path, change: Change) -> list[str]:
    """The layer with another table and tar-split, every digest and position of which is right."""
    blob, layer = made(root)
    places = Places.of(layer.descriptor)
    assert places is not None
    unpack = zstandard.ZstdDecompressor().decompress
    table = json.loads(unpack(blob[places.table.offset : places.table.after]))
    split = [json.loads(line) for line in unpack(blob[places.split.offset : places.split.after]).splitlines()]
    change(table, split)
    lines = b"".join(canonical_json(line) + b"\n" for line in split)
    packed_split = zstandard.ZstdCompressor().compress(lines)
    table["tarSplitDigest"] = str(Digest.of(packed_split))
    packed = zstandard.ZstdCompressor().compress(canonical_json(table))
    frames = blob[: places.table.offset - FRAME_HEADER]
    part = Part(offset=places.table.offset, size=len(packed), unpacked=len(canonical_json(table)))
    new = Places(
        table=part,
        split=Part(offset=part.after + FRAME_HEADER, size=len(packed_split), unpacked=len(lines)),
        packed=Digest.of(packed),
        unpacked=Digest.of(canonical_json(table)),
    )
    forged = frames + skippable(packed) + skippable(packed_split) + new.footers
    return problems(root, forged, replace(layer, descriptor=replace(layer.descriptor, annotations=new.annotations)))


def record(table: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(r for r in table["entries"] if r["name"] == name)
    return found


def chunk(table: dict[str, Any]) -> dict[str, Any]:
    """The second of bin/a."""
    found: dict[str, Any] = next(r for r in table["entries"] if r["type"] == "chunk")
    return found


def swap(table: dict[str, Any], _: object) -> None:
    """bin/b reads what is a chunk of bin/a."""
    a, b = record(table, "bin/a"), record(table, "bin/b")
    b |= {key: a[key] for key in ("offset", "endOffset", "chunkDigest")}


def test_what_we_make_has_no_problems(tmp_path: Path) -> None:
    assert problems(tmp_path, *made(tmp_path)) == []
    assert forged(tmp_path, lambda _table, _split: None) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap, "a chunk of 'bin/b' is not one frame of 8 bytes"),
        (lambda t, _: record(t, "bin/b").update(mode=0o4755), "'bin/b' is not in its table of contents as it is"),
        (lambda t, _: record(t, "c").update(linkName="/etc/passwd"), "'c' is not in its table of contents as it is"),
        (lambda t, _: record(t, "bin/b").update(digest=f"sha256:{'0' * 64}"), "'bin/b' has another digest in its"),
        (lambda t, _: record(t, "bin/b").update(xattrs={"security.capability": "AAAA"}), "'bin/b' is not in its table"),
        (lambda t, _: record(t, "ping").pop("xattrs"), "'ping' is not in its table of contents as it is in its tar"),
        (lambda t, _: t["entries"].append({"type": "reg", "name": "more"}), "'more' is in its table of contents, but"),
        (lambda t, _: t["entries"].remove(record(t, "c")), "'c' is not in its table of contents as it is in its tar"),
        # a client puts a chunk where its record says, and Go's JSON takes `Offset` for `offset`
        (lambda t, _: chunk(t).update(chunkOffset=0), "'bin/a' is not in its table of contents as it is in its tar"),
        (lambda t, _: chunk(t).update(Offset=0), "'bin/a' is not in its table of contents as it is in its tar"),
        (lambda t, _: chunk(t).update(endOffset=chunk(t)["endOffset"] - 1), "'bin/a' is not in its table of contents"),
        (lambda t, _: record(t, "bin/a").update(Digest=f"sha256:{'0' * 64}"), "'bin/a' is not in its table"),
        (lambda t, _: t["entries"].append(t["entries"].pop(2)), "'bin/a' is not in its table of contents as"),
        (lambda t, _: t["entries"].append({**chunk(t), "name": "more"}), "'more' is in its table of contents, but"),
        (lambda t, _: t.update(Entries=[]), "its table of contents is malformed"),
        (lambda t, _: t.update(version=2), "its table of contents is malformed"),
        (lambda t, _: record(t, "bin/b").pop("offset"), "its table of contents is malformed (KeyError('offset'))"),
        (lambda t, _: t.update(entries=7), "its table of contents is malformed"),
        (lambda t, _: record(t, "c").pop("name"), "its table of contents is malformed (KeyError('name'))"),
        (lambda t, _: record(t, "c").update(name=["c"]), "'c' is not in its table of contents as it is in its tar"),
        (lambda t, _: record(t, "bin/b").update(offset=1 << 70, endOffset=1 << 71), "is malformed"),
        (lambda t, _: next(r for r in t["entries"] if r["type"] == "chunk").update(offset=0), "bytes for one part of"),
        (lambda _, s: s.remove(next(x for x in s if x.get("name") == "bin/b")), "broken tar header"),
        (lambda _, s: next(x for x in s if x.get("name") == "bin/b").update(payload="AAAAAAAAAAA="), "or checksum in"),
        (lambda _, s: next(x for x in s if x["type"] == SEGMENT).update(payload="!"), "its tar-split is malformed"),
        (lambda _, s: s.append({"type": SEGMENT, "payload": "AAAA"}), "leads to the diff id sha256:"),
    ],
)  # fmt: skip
def test_a_table_that_lies_is_found(tmp_path: Path, change: Change, said: str) -> None:
    (problem,) = forged(tmp_path, change)
    assert said in problem


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the two a client takes."""
    monkeypatch.setattr(
        table, "canonical_json", lambda value: canonical_json(value).replace(b'"mode":', b'"mode":9,"mode":')
    )
    (problem,) = problems(tmp_path, *made(tmp_path))
    assert "its table of contents is malformed (ValueError(" in problem


def test_annotations_that_lie_are_found(tmp_path: Path) -> None:
    blob, layer = made(tmp_path)
    for key, value in layer.descriptor.annotations.items():
        far = value.replace(value.partition(":")[0], str(1 << 70), 1)
        for wrong in (value[:-1] + ("0" if value[-1] != "0" else "1"), "nonsense", far):
            said = replace(layer.descriptor, annotations={**layer.descriptor.annotations, key: wrong})
            assert problems(tmp_path, blob, replace(layer, descriptor=said)), (key, wrong)


def test_a_table_of_many_small_values_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One character of JSON can be a hundred bytes of memory."""
    monkeypatch.setattr(read, "_VALUES", 2000)
    assert forged(tmp_path, lambda _table, _split: None) == []
    (problem,) = forged(tmp_path, lambda table, _: table.update(more=[[]] * 2000))
    assert "its table of contents has more than 2000 values" in problem
    (problem,) = forged(tmp_path, lambda _, split: split.append({"type": SEGMENT, "payload": "", "more": [[]] * 2000}))
    assert "its tar-split has more than 2000 values" in problem


def test_many_files_that_are_one_chunk_are_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarread, "_BOMB_SIZE", 1000)
    monkeypatch.setattr(tarread, "_BOMB_RATIO", 1)
    blob, layer = made(tmp_path)
    assert any("bomb" in problem for problem in problems(tmp_path, blob, layer))
    places = Places.of(layer.descriptor)
    assert places is not None
    with (tmp_path / "blob").open("rb") as file:
        tar = RebuiltTar(file, places, read_table(file, places, "it"), "it")
        with pytest.raises(LayoutError, match="a bomb"):
            list(iter(lambda: tar.read(1 << 16), b""))


def test_a_layer_of_another_program_is_a_plain_layer(tmp_path: Path) -> None:
    blob, layer = made(tmp_path)
    theirs = {k: v for k, v in layer.descriptor.annotations.items() if k.startswith("io.github.containers")}
    assert len(theirs) == 3
    assert problems(tmp_path, blob, replace(layer, descriptor=replace(layer.descriptor, annotations=theirs))) == []
