"""Which certificates to trust: the usual authorities, a bundle from the environment, and Docker's certs.d.

Docker and podman read `certs.d/HOST[:PORT]/`: `*.crt` are further authorities for that registry, `NAME.cert` with
`NAME.key` is our client certificate (docs.docker.com, "Verify repository client with certificates").
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import create_urllib3_context

from buildctl.ground.net import new_session
from buildctl.registry.problems import RefusedError
from buildctl.registry.reference import leads_inside

BUNDLE = "REQUESTS_CA_BUNDLE or SSL_CERT_FILE"


def open_session(registry: str, environ: Mapping[str, str] = os.environ) -> requests.Session:
    """Trusts what this machine trusts for `registry`. Raises RefusedError for an unreadable file."""
    session = new_session()
    named = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or session.verify
    if isinstance(named, str) and not Path(named).exists():
        raise RefusedError(f"{named}: CA bundle not found", hint=f"set {BUNDLE} to a file that exists")
    context = _context(registry, environ)
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(context, registry))
    return session


def speaks_tls(host: str, port: int) -> bool:
    """Whether a TLS handshake succeeds there, without verifying the peer; sends nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), 2) as plain, context.wrap_socket(plain, server_hostname=host):
            return True
    except OSError:
        return False


class Distrust(Enum):
    """TLS errors that a retry does not fix."""

    THEIRS = auto()
    OURS = auto()
    NO_TLS = auto()


def distrust(error: BaseException) -> Distrust | None:
    """None for a broken connection, which looks much the same."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Distrust.THEIRS
    reason = str(getattr(error, "reason", "")) if isinstance(error, ssl.SSLError) else ""
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST"}:
        return Distrust.NO_TLS
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return Distrust.OURS
    # urllib3 wraps some without raising them, so that only the arguments lead to what happened
    inner = [e for e in (error.__cause__, error.__context__, *error.args) if isinstance(e, BaseException)]
    return next((found for e in inner if (found := distrust(e)) is not None), None)


def folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where `certs.d` may be: the user's (rootless Docker, podman), then the machine's."""
    own = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config")
    return tuple(root / tool / "certs.d" for root in (own, Path("/etc")) for tool in ("docker", "containers"))


def _context(registry: str, environ: Mapping[str, str]) -> ssl.SSLContext | None:
    found = [folder / registry for folder in folders(environ) if (folder / registry).is_dir()]
    if not found:
        return None
    context = create_urllib3_context()
    for folder in found:
        for path in sorted(folder.iterdir()):
            try:
                if path.suffix == ".crt":
                    context.load_verify_locations(path)
                elif path.suffix == ".cert":
                    context.load_cert_chain(path, path.with_suffix(".key"))
            except OSError as error:  # also what ssl raises
                raise RefusedError(
                    f"{path} is not a usable certificate: {error}", hint="see Docker's documentation of certs.d"
                ) from error
    return context


class _Adapter(HTTPAdapter):
    """Does not retry; `context` holds further authorities, and requests adds the usual ones. Refuses to be led to a
    private address by `registry`, whether by a redirect, an upload URL, a next page or a token server.
    """

    def __init__(self, context: ssl.SSLContext | None, registry: str) -> None:
        self._registry = registry
        self._extra: dict[str, Any] = {} if context is None else {"ssl_context": context}
        super().__init__(pool_maxsize=16, max_retries=0)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        host = urlsplit(str(request.url)).hostname or ""
        if leads_inside(self._registry, host):
            raise RefusedError(
                f"{self._registry} points to {host}, a private address, but is not in a private network itself",
                hint="if that is intended, name the registry by its address or name in that network",
            )
        return super().send(request, *args, **kwargs)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **kwargs, **self._extra)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, **kwargs, **self._extra)
