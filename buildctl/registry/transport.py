"""Requests to one registry: authorised on demand, retried when that may help, else one of three errors."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, Required, TypedDict, Unpack
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3
from requests.auth import AuthBase

from buildctl import __version__
from buildctl.console.log import say
from buildctl.ground.net import UNREACHED_SECONDS, UNREACHED_TRIES, Patience, retry_after, unreached
from buildctl.oci.layout import JSON_LIMIT
from buildctl.registry.auth import Credentials, docker_credentials, parse_challenge
from buildctl.registry.bounded import EndlessError, keep_body, read_body
from buildctl.registry.problems import (
    AbsentError,
    AgainError,
    ForbiddenError,
    RefusedError,
    UnavailableError,
)
from buildctl.registry.reference import DOCKER_HUB, is_loopback
from buildctl.registry.trust import BUNDLE, Distrust, distrust, open_session, speaks_tls

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOTICED = 2  # failures in a row before we tell the user
PATIENCE = Patience(read=90.0)  # a registry hashes a whole layer before it answers
_FIRST_ANSWER = 30.0  # seconds; no first request asks for that
_MESSAGE_LIMIT = 64 << 10  # bytes of an error's body that are read


class Payload(Protocol):
    """Data to send, of known length, readable once."""

    def __len__(self) -> int: ...

    def read(self, size: int = -1, /) -> bytes: ...


class Asked(TypedDict, total=False):
    """What goes with a request besides method and path. `what` names it in errors, `scope` is what a token is for. With
    `stream` the caller reads the body; otherwise it is a document of at most JSON_LIMIT bytes.
    """

    what: Required[str]
    scope: tuple[str, ...]
    headers: Mapping[str, str]
    params: Mapping[str, str] | None
    data: bytes | Payload
    stream: bool


@dataclass(slots=True)
class Tries:
    """Counts fruitless attempts. `failed` waits before the next, or raises UnavailableError."""

    patience: Patience
    what: str
    used: int = 0
    began: float = field(default_factory=time.monotonic)

    def failed(self, reason: AgainError) -> None:
        self.used += 1
        if reason.unreached and self._enough():
            raise UnavailableError(f"{self.what}: {reason}", hint="is the address right, and the network up?")
        wait = self.patience.backoff * 2 ** (self.used - 1) if reason.wait is None else reason.wait
        if reason.wait is not None and reason.wait > self.patience.longest_wait:
            raise UnavailableError(f"{self.what}: {reason}; it asks us to wait {wait:.0f} s", hint="try again later")
        if self.used >= self.patience.attempts:
            raise UnavailableError(
                f"{self.what}: {reason}, {self.used} times in a row",
                hint="check the address and the network, then run it again; finished uploads are not repeated",
            )
        if self.used == _NOTICED:
            say(f"{self.what}: {reason}; trying again")
        time.sleep(min(wait, self.patience.longest_wait))

    def _enough(self) -> bool:
        return self.used >= UNREACHED_TRIES or time.monotonic() - self.began > UNREACHED_SECONDS

    def progressed(self) -> None:
        self.used = 0


class _Given(AuthBase):
    """Keeps requests from replacing our Authorization header with the one from ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


@dataclass(slots=True)
class Transport:
    """Safe to use from several threads. `plain_http` None means: only if the registry is on this machine and has no
    TLS. `largest` is the most bytes that one piece of an upload may have, once the registry has said so; else 0.
    """

    registry: str
    plain_http: bool | None = None
    patience: Patience = PATIENCE
    credentials: Callable[[str], Credentials | None] = docker_credentials
    largest: int = 0
    _session: requests.Session = field(init=False)
    _authorisations: dict[tuple[str, ...], str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: list[Credentials | None] = field(default_factory=list)
    _answered: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._session = open_session(self.registry)
        self._session.headers["User-Agent"] = f"buildctl/{__version__}"
        self._session.headers["Accept-Encoding"] = "identity"

    @property
    def root(self) -> str:
        plain = is_loopback(self.registry) if self.plain_http is None else self.plain_http
        host = "registry-1.docker.io" if self.registry == DOCKER_HUB else self.registry
        return f"{'http' if plain else 'https'}://{host}"

    def close(self) -> None:
        self._session.close()

    def send(self, method: str, path: str, **asked: Unpack[Asked]) -> requests.Response:
        """As `attempt`, with retries of transient errors and without a `Payload`. Raises RegistryError."""
        tries = Tries(self.patience, f"{self.registry}: {asked['what']}")
        while True:
            try:
                return self.attempt(method, path, **asked)
            except AgainError as error:
                tries.failed(error)

    def attempt(self, method: str, path: str, **asked: Unpack[Asked]) -> requests.Response:
        """One request, and a second with credentials if the registry demands them.

        `path` is a path or a URL that the registry gave. Raises AgainError for transient errors, else RegistryError. A
        `Payload` can be read once, so a first request that only gets a challenge is an AgainError.
        """
        answer = self._once(method, path, asked)
        if answer.status_code == 400 and self._moved_to_tls(answer.url):
            answer.close()
            _repeatable(asked, "it uses TLS")
            answer = self._once(method, path, asked)
        self.plain_http = self.root.startswith("http:")  # it answered, so we know
        if answer.status_code == 401:
            stale = answer.request.headers.get("Authorization")
            challenge = answer.headers.get("WWW-Authenticate", "")
            answer.close()
            self._authorise(challenge, asked.get("scope", ()), stale, asked["what"])
            _repeatable(asked, "it demands credentials")
            answer = self._once(method, path, asked)
        if answer.status_code >= 400:
            with answer:
                self._complain(answer, asked["what"])
        if not asked.get("stream", False):
            keep_body(answer, b"" if method == "HEAD" else self.whole(answer, asked["what"], JSON_LIMIT))
        return answer

    def whole(self, answer: requests.Response, what: str, limit: int) -> bytes:
        """The body of a document. Raises AgainError, and RefusedError for more than `limit` bytes."""
        try:
            return read_body(answer, limit=limit, seconds=self.patience.read)
        except EndlessError as error:
            answer.close()
            raise RefusedError(f"{self.registry}: {what}: {error}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            answer.close()
            raise AgainError(brief(error)) from error

    def url(self, path: str) -> str:
        """Absolute; keeps our scheme if a registry behind a TLS proxy calls itself http://. Raises ValueError."""
        url = urljoin(self.root, path)
        parts, root = urlsplit(url), urlsplit(self.root)
        if parts.scheme == "http" and root.scheme == "https" and parts.hostname == root.hostname:
            return urlunsplit(("https", root.netloc, parts.path, parts.query, ""))
        return url

    def _once(self, method: str, path: str, asked: Asked) -> requests.Response:
        sent = dict(asked.get("headers", {}))
        try:
            url = self.url(path)
            host = urlsplit(url).netloc
        except ValueError as error:  # of a next page
            raise RefusedError(f"{self.registry}: {brief(error)}") from error
        read = self.patience.read if host in self._answered else min(self.patience.read, _FIRST_ANSWER)
        with self._lock:
            known = self._authorisations.get(asked.get("scope", ()))
        if known is not None and host == urlsplit(self.root).netloc:
            sent["Authorization"] = known
        try:
            answer = self._session.request(
                method,
                url,
                params=asked.get("params"),
                headers=sent,
                data=asked.get("data"),
                timeout=(self.patience.connect, read),
                stream=True,
                auth=_Given(),
            )
            self._answered.add(host)
            return answer
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._broken(error, url) from error

    def _moved_to_tls(self, asked: str) -> bool:
        """Whether a registry on this machine that rejected plain http uses TLS; if so it is asked
        that way from now on.
        """
        root = urlsplit(self.root)
        if self.plain_http is None and root.scheme == "http" and speaks_tls(root.hostname or "", root.port or 80):
            self.plain_http = False
        return asked.startswith("http:") and self.root.startswith("https:")

    def _broken(self, error: Exception, url: str) -> AgainError | RefusedError:
        """No answer came. A connection may hold next time; a bad certificate or address stays bad."""
        if isinstance(error, (ValueError, requests.TooManyRedirects)):  # an address or header that cannot be
            return RefusedError(f"{self.registry}: {brief(error)}")
        match distrust(error):
            case None:
                nobody = urlsplit(url).netloc not in self._answered and unreached(error)
                return AgainError(brief(error), wait=0 if self._moved_to_tls(url) else None, unreached=nobody)
            case Distrust.NO_TLS:
                return RefusedError(f"{self.registry} does not use TLS", hint="if that is intended, use --plain-http")
            case Distrust.OURS:
                return RefusedError(
                    f"{self.registry}: it rejects our client certificate: {brief(error)}",
                    hint=f"put NAME.cert and NAME.key in /etc/docker/certs.d/{self.registry}/, as for Docker",
                )
            case Distrust.THEIRS:
                return RefusedError(
                    f"{self.registry}: its certificate is not trusted: {brief(error)}",
                    hint=f"add its CA certificate to {BUNDLE}, "
                    f"or put it in /etc/docker/certs.d/{self.registry}/ca.crt, as for Docker",
                )

    def _complain(self, answer: requests.Response, what: str) -> NoReturn:
        codes, said = _errors(answer, self.patience.read)
        text = f"{answer.status_code} {answer.reason or ''}".strip() + (f": {said}" if said else "")
        message = f"{self.registry}: {what}: {text}"
        match answer.status_code:
            case code if code in _PASSING:
                raise AgainError(text, wait=retry_after(answer.headers.get("Retry-After")))
            case 404:
                raise AbsentError(message, hint="check the name; private images need `docker login`", codes=codes)
            case 401 | 403 as status:
                hint = f"run `docker login {self.registry}` with an account that is allowed to do this"
                raise (ForbiddenError if status == 403 else RefusedError)(message, hint=hint, codes=codes)
            case _:
                raise RefusedError(message, codes=codes)

    # credentials

    def _authorise(self, header: str, scope: tuple[str, ...], stale: str | bytes | None, what: str) -> None:
        """Learn the Authorization header for `scope` from a challenge; one thread does, the others wait for it."""
        challenge = parse_challenge(header)
        if challenge is None:
            raise RefusedError(f"{self.registry}: {what}: unknown authentication scheme: {header[:200]!r}")
        with self._lock:
            if self._authorisations.get(scope) not in {None, stale}:
                return  # another thread was faster
            if not self._known:
                self._known.append(self.credentials(self.registry))
            known = self._known[0]
            if challenge.scheme == "bearer":
                self._authorisations[scope] = "Bearer " + self._token(dict(challenge.parameters), scope, known, what)
                return
            if known is None or known.basic() == stale:
                why = "ours were refused" if known else "we have none"
                raise RefusedError(
                    f"{self.registry}: {what}: it requires credentials; {why}",
                    hint=f"run `docker login {self.registry}`",
                    codes=("UNAUTHORIZED",),
                )
            self._authorisations[scope] = known.basic()

    def _token(self, asked: dict[str, str], scope: tuple[str, ...], known: Credentials | None, what: str) -> str:
        realm = asked.get("realm", "")
        try:
            host = urlsplit(realm)
        except ValueError as error:
            raise RefusedError(f"{self.registry}: its token server {realm[:80]!r}: {error}") from error
        if host.scheme != "https" and not (host.scheme == "http" and self.root.startswith("http:")):
            raise RefusedError(f"{self.registry}: its token server {realm!r} does not use https")
        scopes = scope or tuple(filter(None, [asked.get("scope", "")]))
        tries = Tries(self.patience, f"{self.registry}: token for {what}")
        while True:
            try:
                return self._ask_token(realm, asked.get("service", ""), scopes, known, what)
            except AgainError as error:
                tries.failed(error)

    def _ask_token(
        self, realm: str, service: str, scopes: tuple[str, ...], known: Credentials | None, what: str
    ) -> str:
        timeout = (self.patience.connect, self.patience.read)
        headers: dict[str, str] = {}
        try:
            if known is not None and known.identity_token:
                form = {"grant_type": "refresh_token", "refresh_token": known.identity_token, "service": service}
                form |= {"client_id": "buildctl", "scope": " ".join(scopes)}
                answer = self._session.post(realm, data=form, timeout=timeout, stream=True, auth=_Given())
            else:
                if known is not None:
                    headers["Authorization"] = known.basic()
                query = [("service", service), *(("scope", scope) for scope in scopes)]
                answer = self._session.get(
                    realm, params=query, headers=headers, timeout=timeout, stream=True, auth=_Given()
                )
        except (requests.RequestException, OSError, ValueError) as error:
            raise self._broken(error, realm) from error
        with answer:
            if answer.status_code >= 400:
                self._complain(answer, f"token for {what}")
            try:
                value = json.loads(self.whole(answer, f"token for {what}", _MESSAGE_LIMIT))
                token = value.get("token") or value["access_token"]
                if not re.fullmatch(r"[!-~]+", token):  # it becomes a header
                    raise ValueError("a token with characters that no token has")
                return str(token)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise RefusedError(f"{self.registry}: {realm} answered without a token") from error


def _repeatable(asked: Asked, why: str) -> None:
    """Raises AgainError if the body can be read only once: the sender starts again."""
    if not isinstance(asked.get("data", b""), bytes):
        raise AgainError(why, wait=0)


def brief(error: BaseException) -> str:
    """The innermost cause below what requests and urllib3 wrap around it, in one line."""
    if isinstance(error, requests.exceptions.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        return "timed out waiting for data"
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    text = str(inner).strip() or type(inner).__name__
    return text.splitlines()[0][:300]


def _errors(answer: requests.Response, seconds: float) -> tuple[tuple[str, ...], str]:
    """The codes and the text of an error's body (distribution-spec, "error codes"); empty for other bodies."""
    try:
        value: Any = json.loads(read_body(answer, limit=_MESSAGE_LIMIT, seconds=seconds))
        errors = [e for e in value["errors"] if isinstance(e, dict)]
    except (EndlessError, ValueError, KeyError, TypeError, RecursionError):
        return (), ""
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError):
        return (), ""
    codes = tuple(str(e.get("code", "")) for e in errors)
    return codes, "; ".join(str(e.get("message") or e.get("code", "")) for e in errors)[:500]
