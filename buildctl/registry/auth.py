"""Who we are to a registry: the challenge it sends, and the credentials that `docker login` left on this machine."""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from buildctl.console.log import say
from buildctl.registry.reference import DOCKER_HUB

_CHALLENGE = re.compile(
    r'(?:^|,)\s*(?P<scheme>[A-Za-z]+)\s+(?P<params>\w+=(?:"[^"]*"|[^\s,]+)(?:\s*,\s*\w+=(?:"[^"]*"|[^\s,]+))*)'
)
_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user's name with password, or an identity token in place of both."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def __repr__(self) -> str:  # never in a message or a traceback
        return f"Credentials(username={self.username!r}, ...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    scheme: str
    parameters: Mapping[str, str]


def parse_challenge(header: str) -> Challenge | None:
    """The challenge that we can answer, Bearer before Basic (RFC 9110, section 11.6.1)."""
    found = {
        match["scheme"].lower(): Challenge(
            scheme=match["scheme"].lower(),
            parameters={m[1].lower(): m[2] if m[2] is not None else m[3] for m in _PARAMETER.finditer(match["params"])},
        )
        for match in _CHALLENGE.finditer(header)
    }
    return found.get("bearer") or found.get("basic")


def docker_credentials(registry: str) -> Credentials | None:
    """From Docker's configuration ($DOCKER_CONFIG, ~/.docker) or the helper it names. If they cannot be read: None, and
    a line that says why, because many requests need no credentials.
    """
    # takes a fifth of a second, so only when credentials are needed
    from docker import auth  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415

    name = auth.INDEX_NAME if registry == DOCKER_HUB else registry
    try:
        with warnings.catch_warnings(action="ignore"):  # of a helper that is not installed; the error follows
            found = auth.load_config().resolve_authconfig(name)
    except (DockerException, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        say(
            f"cannot read the credentials for {registry}, going on without them: {error or type(error).__name__}; "
            f"`docker login {registry}` writes new ones"
        )
        return None
    if not found:
        return None
    low = {str(key).lower(): str(value or "") for key, value in found.items()}
    token = low.get("identitytoken", "")
    if not token and not low.get("username"):
        return None
    return Credentials(username=low.get("username", ""), password=low.get("password", ""), identity_token=token)
