"""A parsed Dockerfile to the operations of the assemble engine, or a refusal before any work: file, line and hint.

Every instruction of every stage that the image needs is either understood or refused; nothing is skipped.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildctl.dockerfile.context import OTHER_ENGINE, context_entries, merged, refuse_dockerignore
from buildctl.dockerfile.installer import INSTALLER_SECRETS, REQUIREMENTS, pins, require_installer
from buildctl.dockerfile.parse import Instruction, assignments, expand, words
from buildctl.oci.entry import Entry
from buildctl.oci.image import ImageConfig, Platform

OUT = "out/"  # below it a stage lays down what the image is to get
FILES = "files/"  # the same, with folders and modes that follow from the place alone
_NOTHING = ImageConfig(platform=Platform(architecture=""))
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelsLayer:
    """The locked wheels of one install step for this platform."""

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
    """Plan the last stage of a Dockerfile. Raises DockerfileError for the first unsupported instruction."""
    refuse_dockerignore(instructions[0], given.context)
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
                raise instruction.fail("only ARG may come before the first FROM")
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
            raise instruction.fail(f"{base} is a tool, not a base", hint="use the base: ARG BASE=base, FROM ${BASE}")
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
                raise instruction.fail(f"the assemble engine does not support --{key}={value}", hint=OTHER_ENGINE)

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
        if not stage.has_cmd:  # as in Docker: a CMD of the base belongs to the base's ENTRYPOINT
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
                f"assemble runs nothing from an image, it only installs locked wheels: {instruction.text[:80]!r}",
                hint=OTHER_ENGINE,
            )
        for key, value in instruction.flags:
            if (key, value) not in INSTALLER_SECRETS:
                raise instruction.fail(f"the assemble engine does not support --{key}={value}", hint=OTHER_ENGINE)
        require_installer(stage.placed, instruction)
        if not argv[1:]:
            return  # sets time stamps, which are always the same here
        stage.installed.append(
            WheelsLayer(
                names=pins(argv[1:], instruction, self.given.arch),
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
        entries = list(context_entries(instruction, self.given.context, sources, place))
        stage.operations.append(FilesLayer(entries=tuple(e for e, _ in entries), created_by=_text(instruction)))
        stage.out += [replace(e, path=e.path.removeprefix(OUT)) for e, _ in entries if e.path.startswith(OUT)]
        own = [replace(e, path=e.path.removeprefix(FILES)) for e, _ in entries if e.path.startswith(FILES)]
        stage.out = merged(stage.out, own, instruction) if own else stage.out
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
                "the assemble engine can only copy installed wheels or context files from another stage: "
                "COPY --link --from=STAGE /out/ /",
                hint=OTHER_ENGINE,
            )
        if installed and files:
            raise instruction.fail(
                f"{source} has both wheels and context files in /out", hint="give each of them a stage of its own"
            )
        if instruction.flag("chown") or instruction.flag("chmod"):
            raise instruction.fail("files in /out keep their owner and mode", hint=OTHER_ENGINE)
        stage.operations += installed or [FilesLayer(entries=tuple(files), created_by=_text(instruction))]

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
