"""Asking uv: requirements for a platform -> the wheels that an installer there would choose, with their URLs."""

from __future__ import annotations

import json
import re
import sys
import threading
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import uv
from packaging import tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from buildctl.ground.errors import LockError, ResolveError, ResolverError, SettingsError, SourceError, ToolError
from buildctl.ground.net import redact
from buildctl.ground.run import Completed, run
from buildctl.ground.scratch import scratch
from buildctl.lock.index import local_sources, several_indexes, uv_environment
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Accelerator
from buildctl.oci.digest import Digest

# These come from one index, always the same for all of them.
FAMILY = ("torch", "torchvision", "torchaudio")

# Minor versions of glibc 2 that uv has a platform for. NVIDIA's wheels carry odd tags (manylinux_2_18, 2_27), so
# everything below the platform's counts. macOS: MPS needs 14, and so do torch's wheels from 2.12 on.
_GLIBCS: tuple[int, ...] = (17, 28, *range(31, 41))
_MACOS = (14, 0)
_TIMEOUT = 300.0
_UV_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A wheel that uv chose. `size` in bytes, `digest` and when it was uploaded are None if the index does not tell."""

    name: str
    version: str
    filename: str
    url: str
    size: int | None
    digest: Digest | None
    uploaded: datetime | None = None


class NoSolutionError(ResolveError):
    """The index answered, but does not have it: a missing version or wheel, or conflicting versions."""


class IndexFailedError(SourceError):
    """An index that does not answer, or rejects our credentials; `url` is what was requested, if uv tells."""

    def __init__(self, message: str, *, hint: str | None = None, url: str = "") -> None:
        super().__init__(message, hint=hint)
        self.url = url


@contextmanager
def index_of(accelerator: Accelerator) -> Iterator[str | None]:
    """The index of an accelerator. If it fails, the error names the key and line of matrix.yaml that chose it."""
    try:
        yield accelerator.index
    except IndexFailedError as error:
        if accelerator.index is None or (error.url and urlsplit(error.url).netloc != _host(accelerator.index)):
            raise
        raise IndexFailedError(
            f"the index {redact(accelerator.index)} from {accelerator.place('index')} failed:\n{error.message}",
            hint=f"correct {accelerator.place('index')}, or: {error.hint}",
            url=error.url,
        ) from error


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def resolve(
    requirements: Sequence[str],
    *,
    python: str,
    platform: str,
    index: str | None = None,
    keep: Iterable[tuple[str, str]] = (),
    glibc: tuple[int, int] | None = None,
    alone: bool = False,
    links: Path | None = None,
) -> tuple[Found, ...]:
    """Wheels for `requirements` on `platform` (linux/amd64 ...), one per package, sorted by name.

    `index` serves FAMILY and nothing else. `keep` are (name, version) pairs to keep if possible. `glibc` is what the
    wheels run on, the newest that uv knows if None; `alone` leaves out dependencies, and pre-releases nobody asked
    for; `links` is a folder of further wheels. Raises NoSolutionError, or LockError if uv or the index fails, or if
    FAMILY comes from more than one index.
    """
    options = ["--python-platform", _uv_platform(platform, glibc)]
    options += ["--no-deps", "--prerelease", "explicit"] if alone else []
    env = {"MACOSX_DEPLOYMENT_TARGET": ".".join(map(str, _MACOS))} if platform.startswith("darwin/") else {}
    if links is not None:
        env["UV_FIND_LINKS"] = str(links)
    packages = _compile(requirements, options, env, python=python, index=index, keep=keep)
    chosen = [best(wheels, python=python, platform=platform, glibc=glibc) for wheels in packages]
    if index is None and not alone and several_indexes():
        _check_one_index(chosen, [*options, "--python-version", python], env)
    return tuple(sorted(chosen, key=lambda found: found.name))


def _check_one_index(chosen: Sequence[Found], options: Sequence[str], env: Mapping[str, str]) -> None:
    """pylock.toml does not say which index a wheel is from, an annotated requirements.txt does."""
    pins = [f"{found.name}=={found.version}" for found in chosen if found.name in FAMILY]
    with scratch("lock") as folder:
        root = Path(folder)
        (root / "pyproject.toml").write_text("[tool.uv]\n", "utf-8")
        (root / "pins.txt").write_text("\n".join(pins) + "\n", "utf-8")
        form = ["pins.txt", "--no-deps", "--format", "requirements.txt", "--emit-index-annotation"]
        done = _run_uv(root, [*form, *options], env)
    if done.returncode != 0 or done.timed_out:
        raise _failure(done)
    indexes = sorted(set(re.findall(r"^ *# from (\S+)$", done.stdout, re.MULTILINE)))
    if len(indexes) > 1:
        raise SettingsError(
            f"torch and its companions come from more than one index: {redact(', '.join(indexes))}",
            hint="set one with `index` under the accelerator, or put one that has all first in uv's configuration",
        )


def locate(pins: Sequence[str], *, python: str, index: str | None = None) -> dict[Digest, str]:
    """URLs of all wheel files of these exact versions, whatever platform they are for.

    All, not the one that would be chosen: a better one uploaded since must not hide the one that is locked. Raises as
    `resolve` does.
    """
    packages = _compile(pins, ["--universal", "--no-deps"], {}, python=python, index=index)
    return {found.digest: found.url for wheels in packages for found in wheels if found.digest is not None}


def _compile(
    requirements: Sequence[str],
    options: Sequence[str],
    env: Mapping[str, str],
    *,
    python: str,
    index: str | None,
    keep: Iterable[tuple[str, str]] = (),
) -> list[list[Found]]:
    """What uv writes into its pylock.toml (PEP 751): the wheels of each package."""
    with scratch("lock") as folder:
        root = Path(folder)
        # a [tool.uv] table of our own ends uv's search for a project's configuration in the folders above
        (root / "pyproject.toml").write_text(_pyproject(requirements, python, index), "utf-8")
        output = root / "pylock.toml"
        output.write_text(_pylock(keep, python), "utf-8")
        form = ["pyproject.toml", "--format", "pylock.toml", "--output-file", "pylock.toml"]
        done = _run_uv(root, [*form, *options, "--python-version", python], env)
        if done.returncode != 0 or done.timed_out:
            raise _failure(done)
        value = tomllib.loads(output.read_text("utf-8"))
        found = [_wheels(package, root) for package in value.get("packages", ())]
    _refuse_local(found, local_sources({**uv_environment(), **env}, index))
    return found


def _refuse_local(found: Iterable[Iterable[Found]], sources: Sequence[Path]) -> None:
    """Only a folder that the user named may lead to files on this machine; a remote index may not."""
    for wheel in (wheel for wheels in found for wheel in wheels if urlsplit(wheel.url).scheme == "file"):
        folder = Path(unquote(urlsplit(wheel.url).path)).parent.resolve()  # the file itself may be a link
        if not any(folder.is_relative_to(source) for source in sources):
            raise SettingsError(
                f"{wheel.name}=={wheel.version}: the index names a file on this machine: {wheel.url}",
                hint="use an index that serves its files; for a folder of wheels set UV_NO_INDEX=1 and UV_FIND_LINKS",
            )


def _pyproject(requirements: Sequence[str], python: str, index: str | None) -> str:
    lines = [
        "[project]",
        'name = "buildctl-cell"',
        'version = "0"',
        f'requires-python = ">={python}"',
        f"dependencies = {json.dumps(list(requirements))}",
        "[tool.uv]",
    ]
    if index is not None:
        lines += ["[[tool.uv.index]]", 'name = "cell"', f"url = {json.dumps(index)}", "explicit = true"]
        lines += ["[tool.uv.sources]", *(f'{name} = {{ index = "cell" }}' for name in FAMILY)]
    return "\n".join(lines) + "\n"


def _pylock(keep: Iterable[tuple[str, str]], python: str) -> str:
    """The least that uv accepts as an existing lock: it stays with these versions where it can."""
    lines = ['lock-version = "1.0"', 'created-by = "buildctl"', f'requires-python = ">={python}"']
    keep = tuple(keep)
    if not keep:
        lines.append("packages = []")
    for name, version in keep:
        lines += ["[[packages]]", f"name = {json.dumps(name)}", f"version = {json.dumps(version)}"]
    return "\n".join(lines) + "\n"


def _uv() -> str:
    # sysconfig, which uv's function asks, initialises itself without a lock: locks are resolved in several threads
    with _UV_LOCK:
        try:
            return uv.find_uv_bin()
        except FileNotFoundError as error:
            raise ResolverError(
                "the uv program is missing from this Python environment", hint="pip install --force-reinstall uv"
            ) from error


def _run_uv(root: Path, options: Sequence[str], env: Mapping[str, str]) -> Completed:
    argv = [_uv(), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"]
    argv += ["--python", sys.executable, "--index-strategy", "first-index", *options]
    try:
        return run(argv, timeout=_TIMEOUT, env={**uv_environment(), **env}, cwd=root, check=False)
    except ToolError as error:
        raise ResolverError(f"cannot start uv: {error.message}", hint=error.hint) from error


def _failure(done: Completed) -> LockError:
    if done.timed_out:
        return IndexFailedError(f"uv did not answer within {_TIMEOUT:g} s", hint="is the package index reachable?")
    story = redact(done.stderr.strip())
    if "No solution found" in story or "was not found in the package registry" in story:
        return NoSolutionError(f"uv found no solution:\n{story}")
    if re.search(r"[Ff]ailed to fetch|error sending request|dns error|network|timed out", story):
        hint = "is the package index reachable? it is set in uv's or pip's configuration"
    elif re.search(r"\b40[13]\b|[Uu]nauthorized|[Ff]orbidden", story):
        hint = "the package index needs credentials: put them where uv or pip find them (netrc, keyring, URL)"
    else:
        return ResolverError(f"uv failed (exit {done.returncode}):\n{story}")
    url = re.search(r"https?://[^\s`'\")]+", story)
    return IndexFailedError(f"uv failed (exit {done.returncode}):\n{story}", hint=hint, url=url[0] if url else "")


def _wheels(package: Mapping[str, Any], root: Path) -> list[Found]:
    name, version = canonicalize_name(str(package.get("name", ""))), str(package.get("version", ""))
    wheels = [_wheel(name, version, wheel, root) for wheel in package.get("wheels", ())]
    if not wheels:
        raise ResolveError(f"{name}=={version}: the index has no wheel for it")
    return wheels


def _wheel(name: str, version: str, wheel: Mapping[str, Any], root: Path) -> Found:
    # a relative path is relative to the lock file (PEP 751)
    url = str(wheel.get("url") or (root / str(wheel.get("path", ""))).resolve().as_uri())
    sha256 = (wheel.get("hashes") or {}).get("sha256")
    return Found(
        name=name,
        version=version,
        filename=str(wheel.get("name") or unquote(urlsplit(url).path.rsplit("/", 1)[-1])),
        url=url,
        size=wheel.get("size"),
        digest=Digest(sha256) if sha256 else None,
        uploaded=uploaded if isinstance(uploaded := wheel.get("upload-time"), datetime) else None,
    )


def best(candidates: Sequence[Found], *, python: str, platform: str, glibc: tuple[int, int] | None = None) -> Found:
    """The one that pip and uv there would choose: the most specific tag, then the highest build tag (PEP 427).

    Raises LockError if none fits.
    """
    what = f"{candidates[0].name}=={candidates[0].version}"
    ranks = _ranks(python, platform, glibc)
    ranked: list[tuple[int, tuple[int, str], Found]] = []
    for found in candidates:
        try:
            name, version, build, wheel_tags = parse_wheel_filename(found.filename)
        except InvalidWheelFilename as error:
            raise ResolveError(f"{what}: the index lists a file that is not a wheel: {found.filename}") from error
        if name != found.name or version != Version(found.version):
            raise ResolveError(f"{what}: the index lists a file of another package or version: {found.filename}")
        if fitting := [ranks[tag] for tag in wheel_tags if tag in ranks]:
            ranked.append((-min(fitting), build or (-1, ""), found))
    if not ranked:
        names = ", ".join(found.filename for found in candidates) or "no wheels"
        raise ResolveError(f"{what}: no wheel for Python {python} on {platform} ({names})")
    return max(ranked, key=lambda found: found[:2])[2]


def _uv_platform(platform: str, glibc: tuple[int, int] | None) -> str:
    """Uv's word for SYSTEM/ARCH."""
    system, _, arch = platform.partition("/")
    return f"{ARCHES[arch].machine}-{'apple-darwin' if system == 'darwin' else f'manylinux_2_{_minor(glibc)}'}"


def _minor(glibc: tuple[int, int] | None) -> int:
    """The newest glibc 2 that uv knows and that wheels for it run on."""
    return max([known for known in _GLIBCS if glibc is None or (2, known) <= glibc] or _GLIBCS[:1])


@cache
def _ranks(python: str, platform: str, glibc: tuple[int, int] | None) -> Mapping[tags.Tag, int]:
    return {tag: rank for rank, tag in enumerate(supported_tags(python, platform, glibc))}


def supported_tags(python: str, platform: str, glibc: tuple[int, int] | None = None) -> tuple[tags.Tag, ...]:
    """What CPython there accepts, most specific first."""
    major, minor = (int(part) for part in python.split("."))
    platforms = list(_platform_tags(platform, _minor(glibc)))
    version, interpreter = (major, minor), f"cp{major}{minor}"
    cpython = tags.cpython_tags(version, abis=[interpreter], platforms=platforms)
    return (*cpython, *tags.compatible_tags(version, interpreter=interpreter, platforms=platforms))


def _platform_tags(platform: str, glibc: int) -> Iterable[str]:
    if platform.startswith("darwin/"):
        return tags.mac_platforms(_MACOS, platform.removeprefix("darwin/"))
    machine = ARCHES[platform.removeprefix("linux/")].machine
    old = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    lowest = 5 if machine == "x86_64" else 17
    out: list[str] = []
    for minor in range(glibc, lowest - 1, -1):
        out.append(f"manylinux_2_{minor}_{machine}")
        if minor in old:
            out.append(f"{old[minor]}_{machine}")
    return [*out, f"linux_{machine}"]
