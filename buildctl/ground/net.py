"""HTTP as everything here does it: sessions with the user's CA bundle, what is retried, and what a message may show."""

from __future__ import annotations

import configparser
import email.utils
import errno
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildctl.console import log
from buildctl.ground import machine
from buildctl.ground.clock import now
from buildctl.ground.errors import SettingsError

if TYPE_CHECKING:
    import requests  # a third of the start-up time of commands that need no network


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """`index-url` and `cert` as pip would see them: files from the site's to the user's, then the environment."""
    out: dict[str, str] = {}
    for path in _pip_files(environ):
        # pip parses with exactly this class: no interpolation
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(path.read_text("utf-8"), str(path))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            raise SettingsError(f"pip's configuration {path} cannot be read: {error}") from error
        for section in ("global", "download", "install"):
            for key in ("index-url", "cert"):
                for spelled in (key, key.replace("-", "_")):
                    if parser.has_option(section, spelled):
                        out[key] = parser.get(section, spelled).strip()
    for key in ("index-url", "cert"):
        if value := environ.get("PIP_" + key.upper().replace("-", "_")):
            out[key] = value.strip()
    return {key: value for key, value in out.items() if value}


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    """In the order in which pip lets later ones win (pip's configuration documentation, "Precedence")."""
    own = environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return []
    home = Path(environ.get("HOME") or Path.home())
    files = [Path(folder) / "pip" / "pip.conf" for folder in xdg_folders(environ)]
    files += [Path("/etc/pip.conf"), home / ".pip" / "pip.conf"]
    support = home / "Library" / "Application Support" / "pip"
    if machine.system() == "macos" and support.is_dir():
        files.append(support / "pip.conf")
    else:
        files.append(Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf")
    files.append(Path(environ.get("VIRTUAL_ENV") or sys.prefix) / "pip.conf")
    return [*files, Path(own)] if own else files


def xdg_folders(environ: Mapping[str, str]) -> list[str]:
    if machine.system() == "macos":
        return ["/Library/Application Support"]
    return [folder for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":") if folder]


def redact(text: str) -> str:
    """Without user names and passwords in URLs."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds; and how many attempts in a row may bring nothing before a source is given up."""

    connect: float = 15.0
    read: float = 30.0
    attempts: int = 6
    backoff: float = 0.5
    longest_wait: float = 120.0


def _told(response: requests.Response, *_: object, **__: object) -> None:
    """One line of the verbose story, without what follows `?`: signed URLs have their secrets there."""
    url = redact(str(response.request.url)).partition("?")[0]
    log.detail(f"{response.request.method} {url}: {response.status_code}")


def new_session() -> requests.Session:
    """Proxies, netrc and REQUESTS_CA_BUNDLE as requests does; else the CA bundle that uv or pip is told to use."""
    import requests

    session = requests.Session()
    session.hooks["response"].append(_told)
    session.headers["Accept-Encoding"] = "identity"
    bundle = os.environ.get("SSL_CERT_FILE") or pip_settings(os.environ).get("cert")
    if bundle:
        session.verify = bundle
    return session


# How often a server is tried that never answered, and for how many seconds at most. One that did answer may be starting
# again, and gets a whole `Patience`.
UNREACHED_TRIES = 3
UNREACHED_SECONDS = 4.0
_NO_WAY = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}


def unreached(error: BaseException) -> bool:
    """Whether nobody is there, as far as one can tell: an unknown name, nobody who listens, or nothing but silence."""
    import requests
    import urllib3

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, socket.gaierror | urllib3.exceptions.NameResolutionError):
            return True
        if isinstance(seen, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError):
            return True
        if isinstance(seen, OSError) and seen.errno in _NO_WAY:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def number(text: str | None) -> int | None:
    """What a header says, if it is a number that bytes or seconds can have."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text.strip()) else None


def retry_after(value: str | None) -> float | None:
    """Seconds or an HTTP date (RFC 9110)."""
    if value is None:
        return None
    if (seconds := number(value)) is not None:
        return float(seconds)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (when - now()).total_seconds()) if when.tzinfo else None


def brief(error: BaseException) -> str:
    """The innermost cause below what requests and urllib3 wrap around it, in one line."""
    import requests
    import urllib3

    text = redact(str(error)).strip() or type(error).__name__
    if isinstance(error, requests.exceptions.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        return "timed out waiting for data"
    return text.splitlines()[0][:300]
