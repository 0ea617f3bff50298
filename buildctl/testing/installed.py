"""What an installed torch claims, read from its files without importing it: the counterpart of `torch_wheel`,
which reads the same from a wheel.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from buildctl.ground.errors import ArtifactError, RuntimeUnavailableError
from buildctl.lock.claims import WheelFacts
from buildctl.lock.torch_wheel import VERSION, assignments, torch_facts
from buildctl.oci.digest import Digest
from buildctl.runtimes.interpreter import Interpreter

_BLOCK = 1 << 20
_TAG = re.compile(r"^Tag: (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """`distributions` maps normalized names to versions, of the copy imported first if there are two.

    `torch` is the version of its distribution, of torch/version.py if it has none (built in place); `said` are all
    assignments of that file. `facts` are those of a wheel; where they cannot be read they are None and `unread` says
    why. `tags` are the wheel tags that torch was installed with. `digest` changes with any installed version or RECORD.
    """

    torch: str
    said: Mapping[str, str | None]
    facts: WheelFacts | None
    unread: str
    tags: tuple[str, ...]
    distributions: Mapping[str, str]
    digest: Digest


def read_installed(interpreter: Interpreter) -> Installed:
    """Raises RuntimeUnavailableError for a Python without torch, or with one that does not tell its version."""
    if interpreter.torch is None:
        hint = f"{interpreter.python} -m pip install torch; PYTHONPATH is ignored"
        raise RuntimeUnavailableError(f"{interpreter.python} has no torch", hint=hint)
    site, found = interpreter.torch.parent, _distributions(interpreter.path)
    said = _assigned(site / VERSION)
    if not said.get("__version__"):
        raise RuntimeUnavailableError(
            f"{interpreter.torch} is not an installed torch: {VERSION} has no __version__",
            hint="install torch again, or name another environment",
        )
    facts, unread = _facts(site, interpreter.prefix)
    torch = found.get("torch")
    return Installed(
        torch=_field(torch, "Version") if torch else str(said["__version__"]),
        said=said,
        facts=facts,
        unread=unread,
        tags=tuple(_TAG.findall(torch.read_text("WHEEL") or "")) if torch else (),
        distributions={name: _field(one, "Version") for name, one in found.items()},
        digest=_digest(found, said),
    )


def _facts(site: Path, prefix: Path) -> tuple[WheelFacts | None, str]:
    """Conda packages put torch's libraries into the environment's lib folder."""
    paths = {VERSION: site / VERSION}
    for folder in (prefix / "lib", site / "torch" / "lib"):
        paths |= {f"torch/lib/{path.name}": path for path in folder.glob("libtorch_*")}
    try:
        return torch_facts(str(site / "torch"), paths, lambda name: _chunks(paths[name])), ""
    except (ArtifactError, OSError) as error:
        return None, str(error)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_BLOCK):
            yield chunk


def _assigned(path: Path) -> dict[str, str | None]:
    """What the file assigns; empty if it cannot be read."""
    try:
        return assignments(path.read_bytes(), str(path))
    except (ArtifactError, OSError):
        return {}


def _distributions(path: tuple[Path, ...]) -> dict[str, importlib.metadata.Distribution]:
    """By normalized name, the first on the path; skips distributions without metadata."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for one in importlib.metadata.distributions(path=[str(folder) for folder in path]):
        if name := _field(one, "Name"):
            found.setdefault(canonicalize_name(name), one)
    return found


def _field(one: importlib.metadata.Distribution, field: str) -> str:
    """Not `one.metadata`, which parses whole READMEs."""
    header = (one.read_text("METADATA") or one.read_text("PKG-INFO") or "").partition("\n\n")[0]
    return next((line.partition(": ")[2].strip() for line in header.splitlines() if line.startswith(f"{field}: ")), "")


def _digest(found: Mapping[str, importlib.metadata.Distribution], said: Mapping[str, str | None]) -> Digest:
    lines = [f"{said.get('__version__')} {said.get('git_version')}"]
    for name, one in sorted(found.items()):
        lines.append(f"{name} {_field(one, 'Version')} {Digest.of((one.read_text('RECORD') or '').encode())}")
    return Digest.of("\n".join(lines).encode())
