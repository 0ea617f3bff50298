from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import (
    Descriptor,
    History,
    ImageConfig,
    Index,
    Manifest,
    MediaType,
    Platform,
    blob_names,
    canonical_json,
)

LAYER = Descriptor(media_type=MediaType.LAYER_ZSTD, digest=Digest.of(b"layer"), size=5, annotations={"k": "v"})
CONFIG = Descriptor(media_type=MediaType.CONFIG, digest=Digest.of(b"config"), size=6)
CHILD = Descriptor(
    media_type=MediaType.MANIFEST,
    digest=Digest.of(b"manifest"),
    size=8,
    platform=Platform(architecture="arm64", variant="v8"),
)
FULL = ImageConfig(
    platform=Platform(architecture="amd64"),
    diff_ids=(Digest.of(b"a"), Digest.of(b"b")),
    history=(
        History(created_by="COPY", created="2026-01-01T00:00:00Z", comment="c"),
        History(created_by="ENV", empty_layer=True),
    ),
    created="2026-01-01T00:00:00Z",
    user="1000:1000",
    env=(("PATH", "/bin:/usr/bin"), ("EQUALS", "a=b"), ("EMPTY", "")),
    entrypoint=("/entry",),
    cmd=("python",),
    working_dir="/workspace",
    labels={"org.opencontainers.image.title": "ü"},
    exposed_ports=("8080/tcp",),
    volumes=("/data",),
    stop_signal="SIGINT",
    docker={"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 3000000000}, "Shell": ["/bin/bash", "-c"]},
)


def test_canonical_json() -> None:
    assert canonical_json({"b": 1, "a": ["ü", None]}) == '{"a":["ü",null],"b":1}'.encode()
    said = json.loads(r'{"a": "\ud800"}')  # as a registry may
    assert json.loads(canonical_json(said)) == said


@pytest.mark.parametrize(
    "value",
    [
        LAYER,
        CHILD,
        Manifest(config=CONFIG, layers=(LAYER, LAYER), annotations={"k": "v"}),
        Index(manifests=(CHILD,), annotations={"k": "v"}),
        FULL,
        ImageConfig(platform=Platform(architecture="arm64")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_writing_and_reading_are_inverse(value: Any) -> None:
    assert type(value).from_json(json.loads(canonical_json(value.to_json()))) == value


def test_the_configuration_as_the_specification_writes_it() -> None:
    value = FULL.to_json()
    assert (value["os"], value["architecture"]) == ("linux", "amd64")
    assert value["rootfs"] == {"type": "layers", "diff_ids": [str(Digest.of(b"a")), str(Digest.of(b"b"))]}
    assert value["history"][1] == {"created_by": "ENV", "empty_layer": True}
    assert value["config"]["Env"] == ["PATH=/bin:/usr/bin", "EQUALS=a=b", "EMPTY="]
    assert value["config"]["ExposedPorts"] == {"8080/tcp": {}}
    assert value["config"]["User"] == "1000:1000"


def test_what_is_not_set_is_not_written() -> None:
    assert ImageConfig(platform=Platform(architecture="arm64")).to_json()["config"] == {}


@pytest.mark.parametrize("key", ["mediaType", "digest", "size"])
def test_a_descriptor_without_a_key(key: str) -> None:
    value = LAYER.to_json()
    del value[key]
    with pytest.raises(LayoutError, match=key):
        Descriptor.from_json(value)


@pytest.mark.parametrize("size", ["5", 5.0, True, None, -1])
def test_a_size_that_is_no_number_of_bytes(size: Any) -> None:
    with pytest.raises(LayoutError, match="malformed descriptor"):
        Descriptor.from_json({**LAYER.to_json(), "size": size})


@pytest.mark.parametrize("key", ["Entrypoint", "Cmd", "Env"])
def test_a_string_where_a_list_belongs_does_not_fall_apart(key: str) -> None:
    value = FULL.to_json()
    value["config"][key] = "sh -c"
    with pytest.raises(LayoutError, match="not a list of strings: 'sh -c'"):
        ImageConfig.from_json(value)


def test_null_is_the_same_as_absent() -> None:
    value = FULL.to_json()
    value["config"] = dict.fromkeys(value["config"])
    value["history"] = None
    assert ImageConfig.from_json(value).entrypoint == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


def replace_somewhere(value: Any, path: list[int], new: Any) -> Any:
    """`value` with `new` at the place that `path` (an index at each level) leads to."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    keys: list[Any] = sorted(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    changed = {k: replace_somewhere(v, path[1:], new) if k == key else v for k, v in pairs}
    return changed if isinstance(value, dict) else list(changed.values())


@pytest.mark.parametrize(
    "good",
    [LAYER, CHILD, Manifest(config=CONFIG, layers=(LAYER,)), Index(manifests=(CHILD,)), FULL],
    ids=lambda value: type(value).__name__,
)
@given(path=st.lists(st.integers(0, 20), max_size=4), new=JSON)
def test_malformed_json_is_a_layout_error_and_nothing_else(good: Any, path: list[int], new: Any) -> None:
    value = replace_somewhere(json.loads(canonical_json(good.to_json())), path, new)
    with contextlib.suppress(LayoutError):
        parsed = type(good).from_json(value)
        hash(parsed.digest) if isinstance(parsed, Descriptor) else canonical_json(parsed.to_json())


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ('RUN --mount=type=secret,id=uv-config ["install-wheels", "torch==2.6.0"]', "torch==2.6.0 (cuda-2.6)"),
        ('RUN ["install-wheels",     "filelock==4.2.11",     "pip==26.3"]', "2 wheels (cuda-2.6)"),
        ("buildctl: 100 Debian packages (trixie, runtime)", "100 Debian packages (trixie, runtime) (cuda-2.6)"),
        ("COPY --link --from=own_files /out/ /", "COPY --link (cuda-2.6)"),
        ("", "layer (cuda-2.6)"),
    ],
)
def test_a_layer_is_called_by_what_made_it(step: str, name: str) -> None:
    history = (History(created_by=step), History(created_by="USER 1000", empty_layer=True))
    config = ImageConfig(platform=Platform(architecture="amd64"), diff_ids=(LAYER.digest,), history=history)
    manifest = Manifest(config=CONFIG, layers=(LAYER,))
    found = blob_names(manifest, config, "cuda-2.6")
    assert found == {LAYER.digest: name, CONFIG.digest: "configuration (cuda-2.6)"}
    without = blob_names(manifest, ImageConfig(platform=config.platform, diff_ids=(LAYER.digest,)), "x")
    assert without[LAYER.digest] == "layer 0 (x)"


@pytest.mark.parametrize(
    "config", [{"Env": ["A=\0"]}, {"Cmd": ["a\0b"]}, {"Entrypoint": ["\0"]}, {"User": "a\0"}, {"WorkingDir": "/\0"}]
)
def test_a_nul_byte_is_refused_where_programs_get_it(config: dict[str, Any]) -> None:
    value = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}, "config": config}
    with pytest.raises(LayoutError, match="NUL byte"):
        ImageConfig.from_json(value)
