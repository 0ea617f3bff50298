"""Keys: what opens, what does not, and what is said then."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from buildctl.registry.keys import PrivateKey, PublicKey, SigningError

# `cosign generate-key-pair` of cosign 3.1.1 with the password "secret"
SEALED = """\
-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6
OCwicCI6MX0sInNhbHQiOiI3enRiTnFHQUlMKzBpVGphWkdockZGQk4wSG41K01p
czBYWk9FaTA5RWtNPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJhdEt5ZEYxYlhjTU9VbzB2UjVUY0NnalRHYVRXQjAxMSJ9LCJj
aXBoZXJ0ZXh0IjoicDVrWG5IMjZ1Q2Vvb09EdjNycVVCWUFYblBBdWdSNDlYUXp4
emp4bXlpNW5OelRCeGJqeG9QMkZidTJGYk5uaU1hQnVwOVRJaFFXdDZndEptWDA5
OS85MjBRUUtwbEpUSzZPVGI5WUF4eDlabG5JMDc1WlVodnNKTTduYVNYS3FEbEs3
S3ZqM083WXlWbEhBU3pWeitZRkQ2UVQyN0dvWVRoeEFVakNadm02UnJ5c0Iyem9W
bFkrcFFuKzdmZkIveHJ3K3BGcnc3aExzUXc9PSJ9
-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
"""
PUBLIC = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEsW32B6F3zykTx8m6UOjaWQAMITyk
1AujnrrLeBPU9QIOrwSsz2wYAwrQhGp51/2ytVNuOH7lOspBJmF6S8sEzQ==
-----END PUBLIC KEY-----
"""


@pytest.fixture
def sealed(tmp_path: Path) -> str:
    (tmp_path / "cosign.key").write_text(SEALED)
    return str(tmp_path / "cosign.key")


def pem(tmp_path: Path, key: object, password: bytes = b"") -> str:
    path = tmp_path / "key.pem"
    how = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))  # type: ignore[attr-defined]
    return str(path)


def test_the_key_of_cosign_opens_with_its_password(sealed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "secret")
    monkeypatch.setenv("PUBLIC", PUBLIC)
    key, public = PrivateKey.load(sealed), PublicKey.load("env://PUBLIC")
    assert public.made(key.sign(b"data"), b"data")
    assert not public.made(key.sign(b"data"), b"other")
    assert not public.made(b"no signature", b"data")
    assert key.public.hint == public.hint == "YCER9S0/kgFJL6h6ss9JMoCGI7l6nXl+iAKrbnOtmx4="


def test_signing_twice_is_one_signature(tmp_path: Path) -> None:
    key = PrivateKey.load(pem(tmp_path, generate_private_key(SECP256R1())))
    assert key.sign(b"data") == key.sign(b"data") != key.sign(b"other")


@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_wrong_password_is_said(password: str, sealed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", password)
    with pytest.raises(SigningError, match="wrong password") as error:
        PrivateKey.load(sealed)
    assert "COSIGN_PASSWORD" in str(error.value.hint)


@pytest.mark.parametrize("password", [b"", b"secret"], ids=["plain", "encrypted"])
@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_plain_pem_is_a_key_too(kind: str, password: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "secret")
    made = Ed25519PrivateKey.generate() if kind == "ed25519" else generate_private_key(SECP256R1())
    key = PrivateKey.load(pem(tmp_path, made, password))
    assert key.public.made(key.sign(b"data"), b"data")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a readable private key"),
        ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\neyJ9\n-----END", "not a readable private key"),
        (SEALED[:200] + "-----END", "not a readable private key"),
        (PUBLIC, "not a readable private key"),
    ],
    ids=["empty", "no JSON", "cut off", "the public one"],
)
def test_what_is_no_private_key_is_said(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "secret")
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(SigningError, match=said):
        PrivateKey.load(str(path))


@pytest.mark.parametrize("made", [generate_private_key(SECP384R1()), generate_rsa(65537, 2048)], ids=["p384", "rsa"])
def test_other_kinds_of_keys_are_refused(made: object, tmp_path: Path) -> None:
    with pytest.raises(SigningError, match="only NIST P-256 and Ed25519 keys"):
        PrivateKey.load(pem(tmp_path, made))
    path = tmp_path / "key.pub"
    path.write_bytes(made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))  # type: ignore[attr-defined]
    with pytest.raises(SigningError, match="only NIST P-256 and Ed25519 keys"):
        PublicKey.load(str(path))


@pytest.mark.parametrize(
    ("source", "said"),
    [("absent.pub", "No such file"), ("env://NOT_SET", "does not hold a key"), ("env://TEXT", "not a public key")],
)
def test_a_public_key_that_is_not_there_is_said(source: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT", "hello")
    with pytest.raises(SigningError, match=said):
        PublicKey.load(source)


def test_verifying_with_the_private_key_is_refused(sealed: str) -> None:
    with pytest.raises(SigningError, match="is a private key"):
        PublicKey.load(sealed)
