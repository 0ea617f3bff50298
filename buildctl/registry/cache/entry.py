"""What a cache repository holds: an artifact for each layer (an entry), and one for all layers of an image (a set).

Both are manifests whose layers are the real blobs, so that no registry's garbage collection takes them away, with one
annotation: a DSSE envelope over an in-toto statement that maps recipe keys to layers. One GET is look-up and proof.
There is no time, host or platform in them: two builders that make the same layer write the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from buildctl.ground.errors import LayoutError
from buildctl.ground.jsontext import parse_json
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, Layer, MediaType, canonical_json
from buildctl.registry.keys import PrivateKey, PublicKey, pre_authentication
from buildctl.registry.referrers import EMPTY_TYPE
from buildctl.registry.upload import Blob

ARTIFACT_TYPE = "application/vnd.buildctl.cache.v1+json"
PREDICATE = "https://buildctl.dev/cache/v1"
ANNOTATION = "dev.buildctl.cache.statement"
OVERLAPS = "overlaps"  # among a set's `checked`: no two of its layers of wheels bring different files at one path
_STATEMENT = "https://in-toto.io/Statement/v1"
_PAYLOAD = "application/vnd.in-toto+json"
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError, LayoutError)


class DoubtError(Exception):
    """Why what a cache answered is not used. It is never more than a miss."""


class CacheKind(StrEnum):
    ENTRY = "entry"
    SET = "set"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedLayer:
    """A layer with its recipe key; `contents` and `files` are the documents about it."""

    key: str
    layer: Layer
    contents: Descriptor
    files: Descriptor

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return self.layer.descriptor, self.contents, self.files


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheName:
    """What is asked for: an entry (one key) or a set (the keys of an image, the lowest layer first)."""

    kind: CacheKind
    version: int
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        """The key, or a hash of all."""
        if self.kind is CacheKind.ENTRY:
            return self.keys[0]
        return hashlib.sha256(canonical_json([self.version, list(self.keys)])).hexdigest()

    @property
    def tag(self) -> str:
        """The version in the tag lets a registry's rule remove what no buildctl asks for any more."""
        return f"{'k' if self.kind is CacheKind.ENTRY else 's'}{self.version}-{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What an answer must satisfy: signed by one of `keys`, layers of `media_type`, none of them in `refused`."""

    keys: tuple[PublicKey, ...]
    media_type: str
    refused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """An answer that passed every check; `signer` is the hint of the key."""

    layers: tuple[CachedLayer, ...]
    checked: frozenset[str]
    signer: str


def manifest(wanted: CacheName, layers: Sequence[CachedLayer], key: PrivateKey, checked: Collection[str] = ()) -> bytes:
    """The signed artifact: the same bytes for the same layers and key."""
    payload = canonical_json(_statement(wanted, layers, checked))
    signature = key.sign(pre_authentication(_PAYLOAD, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD,
        "signatures": [{"keyid": key.public.hint, "sig": base64.b64encode(signature).decode()}],
    }
    value = {
        "schemaVersion": 2,
        "mediaType": str(MediaType.MANIFEST),
        "artifactType": ARTIFACT_TYPE,
        "config": Blob.of(b"{}", EMPTY_TYPE).descriptor.to_json(),
        "layers": [blob.to_json() for layer in layers for blob in layer.blobs],
        "annotations": {ANNOTATION: canonical_json(envelope).decode()},
    }
    return canonical_json(value)


def prove(data: bytes, wanted: CacheName, trust: Trust) -> Proven:
    """What the artifact says of the keys, if it is what was asked for in every respect. Raises DoubtError.

    The signature is checked first: nothing else of an unsigned answer is looked at.
    """
    try:
        value = parse_json(data)
        payload, signer = _signed(parse_json(value["annotations"][ANNOTATION]), trust.keys)
        statement = parse_json(payload)
        layers = _layers(statement, wanted)
        if (value.get("artifactType"), value["config"]["digest"]) != (ARTIFACT_TYPE, _EMPTY):
            raise DoubtError("it is another kind of artifact")
        if [b.to_json() for layer in layers for b in layer.blobs] != value["layers"]:
            raise DoubtError("its layers are not those of its statement")
        checked = frozenset(map(str, statement["predicate"]["checked"]))
    except _MALFORMED as error:
        raise DoubtError(f"it is malformed ({str(error)[:100]})") from error
    for layer in layers:
        _refuse(layer, trust)
    return Proven(layers=layers, checked=checked, signer=signer)


_EMPTY = str(Digest.of(b"{}"))


def _statement(wanted: CacheName, layers: Sequence[CachedLayer], checked: Collection[str]) -> dict[str, Any]:
    if [layer.key for layer in layers] != list(wanted.keys):
        raise ValueError("other layers than those of the keys")
    return {
        "_type": _STATEMENT,
        "predicateType": PREDICATE,
        "subject": [{"name": c.key, "digest": {"sha256": c.layer.descriptor.digest.hex}} for c in layers],
        "predicate": {
            "kind": str(wanted.kind),
            "name": wanted.name,
            "recipeVersion": wanted.version,
            "checked": sorted(checked),
            "entries": [_to_json(layer) for layer in layers],
        },
    }


def _to_json(cached: CachedLayer) -> dict[str, Any]:
    return {
        "key": cached.key,
        "layer": cached.layer.descriptor.to_json(),
        "diffId": str(cached.layer.diff_id),
        "uncompressedSize": cached.layer.uncompressed_size,
        "contents": cached.contents.to_json(),
        "files": cached.files.to_json(),
    }


def _from_json(value: Mapping[str, Any]) -> CachedLayer:
    layer = Layer(
        descriptor=Descriptor.from_json(value["layer"]),
        diff_id=Digest.parse(str(value["diffId"])),
        uncompressed_size=int(value["uncompressedSize"]),
    )
    contents, files = Descriptor.from_json(value["contents"]), Descriptor.from_json(value["files"])
    return CachedLayer(key=str(value["key"]), layer=layer, contents=contents, files=files)


def _signed(envelope: Mapping[str, Any], keys: Sequence[PublicKey]) -> tuple[bytes, str]:
    """The payload, and the hint of the key that signed it."""
    payload, kind = base64.b64decode(envelope["payload"], validate=True), str(envelope["payloadType"])
    signatures = [base64.b64decode(s["sig"], validate=True) for s in envelope["signatures"][:8]]
    said = pre_authentication(kind, payload)
    for key in keys:
        if kind == _PAYLOAD and any(key.made(signature, said) for signature in signatures):
            return payload, key.hint
    raise DoubtError("no trusted key has signed it")


def _layers(statement: Mapping[str, Any], wanted: CacheName) -> tuple[CachedLayer, ...]:
    """Of a signed statement. Raises DoubtError for one about something else."""
    if (statement["_type"], statement["predicateType"]) != (_STATEMENT, PREDICATE):
        raise DoubtError("what is signed is not a statement of a cache")
    predicate = statement["predicate"]
    said = str(predicate["kind"]), str(predicate["name"]), int(predicate["recipeVersion"])
    if said != (str(wanted.kind), wanted.name, wanted.version):
        raise DoubtError(f"it is the {said[0]} {said[1][:12]} of version {said[2]}, under a tag of another")
    layers = tuple(_from_json(entry) for entry in predicate["entries"])
    if tuple(layer.key for layer in layers) != wanted.keys:
        raise DoubtError("it has other keys than those asked for")
    return layers


def _refuse(cached: CachedLayer, trust: Trust) -> None:
    descriptor = cached.layer.descriptor
    if descriptor.media_type != trust.media_type:
        raise DoubtError(f"a layer has the media type {descriptor.media_type[:80]}, not {trust.media_type}")
    if trust.refused & {cached.key, str(descriptor.digest), str(cached.layer.diff_id)}:
        raise DoubtError(f"layer {descriptor.digest.short} is refused by matrix.yaml")
