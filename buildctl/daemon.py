"""The Docker daemon: how it is found (DOCKER_HOST, a docker context, the default socket) and reached."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import docker
import docker.context
from docker.errors import DockerException
from docker.tls import TLSConfig

from buildctl.errors import RuntimeUnavailableError

CONNECT = 10  # seconds until an answer to the first question
HINT = "start Docker, or point DOCKER_HOST or `docker context use` at a machine that runs it"


def connect(context: str | None = None, *, timeout: int = 600) -> docker.DockerClient:
    """A client for the daemon that `docker` itself would talk to, or for a named docker context.

    `timeout` is the most seconds without a byte that later requests wait. Raises RuntimeUnavailableError when no
    daemon answers. The caller closes the client.
    """
    host, tls = _endpoint(context)
    if host.startswith("ssh://") and importlib.util.find_spec("paramiko") is None:
        raise RuntimeUnavailableError(f"{host} needs the Python package paramiko", hint="pip install 'docker[ssh]'")
    try:
        client = docker.DockerClient(
            base_url=host, tls=tls or False, version="auto", timeout=CONNECT, use_ssh_client=host.startswith("ssh://")
        )
        client.ping()
    except (DockerException, OSError) as error:
        raise RuntimeUnavailableError(f"no Docker daemon answers at {host}: {_reason(error)}", hint=HINT) from error
    client.api.timeout = timeout
    return client


@contextmanager
def connected(context: str | None = None, *, timeout: int = 600) -> Iterator[docker.DockerClient]:
    client = connect(context, timeout=timeout)
    try:
        yield client
    finally:
        with suppress(DockerException, OSError):
            client.close()


def shares_loopback(client: docker.DockerClient) -> bool:
    """Whether 127.0.0.1 is the same machine for the daemon as for us.

    Not so over ssh or tcp, and not for Docker Desktop and its likes, whose daemon runs in a virtual machine although
    its socket is here: its kernel is another one.
    """
    base = str(client.api.base_url)
    local = base.startswith("http+docker://localhost") or urlsplit(base).hostname in ("127.0.0.1", "localhost", "::1")
    return local and client.info().get("KernelVersion") == os.uname().release


def _endpoint(context: str | None) -> tuple[str, TLSConfig | None]:
    """DOCKER_HOST wins over the current context, a context asked for by name over both, as for `docker` itself."""
    if context is None and (host := os.environ.get("DOCKER_HOST")):
        folder = os.environ.get("DOCKER_CERT_PATH")
        if not folder and not os.environ.get("DOCKER_TLS_VERIFY"):
            return host, None
        certificates = Path(folder or Path.home() / ".docker")
        pair = (str(certificates / "cert.pem"), str(certificates / "key.pem"))
        return host.replace("tcp://", "https://"), TLSConfig(
            client_cert=pair, ca_cert=str(certificates / "ca.pem"), verify=bool(os.environ.get("DOCKER_TLS_VERIFY"))
        )
    name = context or os.environ.get("DOCKER_CONTEXT")
    try:
        found = docker.context.ContextAPI.get_context(name)
    except Exception as error:  # docker's own loader raises bare Exception for a malformed file
        raise RuntimeUnavailableError(f"docker context {name or '(current)'} cannot be read: {error}") from error
    if found is None:
        raise RuntimeUnavailableError(f"no docker context named {name}", hint="`docker context ls` shows what there is")
    return str(found.Host or "unix:///var/run/docker.sock"), found.TLSConfig


def _reason(error: BaseException) -> str:
    """The innermost cause; docker-py wraps a refused connection five times."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
