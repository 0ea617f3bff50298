"""Where wheels come from: uv's own configuration as it is, else the index configured for pip.

Only one index ever counts. pip's extra-index-url and find-links are left out on purpose: with two sources the same
version can be on both, and the wrong build wins (sgl-project/sglang#23593).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from buildctl.ground.errors import SettingsError
from buildctl.ground.net import pip_settings, xdg_folders

# uv's words for "where to fetch from"; one of them set means that the user has configured uv itself
_UV_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX")
# settings that would choose another build of torch than the matrix says, or another project than ours
_UV_DROPPED = (
    "UV_TORCH_BACKEND",
    "UV_INDEX_STRATEGY",
    "UV_FIND_LINKS",
    "UV_PROJECT",
    "UV_WORKING_DIR",
    "UV_WORKING_DIRECTORY",
    "UV_CUSTOM_COMPILE_COMMAND",
)


def uv_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for uv. Raises LockError for an unreadable configuration file of uv or pip."""
    environ = os.environ if environ is None else environ
    out = {key: value for key, value in environ.items() if key not in _UV_DROPPED}
    if environ.get("UV_NO_INDEX") and environ.get("UV_FIND_LINKS"):
        out["UV_FIND_LINKS"] = environ["UV_FIND_LINKS"]  # on a machine without an index it is the only source
    out |= {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    pip = pip_settings(environ)
    if "index-url" in pip and not _uv_has_index(environ):
        out["UV_DEFAULT_INDEX"] = pip["index-url"]
    if "cert" in pip and not environ.get("SSL_CERT_FILE"):
        out["SSL_CERT_FILE"] = pip["cert"]
    return out


def _uv_has_index(environ: Mapping[str, str]) -> bool:
    keys = {"index", "index-url", "extra-index-url", "no-index"}
    return any(environ.get(name) for name in _UV_INDEX_VARIABLES) or any(keys & set(v) for v in _uv_tables(environ))


def several_indexes(environ: Mapping[str, str] | None = None) -> bool:
    """Whether uv may find two packages on two indexes."""
    environ = os.environ if environ is None else environ
    if environ.get("UV_INDEX") or environ.get("UV_EXTRA_INDEX_URL"):
        return True
    return any({"index", "extra-index-url"} & set(table) for table in _uv_tables(environ))


def with_credentials(url: str, index: str | None, environ: Mapping[str, str] | None = None) -> str:
    """`url` with the user and password of the configured index on the same host, which uv omits from its output.

    `index` is one more index to check. Credentials in netrc work without this.
    """
    environ = os.environ if environ is None else environ
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return url
    for name, candidate in [("", index or ""), *_configured(environ)]:
        known = urlsplit(candidate)
        user, _, host = known.netloc.rpartition("@")
        variable = "UV_INDEX_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
        if name and not user and environ.get(f"{variable}_USERNAME"):
            password = environ.get(f"{variable}_PASSWORD", "")
            user = f"{quote(environ[f'{variable}_USERNAME'], safe='')}:{quote(password, safe='')}"
        if user and (known.scheme, host) == (parts.scheme, parts.netloc):
            return urlunsplit(parts._replace(netloc=f"{user}@{host}"))
    return url


def _configured(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """(name or nothing, URL) of every index that uv or pip knows."""
    out: list[tuple[str, str]] = []
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
        for entry in environ.get(variable, "").split():
            name, equals, url = entry.partition("=")
            out.append((name, url) if equals and "/" not in name else ("", entry))
    for table in _uv_tables(environ):
        out += [(str(i.get("name", "")), str(i.get("url", ""))) for i in table.get("index", ()) if isinstance(i, dict)]
        out += [("", value) for key in ("index-url", "extra-index-url") for value in _strings(table.get(key))]
    return [*out, ("", pip_settings(environ).get("index-url", ""))]


def local_sources(environ: Mapping[str, str], index: str | None) -> list[Path]:
    """Folders of this machine that the user named as a source of wheels."""
    links = re.split(r"[,\s]+", environ.get("UV_FIND_LINKS", ""))
    links += [link for table in _uv_tables(environ) for link in _strings(table.get("find-links"))]
    named = [*links, index or "", *(url for _, url in _configured(environ))]
    paths = [unquote(urlsplit(text).path) if text.startswith("file:") else text for text in named]
    return [Path(path).resolve() for path in paths if path and "://" not in path]


def _strings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value or ()]


def _uv_files(environ: Mapping[str, str]) -> list[Path]:
    if own := environ.get("UV_CONFIG_FILE"):
        return [Path(own)]
    home = Path(environ.get("HOME") or Path.home())
    user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "uv" / "uv.toml"
    return [user, *(Path(folder) / "uv" / "uv.toml" for folder in xdg_folders(environ)), Path("/etc/uv/uv.toml")]


def _uv_tables(environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """The contents of uv's configuration files, and the tables in them for `uv pip`."""
    out: list[dict[str, Any]] = []
    for path in [] if environ.get("UV_NO_CONFIG") else _uv_files(environ):
        try:
            value: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise SettingsError(f"cannot read uv's configuration {path}: {error}") from error
        out += [value, value.get("pip", {})]
    return out
