"""A parsed Dockerfile to what the assemble engine will do, or a refusal before any work: file, line and the way out.

Every instruction of every stage that the image needs is either understood or refused; nothing is skipped.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from buildctl.dockerfile.common import common_file
from buildctl.dockerfile.parse import Instruction, assignments, expand, words
from buildctl.ground.errors import DockerfileError
from buildctl.matrix.arch import ARCHES
from buildctl.oci.entry import Entry, Kind
from buildctl.oci.image import ImageConfig, Platform

INSTALLER = "/usr/local/bin/install-wheels"
REQUIREMENTS = "/lock/requirements.txt"
OUT = "out/"  # below it a stage lays down what the image is to get
# How install-wheels reaches an index behind a company's proxy under BuildKit; never part of what it installs.
INSTALLER_SECRETS = (("mount", "type=secret,id=ca-bundle"), ("mount", "type=secret,id=uv-config"))
_NOTHING = ImageConfig(platform=Platform(architecture=""))
OTHER_ENGINE = "build this image with Docker: --engine docker"
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelsLayer:
    """The locked wheels of one install step that are meant for this platform."""

    names: tuple[tuple[str, str], ...]  # normalised name, version
    requirements: Path  # the lock that the Dockerfile names
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesLayer:
    """Files of the build context."""

    entries: tuple[Entry, ...]
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """An instruction that only changes the configuration."""

    created_by: str


Operation = WheelsLayer | FilesLayer | Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to put on top of which base. `config` has no diff ids and no history yet."""

    base: str
    operations: tuple[Operation, ...]
    config: ImageConfig
    workdirs: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Stage:
    base: str
    config: ImageConfig
    native: bool  # FROM --platform=$BUILDPLATFORM
    tool: bool = False  # a program for the installer; nothing of it reaches the image
    args: dict[str, str] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    placed: dict[str, Path] = field(default_factory=dict)
    installed: list[WheelsLayer] = field(default_factory=list)
    out: list[Entry] = field(default_factory=list)  # files of the context that lie below /out
    workdirs: list[str] = field(default_factory=list)
    has_cmd: bool = False

    @property
    def variables(self) -> dict[str, str]:
        return self.args | dict(self.config.env)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInput:
    """Where a Dockerfile is executed: `contexts` are the named contexts and their configuration (None: a tool)."""

    arch: str
    build_arch: str
    context: Path
    contexts: Mapping[str, ImageConfig | None]
    build_args: Mapping[str, str] = field(default_factory=dict)


def plan_image(instructions: Sequence[Instruction], given: PlanInput) -> Plan:
    """Plan the last stage of a Dockerfile. Raises DockerfileError naming the first thing that cannot be done."""
    _refuse_dockerignore(instructions[0], given.context)
    return _Planner(instructions, given).plan()


class _Planner:
    """Walks the stages that the last one needs, in file order."""

    def __init__(self, instructions: Sequence[Instruction], given: PlanInput) -> None:
        self.given = given
        self.platform_args = {
            "TARGETARCH": given.arch,
            "TARGETOS": "linux",
            "TARGETPLATFORM": f"linux/{given.arch}",
            "BUILDARCH": given.build_arch,
            "BUILDOS": "linux",
            "BUILDPLATFORM": f"linux/{given.build_arch}",
        }
        self.global_args = dict(self.platform_args)
        self.groups = self._split(instructions)
        self.stages: dict[str, _Stage] = {}

    def plan(self) -> Plan:
        needed = self._needed()
        last: _Stage | None = None
        for position, group in enumerate(self.groups):
            if position not in needed:
                continue
            last = self._begin(group[0])
            for instruction in group[1:]:
                self._execute(last, instruction)
            self.stages[self._name(group[0]) or str(position)] = last
            self.stages[str(position)] = last
        assert last is not None  # noqa: S101 - the parser refuses a Dockerfile without FROM
        if last.installed:
            raise self.groups[-1][0].fail(
                "wheels are installed under /out of the image itself",
                hint="install them in a stage of their own and COPY --link --from=STAGE /out/ /",
            )
        if last.native:
            raise self.groups[-1][0].fail("the image's last stage is pinned to the build platform")
        return Plan(
            base=last.base,
            operations=tuple(last.operations),
            config=last.config,
            workdirs=tuple(last.workdirs),
        )

    def _split(self, instructions: Sequence[Instruction]) -> list[list[Instruction]]:
        groups: list[list[Instruction]] = []
        for instruction in instructions:
            if instruction.keyword == "FROM":
                groups.append([instruction])
            elif groups:
                groups[-1].append(instruction)
            elif instruction.keyword == "ARG":
                self.global_args |= self._arg(instruction, self.global_args)
            else:
                raise instruction.fail("only ARG may stand before the first FROM")
        return groups

    def _arg(self, instruction: Instruction, variables: Mapping[str, str]) -> dict[str, str]:
        found = {}
        for word in words(instruction, variables):
            name, equals, default = word.partition("=")
            if name in self.platform_args:
                found[name] = self.platform_args[name]
            elif name in self.given.build_args:
                found[name] = self.given.build_args[name]
            elif equals:
                found[name] = default
            elif name in self.global_args:
                found[name] = self.global_args[name]
        return found

    def _from(self, instruction: Instruction) -> str:
        parts = words(instruction, self.global_args)
        if len(parts) not in (1, 3) or (len(parts) == 3 and parts[1].upper() != "AS") or not parts[0]:
            raise instruction.fail(f"not FROM IMAGE [AS NAME]: {instruction.text[:80]!r}")
        return parts[0]

    def _name(self, instruction: Instruction) -> str | None:
        parts = words(instruction, self.global_args)
        if len(parts) != 3:
            return None
        if not _STAGE_NAME.fullmatch(parts[2].lower()):
            raise instruction.fail(f"not a stage name: {parts[2]!r}")
        return parts[2].lower()

    def _needed(self) -> set[int]:
        """Positions of the stages that the last one reaches through FROM and COPY --from, as BuildKit does."""
        positions = {name: i for i, group in enumerate(self.groups) if (name := self._name(group[0]))}
        positions |= {str(i): i for i in range(len(self.groups))}
        needed, open_positions = set[int](), [len(self.groups) - 1]
        while open_positions:
            position = open_positions.pop()
            if position in needed:
                continue
            needed.add(position)
            group = self.groups[position]
            references = [self._from(group[0]).lower()]
            references += [source.lower() for i in group[1:] if (source := i.flag("from"))]
            # a stage can only refer to earlier ones; a named context of the same name wins
            open_positions += [
                positions[r]
                for r in references
                if positions.get(r, position) < position and r not in self.given.contexts
            ]
        return needed

    def _begin(self, instruction: Instruction) -> _Stage:
        base = self._from(instruction)
        self._allow_flags(instruction, {"platform"})
        platform = expand(instruction.flag("platform") or "", self.global_args)
        native = instruction.flag("platform") is not None
        if native and platform != self.platform_args["BUILDPLATFORM"]:
            raise instruction.fail(f"--platform={platform} is not $BUILDPLATFORM", hint=OTHER_ENGINE)
        if base in self.given.contexts:
            config = self.given.contexts[base]
            if config is not None:
                return _Stage(base=base, config=config, native=native)
            if native:
                return _Stage(base=base, config=_NOTHING, native=True, tool=True)
            raise instruction.fail(f"{base} is a tool, not a base", hint="FROM the base: ARG BASE=base, FROM ${BASE}")
        if (parent := self.stages.get(base.lower())) is not None:
            return replace(
                parent,
                native=native or parent.native,
                args={},
                operations=list(parent.operations),
                placed=dict(parent.placed),
                installed=list(parent.installed),
                out=list(parent.out),
                workdirs=list(parent.workdirs),
                has_cmd=False,
            )
        known = ", ".join(sorted(name for name, config in self.given.contexts.items() if config is not None))
        raise instruction.fail(
            f"{base} is neither an earlier stage nor a base that assemble knows ({known})",
            hint=f"declare it under bases in matrix.yaml, or {OTHER_ENGINE}",
        )

    def _execute(self, stage: _Stage, instruction: Instruction) -> None:
        if stage.tool:
            raise instruction.fail(f"{stage.base} is a tool: it can only be copied from", hint=OTHER_ENGINE)
        action = _ACTIONS.get(instruction.keyword)
        if action is None:
            raise instruction.fail("the assemble engine cannot execute this instruction", hint=OTHER_ENGINE)
        action(self, stage, instruction)

    def _allow_flags(self, instruction: Instruction, allowed: set[str]) -> None:
        for key, value in instruction.flags:
            if key not in allowed:
                raise instruction.fail(f"the assemble engine does not know --{key}={value}", hint=OTHER_ENGINE)

    # one method per instruction

    def do_arg(self, stage: _Stage, instruction: Instruction) -> None:
        stage.args |= self._arg(instruction, stage.variables)

    def do_env(self, stage: _Stage, instruction: Instruction) -> None:
        env = dict(stage.config.env) | dict(assignments(instruction, stage.variables))
        stage.config = replace(stage.config, env=tuple(env.items()))
        self._setting(stage, instruction)

    def do_label(self, stage: _Stage, instruction: Instruction) -> None:
        labels = dict(stage.config.labels) | dict(assignments(instruction, stage.variables))
        stage.config = replace(stage.config, labels=labels)
        self._setting(stage, instruction)

    def do_user(self, stage: _Stage, instruction: Instruction) -> None:
        stage.config = replace(stage.config, user=self._one_word(stage, instruction))
        self._setting(stage, instruction)

    def do_workdir(self, stage: _Stage, instruction: Instruction) -> None:
        directory = posixpath.join(stage.config.working_dir or "/", self._one_word(stage, instruction))
        stage.config = replace(stage.config, working_dir=posixpath.normpath(directory))
        stage.workdirs.append(stage.config.working_dir)
        self._setting(stage, instruction)

    def do_entrypoint(self, stage: _Stage, instruction: Instruction) -> None:
        stage.config = replace(stage.config, entrypoint=self._command(instruction))
        if not stage.has_cmd:  # as Docker does: a CMD of the base belongs to the base's ENTRYPOINT
            stage.config = replace(stage.config, cmd=())
        self._setting(stage, instruction)

    def do_cmd(self, stage: _Stage, instruction: Instruction) -> None:
        stage.config, stage.has_cmd = replace(stage.config, cmd=self._command(instruction)), True
        self._setting(stage, instruction)

    def do_expose(self, stage: _Stage, instruction: Instruction) -> None:
        ports = [p if "/" in p else f"{p}/tcp" for p in words(instruction, stage.variables)]
        stage.config = replace(stage.config, exposed_ports=tuple(dict.fromkeys([*stage.config.exposed_ports, *ports])))
        self._setting(stage, instruction)

    def do_volume(self, stage: _Stage, instruction: Instruction) -> None:
        volumes = dict.fromkeys([*stage.config.volumes, *words(instruction, stage.variables)])
        stage.config = replace(stage.config, volumes=tuple(volumes))
        self._setting(stage, instruction)

    def do_stopsignal(self, stage: _Stage, instruction: Instruction) -> None:
        stage.config = replace(stage.config, stop_signal=self._one_word(stage, instruction))
        self._setting(stage, instruction)

    def do_run(self, stage: _Stage, instruction: Instruction) -> None:
        argv = instruction.json_form
        if argv is None or argv[:1] != ("install-wheels",) or not stage.native:
            raise instruction.fail(
                f"assemble runs nothing of an image, it only installs locked wheels: {instruction.text[:80]!r}",
                hint=OTHER_ENGINE,
            )
        for key, value in instruction.flags:
            if (key, value) not in INSTALLER_SECRETS:
                raise instruction.fail(f"the assemble engine does not know --{key}={value}", hint=OTHER_ENGINE)
        self._require_installer(stage, instruction)
        if not argv[1:]:
            return  # sets time stamps, which are always the same here
        stage.installed.append(
            WheelsLayer(
                names=_pins(argv[1:], instruction, self.given.arch),
                requirements=stage.placed[REQUIREMENTS],
                created_by=_text(instruction),
            ),
        )

    def do_copy(self, stage: _Stage, instruction: Instruction) -> None:
        self._allow_flags(instruction, {"from", "link", "chmod", "chown"})
        *sources, target = words(instruction, stage.variables) or ("",)
        if not sources:
            raise instruction.fail("needs a source and a destination")
        if (source := instruction.flag("from")) is not None:
            self._copy_from(stage, instruction, expand(source, stage.variables).lower(), sources, target)
            return
        place = posixpath.join(stage.config.working_dir or "/", target) + ("/" if target.endswith("/") else "")
        entries = list(_context_entries(instruction, self.given.context, sources, place))
        stage.operations.append(FilesLayer(entries=tuple(e for e, _ in entries), created_by=_text(instruction)))
        stage.out += [replace(e, path=e.path.removeprefix(OUT)) for e, _ in entries if e.path.startswith(OUT)]
        stage.placed |= {f"/{entry.path}": path for entry, path in entries}

    def _copy_from(
        self, stage: _Stage, instruction: Instruction, source: str, paths: Sequence[str], target: str
    ) -> None:
        if source not in self.stages:
            raise instruction.fail(f"--from={source} is not an earlier stage", hint=OTHER_ENGINE)
        if self.stages[source].tool and stage.native:
            return  # it never reaches the image, since only /out/ is ever copied from a stage that installs
        installed, files = self.stages[source].installed, self.stages[source].out
        if list(paths) != ["/out/"] or target != "/" or not (installed or files):
            raise instruction.fail(
                "from another stage the assemble engine can only copy installed wheels or files of the context: "
                "COPY --link --from=STAGE /out/ /",
                hint=OTHER_ENGINE,
            )
        if installed and files:
            raise instruction.fail(
                f"{source} has wheels and files of the context in /out", hint="give each of them a stage of its own"
            )
        if instruction.flag("chown") or instruction.flag("chmod"):
            raise instruction.fail("what lies in /out keeps its owner and mode", hint=OTHER_ENGINE)
        stage.operations += installed or [FilesLayer(entries=tuple(files), created_by=_text(instruction))]

    def _require_installer(self, stage: _Stage, instruction: Instruction) -> None:
        script = stage.placed.get(INSTALLER)
        # what the assemble engine does for the instruction is what this very script does under BuildKit
        if script is None or script.read_bytes() != common_file("install-wheels"):
            raise instruction.fail(
                f"{INSTALLER} is not the install-wheels script that this buildctl knows",
                hint=f"COPY the unchanged common/install-wheels to {INSTALLER}, or {OTHER_ENGINE}",
            )
        if REQUIREMENTS not in stage.placed:
            raise instruction.fail(
                f"no lock at {REQUIREMENTS}", hint=f"COPY NAME/requirements.${{TARGETARCH}}.txt {REQUIREMENTS}"
            )

    def _setting(self, stage: _Stage, instruction: Instruction) -> None:
        self._allow_flags(instruction, set())
        stage.operations.append(Setting(created_by=_text(instruction)))

    def _one_word(self, stage: _Stage, instruction: Instruction) -> str:
        found = words(instruction, stage.variables)
        if len(found) != 1 or not found[0]:
            raise instruction.fail(f"takes one word, not {instruction.text[:80]!r}")
        return found[0]

    def _command(self, instruction: Instruction) -> tuple[str, ...]:
        json_form = instruction.json_form
        return json_form if json_form is not None else ("/bin/sh", "-c", instruction.text)


_ACTIONS: Mapping[str, Callable[[_Planner, _Stage, Instruction], None]] = {
    "ARG": _Planner.do_arg,
    "ENV": _Planner.do_env,
    "LABEL": _Planner.do_label,
    "USER": _Planner.do_user,
    "WORKDIR": _Planner.do_workdir,
    "ENTRYPOINT": _Planner.do_entrypoint,
    "CMD": _Planner.do_cmd,
    "EXPOSE": _Planner.do_expose,
    "VOLUME": _Planner.do_volume,
    "STOPSIGNAL": _Planner.do_stopsignal,
    "RUN": _Planner.do_run,
    "COPY": _Planner.do_copy,
}


def _text(instruction: Instruction) -> str:
    flags = "".join(f"--{key}={value} " if value != "true" else f"--{key} " for key, value in instruction.flags)
    return f"{instruction.keyword} {flags}{instruction.text}"


def _refuse_dockerignore(first: Instruction, context: Path) -> None:
    for name in (f"{Path(first.path).name}.dockerignore", ".dockerignore"):
        if (context / name).exists():
            raise DockerfileError(f"{context / name}: the assemble engine does not read it", hint=OTHER_ENGINE)


def _pins(texts: Sequence[str], instruction: Instruction, arch: str) -> tuple[tuple[str, str], ...]:
    """NAME==VERSION words to pairs, without those whose marker excludes this platform."""
    environment = {
        "platform_machine": ARCHES[arch].machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    pins: list[tuple[str, str]] = []
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise instruction.fail(f"not a requirement: {text!r}: {error}") from error
        specifiers = list(requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==" or requirement.extras or requirement.url:
            raise instruction.fail(f"not NAME==VERSION: {text!r}", hint="only locked wheels can be installed")
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pins.append((re.sub(r"[-_.]+", "-", requirement.name).lower(), specifiers[0].version))
    return tuple(pins)


def _context_entries(
    instruction: Instruction, context: Path, sources: Sequence[str], target: str
) -> Iterator[tuple[Entry, Path]]:
    """Entries of a COPY from the build context, and the file behind each.

    Modes do not depend on the umask of whoever cloned: 0755 for directories and what its owner may execute, else 0644.
    """
    mode, owner = _octal(instruction), _owner(instruction)
    for source in sources:
        if any(c in source for c in "*?["):
            raise instruction.fail(f"wildcards are not supported: {source}", hint=f"name the files, or {OTHER_ENGINE}")
        path = context / source.lstrip("/")
        if not path.resolve().is_relative_to(context.resolve()):
            raise instruction.fail(f"{source} is outside the build context")
        if not path.exists():
            raise instruction.fail(f"no such file in the build context: {source}")
        for file, name in _files(path, target, many=len(sources) > 1):
            yield _entry(file, posixpath.normpath(name).strip("/"), mode, owner), file


def _files(path: Path, target: str, *, many: bool) -> Iterator[tuple[Path, str]]:
    """A file goes to `target`, or below it when that is a directory; of a directory the content goes below `target`."""
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            yield child, posixpath.join(target, child.relative_to(path).as_posix())
    else:
        yield path, posixpath.join(target, path.name) if many or target.endswith("/") else target


def _entry(path: Path, name: str, mode: int | None, owner: tuple[int, int]) -> Entry:
    uid, gid = owner
    if path.is_symlink():
        return Entry(path=name, kind=Kind.SYMLINK, mode=0o777, target=str(path.readlink()), uid=uid, gid=gid)
    executable = path.is_dir() or bool(path.stat().st_mode & 0o100)
    final = mode if mode is not None else (0o755 if executable else 0o644)
    if path.is_dir():
        return Entry(path=name, kind=Kind.DIRECTORY, mode=final, uid=uid, gid=gid)
    return Entry(path=name, mode=final, uid=uid, gid=gid, size=path.stat().st_size, body=FileBody(path))


@dataclass(frozen=True, slots=True)
class FileBody:
    path: Path

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk


def _octal(instruction: Instruction) -> int | None:
    text = instruction.flag("chmod")
    if text is None:
        return None
    if not re.fullmatch(r"0?[0-7]{3,4}", text):
        raise instruction.fail(
            f"--chmod={text}: only octal modes are supported", hint=f"write --chmod=0755, or {OTHER_ENGINE}"
        )
    return int(text, 8)


def _owner(instruction: Instruction) -> tuple[int, int]:
    text = instruction.flag("chown")
    if text is None:
        return 0, 0
    match = re.fullmatch(r"([0-9]+)(?::([0-9]+))?", text)
    if not match:
        raise instruction.fail(
            f"--chown={text}: only numbers are supported", hint=f"write --chown=1000:1000, or {OTHER_ENGINE}"
        )
    return int(match[1]), int(match[2] or match[1])
