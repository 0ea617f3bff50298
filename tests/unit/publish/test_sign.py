"""Bundles: what is signed, what is read back, and what is no signature."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from buildctl.ground.errors import ToolError
from buildctl.oci.digest import Digest
from buildctl.oci.image import canonical_json
from buildctl.publish.sign import (
    BUNDLE_KIND,
    PAYLOAD_KIND,
    Bundle,
    covered,
    open_signer,
    signed,
    statement,
)
from buildctl.registry.keys import PrivateKey, PublicKey, SigningError, pre_authentication

KEY = PrivateKey(generate_private_key(SECP256R1()))
IMAGE, OTHER = Digest("a" * 64), Digest("b" * 64)
DOCUMENTS = [Digest("d" * 64), Digest("c" * 64)]

# of `cosign sign --key cosign.key --signing-config ...` (3.1.1) about that digest
COSIGN_IMAGE = Digest("1e4fdc560067da77dfd239600d7c27bd6135161ab7474ab18699b1cd1f916c70")
COSIGN_BUNDLE = (
    b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial":{"publicKey":{"'
    b'hint":"YCER9S0/kgFJL6h6ss9JMoCGI7l6nXl+iAKrbnOtmx4="}}, "dsseEnvelope":{"payload":"eyJfdHlwZSI6Imh0d'
    b"HBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCAic3ViamVjdCI6W3siZGlnZXN0Ijp7InNoYTI1NiI6IjFlNGZkYzU2MDA2N"
    b"2RhNzdkZmQyMzk2MDBkN2MyN2JkNjEzNTE2MWFiNzQ3NGFiMTg2OTliMWNkMWY5MTZjNzAifSwgImFubm90YXRpb25zIjp7fX1dL"
    b'CAicHJlZGljYXRlVHlwZSI6Imh0dHBzOi8vc2lnc3RvcmUuZGV2L2Nvc2lnbi9zaWduL3YxIiwgInByZWRpY2F0ZSI6e319", "p'
    b'ayloadType":"application/vnd.in-toto+json", "signatures":[{"sig":"MEUCIQC9MVUcH0FZtZ9fQC9HCbnheRcdql'
    b'eF7kKQaBdc73+2jgIgJedgvyVq24Z2Hivkg5F6CU3H4ferg0yhIxY5MZGOebQ="}]}}'
)
COSIGN_KEY = """\
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEsW32B6F3zykTx8m6UOjaWQAMITyk
1AujnrrLeBPU9QIOrwSsz2wYAwrQhGp51/2ytVNuOH7lOspBJmF6S8sEzQ=="""


def signed_by_hand(value: Any, *, kind: str = PAYLOAD_KIND) -> Bundle:
    payload = value if isinstance(value, bytes) else canonical_json(value)
    signature = KEY.sign(pre_authentication(kind, payload))
    return Bundle(payload=payload, payload_kind=kind, signatures=(b"", signature), certificate=False)


def test_what_is_signed_is_read_back() -> None:
    made = signed(KEY, IMAGE, DOCUMENTS)
    assert made.kind == BUNDLE_KIND
    assert Bundle.parse(made.data).covered(KEY.public, IMAGE) == frozenset(DOCUMENTS)
    assert Bundle.parse(signed(KEY, IMAGE).data).covered(KEY.public, IMAGE) == frozenset()


def test_order_and_repetition_of_documents_change_nothing() -> None:
    assert signed(KEY, IMAGE, DOCUMENTS) == signed(KEY, IMAGE, [*reversed(DOCUMENTS), *DOCUMENTS])


def test_the_bundle_of_cosign_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", f"-----BEGIN PUBLIC KEY-----\n{COSIGN_KEY}\n-----END PUBLIC KEY-----\n")
    key, bundle = PublicKey.load("env://KEY"), Bundle.parse(COSIGN_BUNDLE)
    assert bundle.covered(key, COSIGN_IMAGE) == frozenset()
    assert bundle.covered(key, IMAGE) is None
    assert bundle.covered(KEY.public, COSIGN_IMAGE) is None
    assert not bundle.certificate


def test_pre_authentication_is_that_of_dsse() -> None:
    # the example of the specification: github.com/secure-systems-lab/dsse, protocol.md
    said = pre_authentication("http://example.com/HelloWorld", b"hello world")
    assert said == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def _set(path: str, new: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        *to, last = path.split(".")
        for name in to:
            value = value[int(name)] if isinstance(value, list) else value[name]
        value[last] = new

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("_type", "https://in-toto.io/Statement/v0.1"),
        _set("predicateType", "https://slsa.dev/provenance/v1"),
        _set("subject.0.digest.sha256", OTHER.hex),
        _set("subject.0.digest", {"sha512": IMAGE.hex}),
        _set("subject.0.annotations", {"dev.buildctl.attached": "sha256:short"}),
        _set("subject", []),
        _set("subject", None),
    ],
    ids=["type", "predicate", "digest", "algorithm", "list", "no subject", "null"],
)
def test_a_statement_that_says_something_else_is_no_signature(change: Callable[[dict[str, Any]], None]) -> None:
    value = statement(IMAGE, DOCUMENTS)
    assert signed_by_hand(value).covered(KEY.public, IMAGE) == frozenset(DOCUMENTS)
    change(value)
    assert signed_by_hand(value).covered(KEY.public, IMAGE) is None


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b"\xff"])
def test_a_payload_that_is_no_statement_is_no_signature(payload: bytes) -> None:
    assert signed_by_hand(payload).covered(KEY.public, IMAGE) is None


def test_another_kind_of_payload_is_no_signature() -> None:
    assert signed_by_hand(statement(IMAGE, ()), kind="text/plain").covered(KEY.public, IMAGE) is None


def test_a_changed_payload_is_no_signature() -> None:
    value = json.loads(signed(KEY, IMAGE, DOCUMENTS).data)
    value["dsseEnvelope"]["payload"] = base64.b64encode(canonical_json(statement(OTHER, DOCUMENTS))).decode()
    bundle = Bundle.parse(canonical_json(value))
    assert bundle.covered(KEY.public, OTHER) is bundle.covered(KEY.public, IMAGE) is None


def test_true_signatures_count_together_and_others_not_at_all() -> None:
    other = PrivateKey(generate_private_key(SECP256R1()))
    found = [
        Bundle.parse(signed(k, IMAGE, [d]).data) for k, d in zip((KEY, KEY, other), (*DOCUMENTS, OTHER), strict=True)
    ]
    assert covered(found, KEY.public, IMAGE) == frozenset(DOCUMENTS)
    assert covered(found[2:], KEY.public, IMAGE) is None
    assert covered([], KEY.public, IMAGE) is None


def test_a_signer_is_a_key_or_cosign_or_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_signer(None, keyless=False) is None
    with pytest.raises(SigningError, match="cannot sign with a key and keyless at once"):
        open_signer("cosign.key", keyless=True)
    monkeypatch.setattr("buildctl.publish.sign.which", lambda _name: None)
    with pytest.raises(ToolError, match="needs cosign"):
        open_signer(None, keyless=True)
