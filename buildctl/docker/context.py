"""Which daemon to use, chosen as `docker` does: --context, DOCKER_HOST, DOCKER_CONTEXT, the current context.

Contexts are read here and not by docker-py, which finds none where there is no config.json (docker context create alone
writes none) and ignores a CA without a client certificate.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from buildctl.ground.errors import RuntimeUnavailableError, did_you_mean
from buildctl.ground.jsontext import parse_json

DEFAULT = "default"
SOCKET = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`host` is a URL; `ca`, `certificate` and `key` are files, where TLS is spoken (`tls`); `verify` the daemon's."""

    host: str
    tls: bool = False
    verify: bool = True
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def endpoint(context: str | None) -> Endpoint:
    """Of the context by that name, the daemon at that URL, or the one that `docker` would talk to (None).

    Raises RuntimeUnavailableError for an unknown or unreadable context.
    """
    if context is not None and "://" in context:
        return _by_url(context)
    if context in (None, DEFAULT) and (host := os.environ.get("DOCKER_HOST")):
        return _by_url(host)
    name = context or os.environ.get("DOCKER_CONTEXT") or _current()
    return Endpoint(host=SOCKET) if name == DEFAULT else _by_name(name)


def may_answer() -> bool:
    """Whether a daemon may answer, without asking: False if it would be on this machine and its socket is missing."""
    try:
        host = endpoint(None).host
    except RuntimeUnavailableError:
        return True  # whoever asks is told why
    return not host.startswith("unix://") or Path(host.removeprefix("unix://")).exists()


def _by_url(host: str) -> Endpoint:
    """TLS settings from the environment: DOCKER_CERT_PATH and DOCKER_TLS_VERIFY."""
    folder, verify = os.environ.get("DOCKER_CERT_PATH"), bool(os.environ.get("DOCKER_TLS_VERIFY"))
    if not host.startswith("tcp://") or not (folder or verify):
        return Endpoint(host=host)
    return _with_tls(host, Path(folder) if folder else _folder(), verify=verify)


def _by_name(name: str) -> Endpoint:
    meta = _folder() / "contexts" / "meta"
    file = meta / sha256(name.encode()).hexdigest() / "meta.json"
    try:
        if not file.is_file():
            raise _unknown(name, [_read(other)["Name"] for other in sorted(meta.glob("*/meta.json"))])
        found = _read(file)["Endpoints"]["docker"]
        host, skip = str(found.get("Host") or SOCKET), bool(found.get("SkipTLSVerify"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeUnavailableError(
            f"cannot read docker context {name}: {error!r}", hint=f"docker context rm {name}, then create it again"
        ) from error
    certificates = meta.parent / "tls" / file.parent.name / "docker"
    return _with_tls(host, certificates, verify=not skip) if certificates.is_dir() else Endpoint(host=host)


def _with_tls(host: str, folder: Path, *, verify: bool) -> Endpoint:
    ca, certificate, key = (p if (p := folder / f"{n}.pem").is_file() else None for n in ("ca", "cert", "key"))
    return Endpoint(host=host, tls=True, verify=verify, ca=ca, certificate=certificate, key=key)


def _unknown(name: str, names: list[str]) -> RuntimeUnavailableError:
    hint = f"known contexts: {', '.join(names)}" if names else "use docker context create, or give a URL: ssh://HOST"
    return RuntimeUnavailableError(f"no docker context named {name}{did_you_mean(name, names)}", hint=hint)


def _current() -> str:
    try:
        return str(_read(_folder() / "config.json").get("currentContext") or DEFAULT)
    except (OSError, ValueError, TypeError):
        return DEFAULT


def _read(file: Path) -> dict[str, Any]:
    value = parse_json(file.read_text())
    if not isinstance(value, dict):
        raise TypeError(f"{file.name} does not hold a JSON object")
    return value


def _folder() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
