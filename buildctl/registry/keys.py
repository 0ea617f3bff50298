"""Keys that sign and verify: those of `cosign generate-key-pair`, and plain PEM with NIST P-256 or Ed25519.

Signatures are as cosign's: ECDSA over SHA-256 in ASN.1 (deterministic, RFC 6979, so that signing twice is one
signature), or plain Ed25519.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
    load_pem_public_key,
)

from buildctl.ground.errors import BuildctlError, ExitCode
from buildctl.ground.jsontext import parse_json

PASSWORD = "COSIGN_PASSWORD"  # noqa: S105 - cosign reads the same variable
_ENVIRONMENT = "env://"  # cosign's way to name a variable that holds a key
_SEALED = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")
_SCRYPT_LIMIT = 1 << 30  # bytes of memory that a key file may ask for


class _WrongPasswordError(Exception):
    """The envelope did not open."""


class SigningError(BuildctlError):
    """A key that cannot be used, or a signature that cannot be made."""

    exit_code = ExitCode.KEY


@dataclass(frozen=True, slots=True)
class PublicKey:
    key: EllipticCurvePublicKey | Ed25519PublicKey

    @classmethod
    def load(cls, source: str) -> Self:
        """From a file, or `env://NAME`. Raises SigningError."""
        data = _read(source)
        if b"PRIVATE KEY" in data:
            raise SigningError(f"{source} is a private key", hint="verify with the public key: cosign.pub")
        try:
            key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SigningError(
                f"{source} is not a public key in PEM format", hint="`cosign public-key --key cosign.key`"
            ) from error
        if isinstance(key, Ed25519PublicKey) or (isinstance(key, EllipticCurvePublicKey) and _is_p256(key)):
            return cls(key)
        raise _unsupported(source)

    @property
    def hint(self) -> str:
        """What a bundle calls the key: base64 of the SHA-256 of its DER form."""
        der = self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(hashlib.sha256(der).digest()).decode()

    def made(self, signature: bytes, data: bytes) -> bool:
        try:
            if isinstance(self.key, Ed25519PublicKey):
                self.key.verify(signature, data)
            else:
                self.key.verify(signature, data, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    key: EllipticCurvePrivateKey | Ed25519PrivateKey

    @classmethod
    def load(cls, source: str) -> Self:
        """From a file, or `env://NAME`; encrypted keys open with $COSIGN_PASSWORD. Raises SigningError."""
        data = _read(source)
        password = os.environ.get(PASSWORD, "").encode()
        try:
            if any(f"BEGIN {name}".encode() in data for name in _SEALED):
                key = load_der_private_key(_unsealed(data, password), password=None)
            else:
                encrypted = b"BEGIN ENCRYPTED" in data or b"Proc-Type: 4,ENCRYPTED" in data
                key = load_pem_private_key(data, password=password if encrypted else None)
        except _WrongPasswordError as error:
            raise SigningError(f"{source}: wrong password", hint=f"set it in ${PASSWORD}") from error
        except (ValueError, KeyError, TypeError, UnsupportedAlgorithm) as error:
            hint = f"`cosign generate-key-pair` makes one; if it is encrypted, set ${PASSWORD}"
            raise SigningError(f"{source} is not a readable private key", hint=hint) from error
        if isinstance(key, Ed25519PrivateKey) or (isinstance(key, EllipticCurvePrivateKey) and _is_p256(key)):
            return cls(key)
        raise _unsupported(source)

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key.public_key())

    def sign(self, data: bytes) -> bytes:
        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(data)
        try:
            return self.key.sign(data, ECDSA(SHA256(), deterministic_signing=True))
        except UnsupportedAlgorithm:  # OpenSSL before 3.2: just as valid, but different each time
            return self.key.sign(data, ECDSA(SHA256()))


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """The bytes that are signed (DSSE v1, "PAE")."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def _read(source: str) -> bytes:
    if source.startswith(_ENVIRONMENT):
        name = source.removeprefix(_ENVIRONMENT)
        if not os.environ.get(name):
            raise SigningError(f"${name} does not hold a key")
        return os.environ[name].encode()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise SigningError(f"{source}: {error.strerror}", hint="`cosign generate-key-pair` makes a pair") from error


def _unsealed(data: bytes, password: bytes) -> bytes:
    """PKCS#8 in DER from cosign's own envelope: scrypt and NaCl's secretbox (go-securesystemslib, encrypted)."""
    lines = [line.strip() for line in data.decode().splitlines()]
    value = parse_json(base64.b64decode("".join(line for line in lines if line and not line.startswith("-----"))))
    kdf, cipher = value["kdf"], value["cipher"]
    if (kdf["name"], cipher["name"]) != ("scrypt", "nacl/secretbox"):
        raise ValueError(f"{kdf['name']} with {cipher['name']}")
    n, r, p = (int(kdf["params"][name]) for name in "Nrp")
    salt = base64.b64decode(kdf["salt"])
    key = hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, dklen=32, maxmem=_SCRYPT_LIMIT)
    # imported here: verifying needs no password, and should not wait a tenth of a second for it
    import nacl.exceptions  # noqa: PLC0415
    import nacl.secret  # noqa: PLC0415

    try:
        return nacl.secret.SecretBox(key).decrypt(
            base64.b64decode(value["ciphertext"]), base64.b64decode(cipher["nonce"])
        )
    except nacl.exceptions.CryptoError as error:
        raise _WrongPasswordError from error


def _is_p256(key: EllipticCurvePrivateKey | EllipticCurvePublicKey) -> bool:
    return isinstance(key.curve, SECP256R1)


def _unsupported(source: str) -> SigningError:
    return SigningError(f"{source}: only NIST P-256 and Ed25519 keys are supported", hint="`cosign generate-key-pair`")
