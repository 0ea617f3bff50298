"""Where an image lives: REGISTRY/REPOSITORY[:TAG][@DIGEST], as in Docker."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, replace
from typing import Self

from buildctl.ground.errors import BuildctlError, LayoutError, UsageError
from buildctl.oci.digest import Digest

DOCKER_HUB = "docker.io"
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
# distribution-spec, "pulling manifests"
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """`registry` is HOST[:PORT]; `tag` is empty when none is given."""

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises BuildctlError for anything that is not a reference."""
        rest, at, digest_text = text.removeprefix("docker://").partition("@")
        host, slash, path = rest.partition("/")
        if not slash or not (host == "localhost" or any(mark in host for mark in ".:")):
            host, path = DOCKER_HUB, rest if "/" in rest else f"library/{rest}"
        name, colon, tag = path.partition(":")
        if not _HOST.fullmatch(host) or not _NAME.fullmatch(name) or (colon and not is_tag(tag)):
            raise _malformed(text)
        try:
            digest = Digest.parse(digest_text) if at else None
        except LayoutError as error:
            raise _malformed(text) from error
        return cls(registry=host, repository=name, tag=tag, digest=digest)

    @classmethod
    def parse_repository(cls, text: str) -> Self:
        """As `parse`, without tag and digest: a place to publish to."""
        found = cls.parse(text.rstrip("/"))
        if "/" not in text.rstrip("/"):
            raise UsageError(
                f"{text!r} names no registry: where should the images go?",
                hint=f"localhost:5000/{text}, ghcr.io/OWNER/{text}, or docker.io/USER/{text} for Docker Hub",
            )
        if found.tag or found.digest:
            raise UsageError(f"{text!r} has a tag", hint="give REGISTRY/REPOSITORY; buildctl derives the tags")
        return found

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def wanted(self) -> str:
        """What to request: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag or "latest"

    def tagged(self, tag: str) -> Self:
        return replace(self, tag=tag, digest=None)

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_loopback(registry: str) -> bool:
    """Whether that host is this machine, where plain http is safe."""
    host = registry.rpartition(":")[0] if re.search(r":[0-9]+$", registry) else registry
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def leads_inside(registry: str, host: str) -> bool:
    """Whether `registry`, itself outside, points us to `host`, an address of this machine or a private network: a
    malicious registry could have us ask what only we can reach. No name is looked up except that of the registry.
    """
    if not _is_private(host):
        return False
    name = re.sub(r":[0-9]+$", "", registry).strip("[]")
    if _is_private(name):
        return False
    if _address(name) is not None:
        return True
    try:
        return not any(_is_private(str(found[4][0])) for found in socket.getaddrinfo(name, None))
    except OSError:
        return True


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for a name; an address in any form that a resolver takes: 127.1, 0x7f000001, 2130706433."""
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        try:
            found = ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return None
    return getattr(found, "ipv4_mapped", None) or found


def _is_private(host: str) -> bool:
    host = host.removesuffix(".")
    address = _address(host)
    return is_loopback(host) if address is None else address.is_private or address.is_link_local


def _malformed(text: str) -> BuildctlError:
    return UsageError(
        f"{text!r} is not an image reference",
        hint="REGISTRY/REPOSITORY[:TAG][@sha256:...], for example localhost:5000/pytorch",
    )
