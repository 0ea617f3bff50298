from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import zstandard

from buildctl.oci.chunked import write
from buildctl.oci.chunked.twin import twin_of
from buildctl.oci.compression import CHUNKED, ZSTD
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Bytes, Entry, Kind, capability, directory_entry, file_entry, symlink_entry
from buildctl.oci.image import Descriptor, Layer, Manifest, MediaType, canonical_json
from buildctl.oci.layer import write_layer
from buildctl.oci.layout import parse_object
from tests.support.lazy import LazyLayer, of_file, podman_layer, sha256, stargz_layer

LARGE = Random(1).randbytes(3 * 1000 + 500)
CONTENT = {
    "usr/lib/x.py": b"print('hello')\n" * 10,
    "usr/lib/large.so": LARGE,
    "usr/lib/even.so": LARGE[:2000],
    "usr/" + "ü" * 120: b"a name that needs pax",
    "usr/lib/empty": b"",
    "usr/<&>": b"what Go escapes in JSON",
}
ENTRIES = [
    directory_entry("usr"),
    directory_entry("usr/lib", uid=1000, gid=1000),
    *(file_entry(path, data, mode=0o755) for path, data in CONTENT.items()),
    symlink_entry("usr/bin", "lib/x.py"),
    Entry(path="usr/ping", mode=0o755, size=4, body=Bytes(b"ping"), capability=capability("cap_net_raw+ep")),
    Entry(path="usr/lib/y.py", kind=Kind.HARDLINK, target="usr/lib/x.py"),
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "CHUNK", 1000)


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    with (tmp_path / "blob").open("wb") as file:
        return write_layer(ENTRIES, file, compression=CHUNKED)


def plain_tar() -> bytes:
    out = io.BytesIO()
    write_layer(ENTRIES, out, compression=ZSTD)
    return zstandard.ZstdDecompressor().stream_reader(out.getvalue(), read_across_frames=True).read()


def stargz_annotations(layer: Layer) -> dict[str, str]:
    """From the twin, as a client gets them."""
    config = Descriptor(media_type=MediaType.CONFIG, digest=Digest.of(b"{}"), size=2)
    manifest = Manifest(config=config, layers=(layer.descriptor,))
    twin = twin_of(canonical_json(manifest.to_json()))
    assert twin is not None
    return dict(Manifest.from_json(parse_object(twin, "twin")).layers[0].annotations)


def test_other_clients_see_the_plain_layer(tmp_path: Path, layer: Layer) -> None:
    with (tmp_path / "blob").open("rb") as blob:
        data = zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True).read()
    assert data == plain_tar()
    assert layer.diff_id == Digest.of(data)
    assert layer.descriptor.media_type == MediaType.LAYER_ZSTD


@pytest.mark.parametrize("client", ["stargz", "podman"])
def test_a_lazy_client_reads_every_file(tmp_path: Path, layer: Layer, client: str) -> None:
    blob, size = of_file(tmp_path / "blob"), layer.descriptor.size
    lazy: LazyLayer = (
        stargz_layer(blob, size, stargz_annotations(layer))
        if client == "stargz"
        else podman_layer(blob, layer.descriptor.annotations)
    )
    assert {path: lazy.content(path) for path in CONTENT} == CONTENT
    assert [len(lazy.files[f"usr/lib/{name}"]) for name in ("large.so", "even.so", "x.py")] == [4, 2, 1]


def test_a_lazy_client_fetches_only_the_chunks_that_it_reads(tmp_path: Path, layer: Layer) -> None:
    lazy = podman_layer(of_file(tmp_path / "blob"), layer.descriptor.annotations)
    before = lazy.blob.bytes
    assert next(lazy.chunks("usr/lib/large.so")) == LARGE[:1000]
    assert 1000 <= lazy.blob.bytes - before < 1100  # noise grows by a frame's header


def test_metadata_is_that_of_the_tar(tmp_path: Path, layer: Layer) -> None:
    files = podman_layer(of_file(tmp_path / "blob"), layer.descriptor.annotations).files
    assert list(files) == [entry.path + "/" * (entry.kind is Kind.DIRECTORY) for entry in ENTRIES]
    folder = {"type": "dir", "name": "usr/lib/", "mode": 0o755, "uid": 1000, "gid": 1000}
    assert files["usr/lib/"] == [{**folder, "modtime": "1980-01-01T00:00:00Z"}]
    value = base64.b64encode(capability("cap_net_raw+ep")).decode()
    assert files["usr/ping"][0]["xattrs"] == {"security.capability": value}
    assert files["usr/bin"][0]["linkName"] == "lib/x.py"
    assert files["usr/lib/y.py"][0].items() >= {"type": "hardlink", "linkName": "usr/lib/x.py"}.items()
    assert files["usr/lib/empty"] == [
        {"type": "reg", "name": "usr/lib/empty", "mode": 0o755, "modtime": "1980-01-01T00:00:00Z"}
    ]


def test_tar_split_gives_the_same_tar(tmp_path: Path, layer: Layer) -> None:
    lazy = podman_layer(of_file(tmp_path / "blob"), layer.descriptor.annotations)
    assert sha256(b"".join(lazy.tar())) == str(layer.diff_id)


def test_the_same_bytes_however_the_content_is_cut(layer: Layer) -> None:
    class Cut:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def chunks(self) -> list[bytes]:
            return [self.data[n : n + 7] for n in range(0, len(self.data), 7)]

    out = io.BytesIO()
    cut = [
        replace(e, body=Cut(CONTENT[e.path]))  # type: ignore[arg-type]
        if e.path in CONTENT
        else e
        for e in ENTRIES
    ]
    assert write_layer(cut, out, compression=CHUNKED) == layer
    assert hashlib.sha256(out.getvalue()).hexdigest() == layer.descriptor.digest.hex


def test_the_size_of_chunks_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = CHUNKED.identity
    monkeypatch.setattr(write, "CHUNK", 999)
    assert CHUNKED.identity not in {before, ZSTD.identity}


def test_the_same_bytes_whatever_threads_compress(monkeypatch: pytest.MonkeyPatch, layer: Layer) -> None:
    monkeypatch.setattr(write, "_SMALL", 0)
    for _ in range(5):
        assert write_layer(ENTRIES, io.BytesIO(), compression=CHUNKED) == layer
