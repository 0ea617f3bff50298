"""Cell and lock in, Dockerfile text out. Pure: no network, no clock; the same input gives the same bytes."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from buildctl.dockerfile.constraints import constraints_environment
from buildctl.dockerfile.parse import Instruction, parse_dockerfile
from buildctl.ground.errors import DockerfileError, LockError
from buildctl.lock.claims import Claims, claim_labels
from buildctl.lock.inside.base_image import ImageLock
from buildctl.lock.locked import LockedCell
from buildctl.lock.wheels import LockedWheel, WheelLock
from buildctl.matrix.accelerators import public_version
from buildctl.matrix.account import HOME, PATH, UID, USER
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Cell

# A wheel of at least this many bytes is an install step, and so a layer, of its own; the others share one.
HEAVY = 20_000_000
# The default template; it comes with the package.
TEMPLATES = Path(__file__).parent / "templates"
# No distribution can have this name: PEP 503 names have no underscore.
SMALL_STAGE = "small_wheels"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallStep:
    """One install step: `requirements` are NAME==VERSION, with a marker where the architectures differ."""

    stage: str
    title: str
    requirements: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Package:
    name: str
    wheels: Mapping[str, LockedWheel]  # by architecture

    @property
    def size(self) -> int:
        return max(wheel.size for wheel in self.wheels.values())

    def requirements(self, arches: Sequence[str]) -> list[str]:
        """One requirement for all architectures where they agree, else one with a marker for each."""
        versions = {arch: wheel.version for arch, wheel in self.wheels.items()}
        if set(versions) == set(arches) and len(set(versions.values())) == 1:
            return [f"{self.name}=={next(iter(versions.values()))}"]
        return [
            f'{self.name}=={version} ; platform_machine == "{ARCHES[arch].machine}"'
            for arch, version in sorted(versions.items())
        ]


def install_steps(locks: Mapping[str, WheelLock]) -> tuple[InstallStep, ...]:
    """Heavy wheels one by one, what changes least first: NVIDIA's, other heavy ones, the small ones, torch last."""
    arches = sorted(locks)
    names = sorted({wheel.name for lock in locks.values() for wheel in lock.wheels})
    packages = [_Package(name=n, wheels={a: w for a in arches for w in locks[a].wheels if w.name == n}) for n in names]
    heavy = [p for p in packages if p.size >= HEAVY]
    small = [p for p in packages if p.size < HEAVY]
    steps = [
        InstallStep(stage=p.name, title=f"{p.name}, {_megabytes(p.size)}", requirements=p.requirements(arches))
        for p in sorted(heavy, key=lambda p: (_stability(p.name), p.name))
    ]
    if small:
        steps.append(
            InstallStep(
                stage=SMALL_STAGE,
                title=f"{len(small)} small wheels, {_megabytes(sum(p.size for p in small))}",
                requirements=[r for p in small for r in p.requirements(arches)],
            ),
        )
    return tuple(sorted(steps, key=lambda s: _stability(s.stage)))


def _stability(name: str) -> int:
    if name.startswith("nvidia-"):
        return 0
    return {SMALL_STAGE: 2, "torch": 3}.get(name, 1)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def render_image(cells: Sequence[LockedCell], templates: Path) -> str:
    """The Dockerfile of one image name: `cells` are its runtime cells, one for each architecture.

    Raises DockerfileError if a value of the matrix would add, remove or change an instruction.
    """
    first, each = cells[0].cell, [locked.claims for locked in cells]
    _check_agreement(first.name, each)
    _check_images(first.name, [locked.image for locked in cells if locked.image])
    environment = _environment(templates.resolve())
    template = _template(environment, first)
    steps = install_steps({locked.cell.arch: locked.wheels for locked in cells})
    context = _context(cells[0], each, steps, template.name or "")
    text = _render(template, context)
    path = f"images/{first.name}/Dockerfile"
    _refuse_injection(
        parse_dockerfile(text, path=path), parse_dockerfile(_render(template, _neutral(context)), path=path)
    )
    return text


def drift(path: Path, text: str, *, shown_as: str = "") -> str:
    """A unified diff from the committed file to what would be rendered; empty if they agree."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    return "".join(
        difflib.unified_diff(
            old.splitlines(keepends=True),
            text.splitlines(keepends=True),
            fromfile=f"{shown_as} (committed)" if old else "/dev/null",
            tofile=f"{shown_as} (rendered)",
        ),
    )


def _check_agreement(name: str, claims: Sequence[Claims]) -> None:
    """One name is one PyTorch. Raises LockError."""
    first = claims[0]
    for other in claims[1:]:
        if _is(other) != _is(first):
            raise LockError(
                f"{name}: its architectures disagree: torch {_is(first)} on {first.arch}, torch {_is(other)} on "
                f"{other.arch}",
                hint=f"buildctl lock --upgrade {name}",
            )


def _is(claims: Claims) -> str:
    return f"{claims.torch.partition('+')[0]}, {claims.kind.titled(claims.built_for)}"


@lru_cache(maxsize=8)
def _environment(templates: Path) -> jinja2.Environment:
    """Keeps what it has compiled; a template that changed is read again."""
    environment = jinja2.Environment(  # noqa: S701 - not HTML: every value passes a filter of ours
        # the project's own first; a project needs none
        loader=jinja2.FileSystemLoader([templates, TEMPLATES]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(quote=_quote, json=_exec_form, comment=_comment)
    return environment


def _template(environment: jinja2.Environment, cell: Cell) -> jinja2.Template:
    names = [f"{stem}.Dockerfile.j2" for stem in (cell.name, cell.stem, cell.accelerator.name, "image")]
    try:
        return environment.select_template(names)
    except jinja2.TemplatesNotFound as error:
        raise DockerfileError(f"no template for {cell.name}: none of {', '.join(names)} in templates/") from error
    except jinja2.TemplateSyntaxError as error:
        raise DockerfileError(f"templates/{error.name}:{error.lineno}: {error.message}") from error


def _render(template: jinja2.Template, context: Mapping[str, Any]) -> str:
    try:
        return template.render(**context)
    except jinja2.TemplateError as error:
        raise DockerfileError(f"templates/{template.name}: {error}", hint="see docs/templates.md") from error


def _check_images(name: str, images: Sequence[ImageLock]) -> None:
    """One Dockerfile is for all architectures: so are PATH, user and commands of its base. Raises LockError."""
    facts = {(lock.path, lock.user, lock.commands) for lock in images}
    if len(facts) > 1:
        raise LockError(
            f"{name}: its base differs between architectures in PATH, user or commands: "
            + "; ".join(f"{lock.arch}: {lock.path}, {lock.user or 'root'}, {lock.commands}" for lock in images),
            hint="use an image that is the same on every architecture, or an accelerator for each",
        )


def _context(locked: LockedCell, each: Sequence[Claims], steps: Sequence[InstallStep], template: str) -> dict[str, Any]:
    cell, claims, base = locked.cell, each[0], locked.image
    title = f"{cell.name}: PyTorch {_is(claims)}, Python {claims.python}"
    return {
        "image": {
            "name": cell.name,
            "title": title,
            "template": template,
            "base": cell.base_image,
            "user": cell.user or (base.user if base else "") or f"{UID}:{UID}",
            "python": base is None or base.has_python,
            "local_bin": base is None or "/usr/local/bin" in base.path.split(":"),
        },
        "wheels": list(cell.wheels),
        "files": [list(pair) for pair in cell.files],
        "steps": [{"stage": s.stage, "title": s.title, "requirements": s.requirements} for s in steps],
        "env": sorted(_image_env(cell, claims, base).items()),
        "labels": sorted(_labels(cell, each, title).items()),
    }


def _image_env(cell: Cell, claims: Claims, base: ImageLock | None) -> dict[str, str]:
    path = base.path if base else PATH
    # where ours goes, if the base has no `python`
    path = path if "/usr/local/bin" in path.split(":") else f"{path}:/usr/local/bin"
    env = {
        "PATH": f"{HOME}/.local/bin:{path}",
        "LANG": "C.UTF-8",
        # any UID works: nothing has to be looked up in /etc/passwd
        "HOME": HOME,
        "USER": USER,
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor",  # noqa: S108 - a path inside the image
        **constraints_environment(),
    }
    env |= claims.kind.variables(claims.built_for)
    if "onnx" in cell.extras:
        env["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime's wheels report to their makers unless told not to
    return env | dict(cell.accelerator.env) | dict(cell.env)


def _labels(cell: Cell, each: Sequence[Claims], title: str) -> dict[str, str]:
    return {
        "org.opencontainers.image.description": title,
        "org.opencontainers.image.licenses": "BSD-3-Clause",
        **dict(cell.labels),
        "org.opencontainers.image.title": cell.name,
        "org.opencontainers.image.version": public_version(each[0].torch),
        "org.opencontainers.image.base.name": cell.base_image,
        **claim_labels(each),
    }


def _quote(value: object) -> str:
    """A double-quoted ENV or LABEL value in which nothing is special. Refuses control characters."""
    text = _plain(value)
    return '"' + re.sub(r'(["\\$])', r"\\\1", text) + '"'


def _exec_form(value: Sequence[str]) -> str:
    words = [json.dumps(_plain(word), ensure_ascii=False) for word in value]
    # one word a line where there are many, so that a diff shows what changed
    return "[" + (", " if len(words) <= 4 else ", \\\n    ").join(words) + "]"


def _comment(value: object) -> str:
    return _plain(value)


def _plain(value: object) -> str:
    text = str(value)
    if bad := re.search(r"[\x00-\x1f\x7f\x85\u2028\u2029]", text):
        raise DockerfileError(
            f"a value with a control character cannot go into a Dockerfile: {text!r} (at {bad.start()})",
            hint="remove the line break or control character from matrix.yaml",
        )
    return text


def _neutral(context: Any) -> Any:
    """The same with every value replaced by a harmless word: what the template alone intends."""
    match context:
        case dict():
            return {key: _neutral(value) for key, value in context.items()}
        case list():
            return [_neutral(value) for value in context]
        case bool():  # chooses lines of the template, and is in none
            return context
        case tuple():
            return tuple(_neutral(value) for value in context)
        case _:
            return "x"


def _refuse_injection(rendered: Sequence[Instruction], intended: Sequence[Instruction]) -> None:
    """A linter accepts an injected instruction, since it is valid; comparing instruction lists finds it."""

    def shape(instruction: Instruction) -> tuple[str, tuple[str, ...], int | None]:
        words = instruction.json_form
        return instruction.keyword, tuple(key for key, _ in instruction.flags), None if words is None else len(words)

    for got, wanted in zip(rendered, intended, strict=False):
        if shape(got) != shape(wanted):
            raise got.fail(f"a matrix value changed this instruction: {got.text[:120]!r}", hint="check matrix.yaml")
    if len(rendered) != len(intended):
        raise DockerfileError(
            f"{rendered[0].path}: {len(rendered)} instructions where the template has {len(intended)}",
            hint="a value in matrix.yaml adds or removes an instruction",
        )
