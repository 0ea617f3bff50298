"""What several commands share: options, arguments, and how an answer is printed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from buildctl.ground.errors import BuildctlError
from buildctl.oci.compression import COMPRESSIONS
from buildctl.runtimes.choose import AUTO, RUNTIMES

if TYPE_CHECKING:
    from buildctl.matrix.project import Project


@dataclass(frozen=True, slots=True)
class Options:
    project: Path
    layout: Path | None

    def open(self) -> Project:
        from buildctl.matrix.project import Project

        return Project.find(self.project, layout=self.layout)


class Printable(Protocol):
    def to_json(self) -> dict[str, Any]: ...

    def text(self) -> str: ...


def answer(found: Printable, *, as_json: bool) -> None:
    """The one thing that a command prints on stdout."""
    click.echo(as_text(found.to_json()) if as_json else found.text())


def say_next(*commands: str) -> None:
    """The last lines of the story: what people do now. Not part of the answer."""
    from buildctl.console.log import say

    if commands:
        say("next:\n" + "\n".join(f"  {command}" for command in commands))


def as_text(value: Any) -> str:
    return json.dumps(value, indent=2)


def complete_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    try:
        root = context.find_root().params.get("project") or Path.cwd()
        names = {cell.image for cell in Options(Path(root), None).open().matrix.cells}
    except BuildctlError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def opened(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """Arguments that may name a packed OCI layout name the unpacked one from here on."""
    if not value:
        return value
    return _unpacked(value) if isinstance(value, str) else tuple(map(_unpacked, value))


def _unpacked(text: str) -> str:
    plain = text.removeprefix("oci-archive:")
    if not any(Path(path).is_file() for path in (plain, plain.rpartition(":")[0]) if path):
        return text  # names and references load nothing that reads archives
    from buildctl.artifacts.carried import opened as unpacked

    return unpacked(text)


def require_linux_to(command: str) -> None:
    """What makes layers says so on another system, before it locks or fetches anything. Raises EngineError."""
    from buildctl.ground.machine import NEEDED, require_linux

    require_linux(f"`buildctl {command}`", NEEDED)


names_argument = click.argument("names", nargs=-1, metavar="[NAMES]...", shell_complete=complete_names)
targets_argument = click.argument(
    "names", nargs=-1, metavar="[NAMES]...", shell_complete=complete_names, callback=opened
)
arch_option = click.option("--arch", metavar="ARCH", help="Only this architecture: amd64 or arm64.")
context_option = click.option(
    "--context", metavar="NAME|URL", help="A Docker elsewhere: a docker context, ssh://[USER@]HOST, tcp://HOST:PORT."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine to read.")
plain_http_option = click.option(
    "--plain-http", is_flag=True, default=None, help="Use plain http, the default only for this machine."
)
locked_option = click.option("--locked", is_flag=True, help="Refuse where a lock, claim or Dockerfile would change.")
runtime_option = click.option(
    "--runtime", type=click.Choice((AUTO, *RUNTIMES)), default=AUTO, show_default=True, help="Where the image runs."
)
environment_option = click.option(
    "--path", type=click.Path(file_okay=False, path_type=Path), help="Where the native environment is (mps-... only)."
)

_COMPRESSION = (
    click.option(
        "--compression",
        type=click.Choice(tuple(COMPRESSIONS)),
        help="How to compress layers (default: as in matrix.yaml, or zstd).",
    ),
    click.option(
        "--compression-level",
        metavar="LEVEL",
        help="1 (fast) to 19 (small), gzip 1 to 9, or none (default: as in matrix.yaml, or the method's).",
    ),
)
_READ = (
    click.option(
        "--cache-from",
        multiple=True,
        envvar="BUILDCTL_CACHE_FROM",
        metavar="REGISTRY/REPO",
        help="Take layers from there that others made (default: `cache` in matrix.yaml); may be repeated.",
    ),
    click.option(
        "--cache-trust",
        multiple=True,
        envvar="BUILDCTL_CACHE_TRUST",
        metavar="FILE",
        help="Public key whose signatures count: a file, or env://NAME; may be repeated.",
    ),
)
_BUILD = (
    click.option("--no-cache-from", is_flag=True, help="Take no layer from any cache."),
    click.option("--require-cache", is_flag=True, help="Fail instead of making a layer that no cache has."),
    click.option("--cache-to", envvar="BUILDCTL_CACHE_TO", metavar="REGISTRY/REPO", help="Put what is made there."),
    click.option(
        "--cache-key",
        envvar="BUILDCTL_CACHE_KEY",
        metavar="FILE",
        help="Private key that signs it: a file ($COSIGN_PASSWORD), or env://NAME.",
    ),
)
Decorated = Callable[..., None]


def compression_options(function: Decorated) -> Decorated:
    """How layers are compressed."""
    return functools.reduce(lambda made, option: option(made), reversed(_COMPRESSION), function)


def cache_read_options(function: Decorated) -> Decorated:
    """Where the shared layer cache is, and whose word counts."""
    return functools.reduce(lambda made, option: option(made), reversed(_READ), function)


def cache_options(function: Decorated) -> Decorated:
    """All options of the shared layer cache."""
    return functools.reduce(lambda made, option: option(made), reversed((*_READ, *_BUILD)), function)
