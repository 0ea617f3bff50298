"""`buildctl init`: a first matrix.yaml and what goes with it, as text, and where it may be written."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildctl.ground.errors import UsageError
from buildctl.matrix.defaults import BASE, defaults

# What PyPI has from 2.5 on; compared with tests/support/torch_releases.json, which is compared with the index.
RELEASES = (
    "2.5.0", "2.5.1", "2.6.0", "2.7.0", "2.7.1", "2.8.0", "2.9.0", "2.9.1", "2.10.0", "2.11.0", "2.12.0", "2.12.1",
    "2.13.0", "2.14.0", "2.14.1", "2.15.0",
)  # fmt: skip
USUAL = "2.10"
ACCELERATORS: Mapping[str, str] = {
    "cuda": "NVIDIA: linux/amd64, and linux/arm64 from torch 2.11 on",
    "cpu": "linux/arm64; for amd64, too: {index: https://download.pytorch.org/whl/cpu}",
    "mps": "Apple GPU: a native environment on macOS, since no container sees one",
}
# The base that has a Python: its name and Debian release. The default base's packages are those of the others, too.
BASES: Mapping[str, tuple[str, str]] = {
    "3.11": ("debian12", "bookworm"),
    "3.13": ("debian13", "trixie"),
    "3.14": ("debian14", "forky"),
}
CI = ("github", "gitlab")
_PLACES = {"github": ".github/workflows/images.yml", "gitlab": ".gitlab-ci.yml"}
_IGNORED = ("/dist/", "/.venv-*/")


def default_python() -> str:
    return str(defaults()["python"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """`accelerators` in the order of the file, `versions` as `2.10` or `2.10.0`; the first of `pythons` is in no name.
    `source` is what installs buildctl.
    """

    accelerators: tuple[str, ...]
    versions: tuple[str, ...] = (USUAL,)
    pythons: tuple[str, ...] = field(default_factory=lambda: (default_python(),))
    ci: str | None = None
    source: str = "buildctl"


def releases(versions: Sequence[str]) -> dict[str, str]:
    """Image version -> torch release, in the order of the versions. Raises UsageError."""
    found: dict[str, str] = {}
    for text in versions:
        if not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?", text):
            raise UsageError(f"{text!r} is not a version of torch", hint="for example --cuda 2.6,2.10 or --cuda 2.7.1")
        key = ".".join(text.split(".")[:2])
        known = [one for one in RELEASES if one.startswith(f"{key}.")]
        release = text if text.count(".") == 2 else (known or [f"{key}.0"])[-1]
        if found.setdefault(key, release) != release:
            raise UsageError(f"torch {key} is asked for as {found[key]} and as {release}", hint="name one of them")
    return dict(sorted(found.items(), key=lambda item: [int(part) for part in item[0].split(".")]))


def unknown(wish: Wish) -> list[str]:
    """The wanted releases of torch that are in no table here: newer than this program, or not there at all."""
    return [release for release in releases(wish.versions).values() if release not in RELEASES]


def matrix_text(wish: Wish) -> str:
    """matrix.yaml with what was asked for, and what may be added as comments."""
    _refuse_pythons(wish.pythons)
    versions = "".join(f'  "{key}": {release}\n' for key, release in releases(wish.versions).items())
    several = ", ".join(BASES[python][0] for python in wish.pythons) if len(wish.pythons) > 1 else ""
    accelerators = "".join(
        f"  {name}: {'{}' if name == 'mps' or not several else f'{{base: [{several}]}}'}  # {ACCELERATORS[name]}\n"
        for name in wish.accelerators
    )
    python = ", ".join(f'"{python}"' for python in wish.pythons)
    return f"""\
# What is built: accelerator x PyTorch version x architecture. `buildctl matrix` shows it and says what cannot exist;
# `buildctl matrix --explain` shows every setting with its default.
python: {f"[{python}]" if several else python}
{_bases(wish.pythons)}
# image name -> torch release; quote the key, or YAML reads 2.10 as 2.1
versions:
{versions}
accelerators:
{accelerators}
# packages: [torchvision, numpy, pip]        # next to torch, in all of them
# flavours: [runtime, devel]                 # devel: gcc and g++, for torch.compile
# images: {{"*": {{packages: [], apt: [git]}}}}  # what some get on top
{_POLICY if wish.ci else ""}"""


_POLICY = """
# what a machine may lack: a finding that did not run does not keep a tag from moving
publish:
  allow-not-run:
    "*": [torch.compile, works on the gpu, without a gpu]
"""


def _bases(pythons: Sequence[str]) -> str:
    """The key `bases`, with a base for each Python; nothing where the default base is all that is needed."""
    if tuple(pythons) == (default_python(),):
        return ""
    default = defaults()["bases"][BASE]
    lines = ["", "# the first base of an accelerator that has a Python is the base of its images"]
    lines += ["bases:"]
    for python in pythons:
        name, release = BASES[python]
        lines += [f"  {name}:", f"    debian: {release}"]
        for key in ("packages", "devel"):
            lines += [f"    {key}: [{', '.join(p.replace(default_python(), python) for p in default[key])}]"]
    return "\n".join([*lines, ""])


def _refuse_pythons(pythons: Sequence[str]) -> None:
    for python in pythons:
        if not re.fullmatch(r"3\.[0-9]{1,2}", python):
            raise UsageError(
                f"{python!r} is not a Python minor version", hint=f"for example --python {default_python()}"
            )
        if python not in BASES:
            has = ", ".join(f"{name} ({release}) has {python}" for python, (name, release) in BASES.items())
            raise UsageError(
                f"no base that comes with buildctl has Python {python}: {has}",
                hint=f"leave out --python, and choose an image with Python {python} under `bases`: docs/matrix.md",
            )


def files(wish: Wish) -> dict[str, str]:
    """Path in the folder -> text."""
    texts = {"matrix.yaml": matrix_text(wish), ".gitignore": "".join(f"{line}\n" for line in _IGNORED)}
    if wish.ci is not None:
        text = importlib.resources.files("buildctl.matrix").joinpath(f"{wish.ci}.yml").read_text("utf-8")
        arches = '", "'.join(_arches(texts["matrix.yaml"]))
        values = {"BUILDCTL": wish.source, "PYTHON": wish.pythons[0], "ARCHES": arches}
        texts[_PLACES[wish.ci]] = re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], text)
    return texts


def _arches(matrix: str) -> list[str]:
    """Architectures of its images; amd64 where it has only native environments."""
    from buildctl.matrix.read import parse_matrix  # noqa: PLC0415 - the schema is read only where it is needed

    cells = parse_matrix(matrix, Path("matrix.yaml")).cells
    return list(dict.fromkeys(cell.arch for cell in cells if not cell.native)) or ["amd64"]


def refuse_existing(folder: Path) -> None:
    """Raises UsageError if `folder` has a matrix.yaml already."""
    if (folder / "matrix.yaml").exists():
        raise UsageError(
            f"{folder / 'matrix.yaml'} exists, and init never overwrites it", hint="edit it, or use an empty folder"
        )


def write_project(folder: Path, wish: Wish) -> tuple[str, ...]:
    """Write what is not there; one line for each file. Raises UsageError if `folder` has a matrix.yaml already."""
    texts = files(wish)
    refuse_existing(folder)
    return tuple(_written(folder, name, text) for name, text in texts.items())


def _written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return _kept(path, name)
    return f"{name} written"


def _kept(path: Path, name: str) -> str:
    if path.name != ".gitignore":
        return f"{name} is there and stays as it is"
    there = path.read_text("utf-8", "replace").splitlines()
    missing = [line for line in _IGNORED if line not in there and line.strip("/") not in there]
    return f"{name} is there and stays as it is" + (f"; it lacks {' and '.join(missing)}" if missing else "")
