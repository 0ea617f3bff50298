"""The Docker daemon: how it is reached, over its socket, tcp or ssh."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import docker
from docker.errors import DockerException
from docker.tls import TLSConfig

from buildctl.docker.context import Endpoint, endpoint
from buildctl.docker.ssh import Tunnel, without_user
from buildctl.ground.errors import RuntimeUnavailableError

CONNECT = 10  # seconds until an answer to the first question
HINT = "start Docker, or use DOCKER_HOST or `docker context use` to select a machine that runs it"


class Client(docker.DockerClient):
    """A client that ends its own ssh; `tunnel` is None without ssh."""

    tunnel: Tunnel | None = None

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self.tunnel is not None:
                self.tunnel.close()


def connect(context: str | None = None, *, timeout: int = 600) -> Client:
    """A client for the daemon that `docker` itself would talk to, or for `context`: a docker context by name, or a URL.

    `timeout` is how many seconds later requests wait for a byte. Raises RuntimeUnavailableError if no
    daemon answers. The caller closes the client.
    """
    found = endpoint(context)
    host = found.host
    tunnel = Tunnel(host) if host.startswith("ssh://") else None
    base = f"unix://{tunnel.path}" if tunnel else host
    try:
        client = Client(base_url=base, tls=_tls(found) or False, version="auto", timeout=CONNECT)
        client.ping()
    except BaseException as error:
        said, hint = (tunnel.said(), tunnel.hint()) if tunnel else ("", None)
        if tunnel:
            tunnel.close()
        if not isinstance(error, DockerException | OSError | ValueError):
            raise
        named = context is not None and "://" not in context
        where = without_user(host) + (f" (context {context})" if named else "")
        message = f"no Docker daemon responds at {where}: {said or _reason(error)}"
        raise RuntimeUnavailableError(message, hint=hint or HINT) from error
    client.tunnel = tunnel
    client.api.timeout = timeout
    return client


@contextmanager
def connected(context: str | None = None, *, timeout: int = 600) -> Iterator[Client]:
    client = connect(context, timeout=timeout)
    try:
        yield client
    finally:
        with suppress(DockerException, OSError):
            client.close()


def is_here(client: docker.DockerClient) -> bool:
    """Whether the daemon's socket or port is on this machine; not so over ssh, wherever that leads."""
    if isinstance(client, Client) and client.tunnel is not None:
        return False
    base = str(client.api.base_url)
    return base.startswith("http+docker://localhost") or urlsplit(base).hostname in ("127.0.0.1", "localhost", "::1")


@contextmanager
def loopback_port(client: docker.DockerClient, port: int) -> Iterator[int | None]:
    """A port of the daemon's own loopback that leads to `port` of ours; None if there is none.

    Over ssh the connection brings it back. None over tcp to another machine, and for Docker Desktop and the like, whose
    daemon runs in a virtual machine, with its own kernel, although its socket is here.
    """
    if isinstance(client, Client) and client.tunnel is not None:
        with client.tunnel.brought_back(port) as there:
            yield there
    else:
        shared = is_here(client) and client.info().get("KernelVersion") == os.uname().release
        yield port if shared else None


def _tls(found: Endpoint) -> TLSConfig | None:
    if not found.tls:
        return None
    pair = (str(found.certificate), str(found.key)) if found.certificate and found.key else None
    return TLSConfig(client_cert=pair, ca_cert=str(found.ca) if found.ca else None, verify=found.verify)


def _reason(error: BaseException) -> str:
    """The innermost cause; docker-py wraps a refused connection five times."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
