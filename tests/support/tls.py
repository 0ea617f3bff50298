"""A certificate authority of the tests, with a certificate for this machine; made by the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildctl.ground.run import which

_NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Files: `ca` is whom to trust, `certificate` with `key` a server's, `client` (and `client`.key) a client's."""

    ca: Path
    certificate: Path
    key: Path
    client: Path | None = None


def authority(folder: Path, *, names: str = _NAMES, client: bool = False) -> Authority:
    """A new one; NOT RUN where openssl is missing."""
    if which("openssl") is None:
        pytest.skip("NOT RUN: openssl is not installed (apt-get install openssl)")
    folder.mkdir(parents=True, exist_ok=True)
    _openssl("req", "-x509", *_new(folder / "ca", "buildctl tests"), "-days", "2")
    for name in ["server", *(["client"] if client else [])]:
        signed: list[str | Path] = ["-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-days", "2"]
        extensions = ["-addext", names, "-addext", "basicConstraints=critical,CA:FALSE"]
        _openssl("req", "-x509", *_new(folder / name, name), *signed, *extensions)
    return Authority(
        ca=folder / "ca.crt",
        certificate=folder / "server.crt",
        key=folder / "server.key",
        client=folder / "client.crt" if client else None,
    )


def _new(stem: Path, name: str) -> list[str | Path]:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    return [*key, "-subj", f"/CN={name}", "-keyout", stem.with_suffix(".key"), "-out", stem.with_suffix(".crt")]


def _openssl(*argv: str | Path) -> None:
    done = subprocess.run(["openssl", *argv], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
