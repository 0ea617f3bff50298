"""What commands and their group are here: sections in the help, -v and -q everywhere, one voice for what is unknown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import click

from buildctl.ground.errors import ExitCode, UsageError, did_you_mean

ENVIRONMENT = {
    "BUILDCTL_CACHE": "Folder of downloads and layers (~/.cache/buildctl)",
    "BUILDCTL_CACHE_FROM": "The same as --cache-from; also _TRUST, _TO, _KEY",
    "BUILDCTL_DEBIAN_MIRROR": "Debian mirror of this machine: https://HOST/debian",
    "BUILDCTL_LAYOUT": "The same as --layout",
    "BUILDCTL_SIGN_KEY": "Same as --sign-key; its password: COSIGN_PASSWORD",
    "BUILDCTL_VERIFY_KEY": "The same as --key of verify",
    "DOCKER_HOST": "Which Docker; also DOCKER_CONTEXT, DOCKER_CONFIG",
    "HTTPS_PROXY": "Proxy for HTTPS; NO_PROXY: hosts to reach without it",
    "NO_COLOR": "No colours, if it is not empty",
    "REQUESTS_CA_BUNDLE": "CA bundle for HTTPS; goes before SSL_CERT_FILE",
    "SOURCE_DATE_EPOCH": "Time stamp of images, in seconds since 1970",
    "SSL_CERT_FILE": "CA bundle for HTTPS, for uv as well",
    "UV_DEFAULT_INDEX": "Package index; settings of uv and pip count, too",
}
_LEVEL = "buildctl.level"


def _voice(context: click.Context, option: click.Parameter, value: bool) -> None:
    """How much of the story is told. It may stand before and after the command's name, but not both ways."""
    if not value or context.resilient_parsing:
        return
    if context.meta.setdefault(_LEVEL, option.name) != option.name:
        raise UsageError("--verbose and --quiet exclude each other", hint="leave out one of them")
    from buildctl.console import log

    log.set_level(log.Level.VERBOSE if option.name == "verbose" else log.Level.QUIET)


def _voices() -> list[click.Parameter]:
    shared: dict[str, Any] = {"is_flag": True, "expose_value": False, "is_eager": True, "callback": _voice}
    return [
        click.Option(["-v", "--verbose"], help="Show what is run and fetched, and the causes of errors.", **shared),
        click.Option(["-q", "--quiet"], help="Show only the answer and errors.", **shared),
    ]


class Command(click.Command):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _voices()


class CommandGroup(click.Group):
    """`sections` are the groups of the help; the commands in them are all that there are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _voices()
        self.sections: dict[str, tuple[click.Command, ...]] = {}

    def fill(self, sections: Mapping[str, Sequence[click.Command]]) -> None:
        for title, commands in sections.items():
            self.sections[title] = tuple(commands)
            for command in commands:
                self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        return [str(command.name) for commands in self.sections.values() for command in commands]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and args[0] not in self.commands:
            raise UsageError(
                f"no command {args[0]!r}{did_you_mean(args[0], self.commands)}", hint="`buildctl --help` lists them"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, self.commands))
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(str(c.name).ljust(width), str(c.short_help)) for c in commands])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if ctx.parent is not None:
            return
        with formatter.section("Environment"):
            formatter.write_dl(list(ENVIRONMENT.items()))
        with formatter.section("Exit codes"):
            rows = (ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.NOT_RUN)
            formatter.write_dl([(str(int(code)), code.meaning) for code in rows])
            formatter.write_text("The others: docs/exit-codes.md")


def command_group(name: str, short: str, *commands: click.Command) -> CommandGroup:
    """A group below `buildctl`: buildctl NAME COMMAND."""
    group = CommandGroup(name, short_help=short, help=f"{short}.")
    group.fill({"Commands": commands})
    return group


def command(short: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command; `short` is its line in `buildctl --help` and in the README. `settings` are click's."""

    def made(function: Callable[..., Any]) -> click.Command:
        return click.command(cls=Command, short_help=short, context_settings=settings)(function)

    return made


def usage_error(error: click.ClickException) -> UsageError:
    """What click complains about, in our words."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "buildctl"
    return UsageError(_message(error, context), hint=f"`{path} --help` shows what it takes")


def _message(error: click.ClickException, context: click.Context | None) -> str:
    match error:
        case click.NoSuchOption():
            known = [name for p in context.command.get_params(context) for name in p.opts] if context else []
            return f"no option {error.option_name}{did_you_mean(error.option_name, known)}"
        case click.MissingParameter():
            return (
                f"missing {error.param.param_type_name if error.param else 'argument'} {_named(error.param, context)}"
            )
        case click.BadParameter(param=click.Parameter() as param):
            near = did_you_mean(str(_given(error)), getattr(param.type, "choices", ()))
            return f"{_named(param, context)}: {_lower(error.message)}{near}"
    return _lower(error.format_message())


def _named(param: click.Parameter | None, context: click.Context | None) -> str:
    if param is None:
        return "?"
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return param.make_metavar(cast("click.Context", context))


def _given(error: click.BadParameter) -> str:
    """Click tells a value only in its sentence: "'xz' is not one of 'zstd', 'gzip'."."""
    found = re.match(r"'([^']*)' is not one of", error.message)
    return found[1] if found else ""


def _lower(sentence: str) -> str:
    sentence = sentence.strip().removesuffix(".")
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() else sentence
