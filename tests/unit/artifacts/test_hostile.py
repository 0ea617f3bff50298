"""Whatever bytes come from outside: the answer is a value or an error with a message. Mutations, a fixed budget."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildctl.artifacts.debian.deb import open_deb
from buildctl.artifacts.debian.deb822 import parse_stanzas
from buildctl.artifacts.sealed import unsealed
from buildctl.artifacts.store import layer_of
from buildctl.artifacts.wheels.wheel import Site, read_wheel
from buildctl.ground.errors import BuildctlError
from buildctl.oci.image import Descriptor, ImageConfig, Index, Manifest, MediaType
from buildctl.oci.layout import parse_object
from buildctl.oci.scan import scan_layer
from tests.support.debs import deb
from tests.support.debs import file as deb_file
from tests.support.images import compress, file, symlink, tar
from tests.support.servers import wheel

BUDGET = settings(derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
WHEEL = "odd-1.0-py3-none-any.whl"
LAYERS = {
    media: compress(tar(file("a", b"x" * 700), file("b/c"), symlink("d", "a")), media)
    for media in (MediaType.LAYER_ZSTD, MediaType.LAYER_GZIP, MediaType.LAYER_TAR)
}

KEYS = (
    *("config", "layers", "manifests", "digest", "size", "mediaType", "platform", "annotations", "rootfs", "diff_ids"),
    *("history", "Env", "Labels", "architecture", "os", "descriptor", "diffId", "seal", "about", "created", "Cmd"),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\0", "A=\0", "sha256:" + "a" * 64, "linux", MediaType.LAYER_ZSTD]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(KEYS), children, max_size=5),
    max_leaves=12,
)


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes changed, cut, doubled or put in."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(out) - 1)))
        match draw(st.integers(0, 4)):
            case 0 if out:
                out[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del out[at:]
            case 2:
                del out[at : at + draw(st.integers(1, 50))]
            case 3:
                out[at:at] = draw(st.binary(max_size=20))
            case _:
                out[at : at + 1] = b"9" * draw(st.sampled_from([8, 400, 5000]))
    return bytes(out)


def answered(parse: Callable[[], object]) -> None:
    try:
        parse()
    except BuildctlError as error:
        assert error.message  # noqa: PT017 - other errors fail the test


@BUDGET
@given(mutations(wheel(WHEEL, more={"odd/a.py": "a = 1\n"})))
def test_wheels(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / WHEEL
    path.write_bytes(data)

    def parse() -> None:
        for placed in read_wheel(path, filename=WHEEL, site=Site()).files:
            for _ in placed.body.chunks():
                pass

    answered(parse)


@BUDGET
@given(mutations(deb("odd", [deb_file("usr/bin/odd"), deb_file("etc/odd")])))
def test_debs(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd.deb"
    path.write_bytes(data)

    def parse() -> None:
        with tempfile.TemporaryFile(dir=tmp_path) as unpacked:
            for entry in open_deb(path, unpacked).entries:
                for _ in entry.body.chunks() if entry.body else ():
                    pass

    answered(parse)


@BUDGET
@pytest.mark.parametrize("media", list(LAYERS))
@given(st.data())
def test_layers(media: MediaType, data: st.DataObject) -> None:
    blob = data.draw(mutations(LAYERS[media]))
    answered(lambda: scan_layer(io.BytesIO(blob), media, where="layer"))


@BUDGET
@given(json_values)
def test_documents(value: Any) -> None:
    for parser in (Descriptor, ImageConfig, Index, Manifest):
        answered(lambda parser=parser: parser.from_json(value))  # type: ignore[misc]
    data = json.dumps(value).encode()
    answered(lambda: parse_object(data, "here"))
    assert unsealed("k", data) is None
    assert layer_of("k", data) is None


@BUDGET
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_json_and_stanzas(data: bytes) -> None:
    answered(lambda: parse_object(data, "here"))
    assert unsealed("k", data) is None
    answered(lambda: list(parse_stanzas(data.decode("utf-8", "replace"), "here")))


def test_numbers_of_four_hundred_digits() -> None:
    answered(lambda: Descriptor.from_json({"digest": "sha256:" + "a" * 64, "mediaType": "x", "size": 10**400}))
    answered(lambda: parse_object(b'{"a": 1' + b"0" * 5000 + b"}", "here"))
    answered(lambda: parse_object(b"[" * 100_000, "here"))
