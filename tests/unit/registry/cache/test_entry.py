"""What a cache says is believed only where a pinned key has signed exactly what was asked for."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, Layer, MediaType, canonical_json
from buildctl.registry.cache.entry import (
    ANNOTATION,
    OVERLAPS,
    CachedLayer,
    CacheKind,
    CacheName,
    DoubtError,
    Proven,
    Trust,
    manifest,
    prove,
)
from buildctl.registry.keys import PrivateKey, pre_authentication

KEY = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
OTHER = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes([1] * 32)))
TRUST = Trust(keys=(KEY.public,), media_type=str(MediaType.LAYER_ZSTD))


def cached(key: str, *, media_type: str = MediaType.LAYER_ZSTD) -> CachedLayer:
    def blob(kind: str, what: str, size: int) -> Descriptor:
        return Descriptor(media_type=kind, digest=Digest.of(f"{what} {key}".encode()), size=size)

    layer = Layer(
        descriptor=blob(media_type, "layer", 1000), diff_id=Digest.of(f"tar {key}".encode()), uncompressed_size=9000
    )
    documents = {"contents": blob("application/x", "contents", 10), "files": blob("application/y", "files", 20)}
    return CachedLayer(key=key, layer=layer, **documents)


A, B = cached("a" * 64), cached("b" * 64)
ENTRY = CacheName(kind=CacheKind.ENTRY, version=3, keys=(A.key,))
SET = CacheName(kind=CacheKind.SET, version=3, keys=(A.key, B.key))


def doubt(data: bytes, wanted: CacheName = ENTRY, trust: Trust = TRUST) -> str:
    with pytest.raises(DoubtError) as caught:
        prove(data, wanted, trust)
    return str(caught.value)


def resigned(
    change: Callable[[Any], None], key: PrivateKey = KEY, *, kind: str = "application/vnd.in-toto+json"
) -> bytes:
    """The entry of A with a statement that is changed before it is signed."""
    value = json.loads(manifest(ENTRY, [A], KEY))
    envelope = json.loads(value["annotations"][ANNOTATION])
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    payload = canonical_json(statement)
    envelope["payload"], envelope["payloadType"] = base64.b64encode(payload).decode(), kind
    envelope["signatures"] = [{"sig": base64.b64encode(key.sign(pre_authentication(kind, payload))).decode()}]
    value["annotations"][ANNOTATION] = json.dumps(envelope)
    return canonical_json(value)


def edited(change: Callable[[Any], None]) -> bytes:
    """The entry of A, changed around its statement."""
    value = json.loads(manifest(ENTRY, [A], KEY))
    change(value)
    return canonical_json(value)


def test_an_entry_proves_its_layer() -> None:
    assert prove(manifest(ENTRY, [A], KEY), ENTRY, TRUST) == Proven(
        layers=(A,), checked=frozenset(), signer=KEY.public.hint
    )


def test_a_set_proves_all_layers_in_their_order_and_what_was_checked() -> None:
    found = prove(manifest(SET, [A, B], KEY, [OVERLAPS]), SET, TRUST)
    assert (found.layers, found.checked) == ((A, B), frozenset([OVERLAPS]))


def test_the_tags_carry_the_version_and_fit_a_registry() -> None:
    assert ENTRY.tag == "k3-" + "a" * 64
    # sha256 of [3,["aa...","bb..."]]: a tag that others compute, too
    assert SET.tag == "s3-" + Digest.of(f'[3,["{"a" * 64}","{"b" * 64}"]]'.encode()).hex
    assert SET.tag != CacheName(kind=CacheKind.SET, version=3, keys=(B.key, A.key)).tag


def test_the_same_layers_are_the_same_bytes() -> None:
    # a change of these bytes makes every cache of the world cold: raise RECIPE_VERSION with it
    assert (
        Digest.of(manifest(ENTRY, [A], KEY)).hex == "6545874645546abf287ccffd0bfa05be55d35d5909ede86bcefa62b553e337be"
    )
    assert (
        Digest.of(manifest(SET, [A, B], KEY, [OVERLAPS])).hex
        == "2008239419e4f25da564b4805f0e9fb1a0530a1bbafa1d5bd60145155bfc97c1"
    )


def test_a_manifest_is_what_registries_and_scanners_take_for_an_artifact() -> None:
    value = json.loads(manifest(SET, [A, B], KEY))
    assert value["artifactType"] == "application/vnd.buildctl.cache.v1+json"
    assert value["config"]["digest"] == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert [d["digest"] for d in value["layers"]] == [str(d.digest) for c in (A, B) for d in c.blobs]
    assert "subject" not in value


def test_another_key_does_not_count() -> None:
    assert doubt(manifest(ENTRY, [A], OTHER)) == "no trusted key has signed it"
    both = Trust(keys=(KEY.public, OTHER.public), media_type=TRUST.media_type)
    assert prove(manifest(ENTRY, [A], OTHER), ENTRY, both).signer == OTHER.public.hint


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: s["predicate"].update(name="b" * 64), "the entry bbbbbbbbbbbb of version 3, under a tag of another"),
        (lambda s: s["predicate"].update(kind="set"), "the set aaaaaaaaaaaa of version 3, under a tag of another"),
        (lambda s: s["predicate"].update(recipeVersion=2), "of version 2, under a tag of another"),
        (lambda s: s["predicate"]["entries"][0].update(key="b" * 64), "other keys than those asked for"),
        (lambda s: s["predicate"]["entries"].append(s["predicate"]["entries"][0]), "other keys than those asked for"),
        (lambda s: s["predicate"]["entries"].clear(), "other keys than those asked for"),
        (lambda s: s.update(predicateType="https://sigstore.dev/cosign/sign/v1"), "not a statement of a cache"),
        (lambda s: s["predicate"]["entries"][0]["layer"].update(size=1), "not those of its statement"),
        (
            lambda s: s["predicate"]["entries"][0]["layer"].update(digest=f"sha256:{'0' * 64}"),
            "not those of its statement",
        ),
        (lambda s: s["predicate"]["entries"][0].update(diffId="x"), "malformed"),
        (lambda s: s["predicate"].update(entries=7), "malformed"),
        (lambda s: s["predicate"].pop("checked"), "malformed"),
    ],
)
def test_a_signed_statement_about_something_else_is_a_miss(change: Callable[[Any], None], why: str) -> None:
    assert why in doubt(resigned(change))


def test_an_image_signature_is_not_one_of_a_cache() -> None:
    assert doubt(resigned(lambda _: None, kind="application/x")) == "no trusted key has signed it"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m["layers"][0].update(digest=f"sha256:{'0' * 64}"), "not those of its statement"),
        (lambda m: m["layers"][0].update(urls=["https://example.com"]), "not those of its statement"),
        (lambda m: m["layers"].reverse(), "not those of its statement"),
        (lambda m: m["layers"].pop(), "not those of its statement"),
        (lambda m: m.update(artifactType="application/x"), "another kind of artifact"),
        (lambda m: m["config"].update(digest=f"sha256:{'0' * 64}"), "another kind of artifact"),
        (lambda m: m.pop("annotations"), "malformed"),
        (lambda m: m["annotations"].update({ANNOTATION: "{}"}), "malformed"),
        (lambda m: m["annotations"].update({ANNOTATION: "[" * 100_000}), "malformed"),
    ],
)
def test_a_manifest_around_a_true_statement_is_a_miss(change: Callable[[Any], None], why: str) -> None:
    assert why in doubt(edited(change))


def test_a_moved_tag_is_a_miss() -> None:
    assert "under a tag of another" in doubt(manifest(SET, [A, B], KEY))
    assert "under a tag of another" in doubt(
        manifest(ENTRY, [A], KEY), CacheName(kind=CacheKind.ENTRY, version=3, keys=(B.key,))
    )


def test_another_compression_is_a_miss() -> None:
    gzip = cached(A.key, media_type=MediaType.LAYER_GZIP)
    assert "has the media type" in doubt(manifest(ENTRY, [gzip], KEY))


@pytest.mark.parametrize("what", [A.key, str(A.layer.descriptor.digest), str(A.layer.diff_id)])
def test_what_matrix_yaml_refuses_is_a_miss(what: str) -> None:
    trust = Trust(keys=TRUST.keys, media_type=TRUST.media_type, refused=frozenset([what]))
    assert "refused by matrix.yaml" in doubt(manifest(ENTRY, [A], KEY), trust=trust)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b'{"annotations": 3}', b"\xff"])
def test_anything_else_is_a_miss(data: bytes) -> None:
    assert "malformed" in doubt(data)


def test_nobody_signs_other_layers_than_those_of_the_keys() -> None:
    with pytest.raises(ValueError, match="other layers"):
        manifest(SET, [B, A], KEY)


def test_what_a_layers_descriptor_says_is_signed_with_it() -> None:
    """A zstd:chunked layer without its annotations would be another image."""
    said = replace(A.layer.descriptor, annotations={"dev.buildctl.toc.digest": str(Digest.of(b"table"))})
    chunked = replace(A, layer=replace(A.layer, descriptor=said))
    assert prove(manifest(ENTRY, [chunked], KEY), ENTRY, TRUST).layers == (chunked,)
    value = json.loads(manifest(ENTRY, [chunked], KEY))
    value["layers"][0]["annotations"] = {"dev.buildctl.toc.digest": str(Digest.of(b"theirs"))}
    assert doubt(canonical_json(value)) == "its layers are not those of its statement"
