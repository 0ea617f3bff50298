"""The one error tree: a message (what and where), a hint (what to do), an exit code. Caught once, in the CLI."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Self


class ExitCode(IntEnum):
    """Everything that a command can end with; `meaning` is the row of docs/exit-codes.md. Each has one meaning."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        member = int.__new__(cls, value)
        member._value_, member.meaning = value, meaning
        return member

    OK = 0, "done; what was asked for is so"
    FAILED = 1, "a finding FAILED, a tag was refused, or a check said no"
    USAGE = 2, "the command line is wrong, say an unknown command, option or name"
    NOT_RUN = 3, "nothing FAILED, but an image or environment could not be asked anything, or not what was required"
    STALE = 4, "a lock, file of claims, rendered file or built image is missing, malformed or out of date"
    DOCKERFILE = 5, "a Dockerfile cannot be parsed, or has an instruction that the assemble engine refuses"
    ARTIFACT = 6, "a wheel or Debian package is malformed, or not what the lock pins"
    UNREACHABLE = 7, "a package index, mirror or registry does not answer, or no longer has what is locked"
    LAYOUT = 8, "an image or layout is damaged, or does not hold what was asked for"
    ENGINE = 9, "the build failed: the Docker engine, a worker that died, a full disk, a store that cannot be written"
    RUNTIME = 10, "nothing here runs the image: no Docker that answers, no sandbox, no environment"
    TOOL = 11, "a program that buildctl calls is missing, failed, or ran into its deadline"
    REGISTRY = 12, "a registry answered: it has no such thing, or refuses"
    KEY = 13, "a signing key cannot be used, or a signature cannot be made"
    IMPOSSIBLE = 14, "the combination that was named cannot exist"
    SETTINGS = 15, "matrix.yaml is missing or wrong, or the configuration of pip or uv is"
    UNSOLVABLE = (
        16,
        "what matrix.yaml asks for cannot be locked: it does not exist, or does not fit together",
    )
    FILE = 17, "a file cannot be read or written, or is not what it should be"
    BUG = 70, "an error that buildctl does not know: please report it with its traceback"
    HUNG_UP = 129, "ended by SIGHUP: the terminal was closed"
    INTERRUPTED = 130, "ended by Ctrl-C (SIGINT)"
    TERMINATED = 143, "ended by SIGTERM"


class BuildctlError(Exception):
    """Anything the user can act on.

    `message` says what is wrong and where (file, line or key path); `hint` what to do about it.
    """

    exit_code = ExitCode.FILE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:  # errors cross process boundaries with their hint
        return (_restore, (type(self), self.message, self.hint))


def _restore(cls: type[BuildctlError], message: str, hint: str | None) -> BuildctlError:
    return cls(message, hint=hint)


class UsageError(BuildctlError):
    """The command line, or a variable that stands for an option, asks for what cannot be meant."""

    exit_code = ExitCode.USAGE


class MatrixError(BuildctlError):
    """matrix.yaml is wrong, or does not have what was asked for."""

    exit_code = ExitCode.SETTINGS


class UnknownNameError(MatrixError):
    """A name or architecture that matrix.yaml does not have."""

    exit_code = ExitCode.USAGE


class ImpossibleError(MatrixError):
    """A combination that cannot exist."""

    exit_code = ExitCode.IMPOSSIBLE


class LockError(BuildctlError):
    """A lock or file of claims is missing, stale or malformed."""

    exit_code = ExitCode.STALE


class ResolveError(LockError):
    """What matrix.yaml asks for cannot be locked: it is not there, or does not fit together."""

    exit_code = ExitCode.UNSOLVABLE


class SourceError(LockError):
    """A package index or Debian archive does not answer, so nothing can be locked."""

    exit_code = ExitCode.UNREACHABLE


class SettingsError(LockError):
    """The configuration of pip, uv or apt on this machine is wrong."""

    exit_code = ExitCode.SETTINGS


class ResolverError(LockError):
    """uv, apt or the keys that it needs are missing or do not work."""

    exit_code = ExitCode.TOOL


class DriftError(BuildctlError):
    """A committed file differs from what would be generated (`--check`)."""

    exit_code = ExitCode.STALE


class DockerfileError(BuildctlError):
    """A Dockerfile that cannot be parsed, or an instruction that the assemble engine refuses."""

    exit_code = ExitCode.DOCKERFILE


class ArtifactError(BuildctlError):
    """A wheel or Debian package that is malformed, malicious, or not what the lock pins."""

    exit_code = ExitCode.ARTIFACT


class FetchError(BuildctlError):
    """An artifact could not be downloaded; `vanished` says that every source answered "not there"."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, message: str, *, hint: str | None = None, vanished: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.vanished = vanished

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore_fetch, (self.message, self.hint, self.vanished))


def _restore_fetch(message: str, hint: str | None, vanished: bool) -> FetchError:
    return FetchError(message, hint=hint, vanished=vanished)


class LayoutError(BuildctlError):
    """An OCI layout or image that breaks the specification or does not match its digests."""

    exit_code = ExitCode.LAYOUT


class WriteError(LayoutError):
    """A file of a layout, or one that was asked for, cannot be written."""

    exit_code = ExitCode.FILE


class EngineError(BuildctlError):
    """The build engine failed (the docker engine, a full disk, a worker that died)."""

    exit_code = ExitCode.ENGINE


class RuntimeUnavailableError(BuildctlError):
    """Nothing here can run the image; the reason becomes NOT RUN."""

    exit_code = ExitCode.RUNTIME


class ToolError(BuildctlError):
    """A program we call is missing, failed, or ran into its deadline."""

    exit_code = ExitCode.TOOL


class ProblemsError(MatrixError):
    """Several problems of one file, reported at once."""

    def __init__(self, source: str, problems: Sequence[str], *, hint: str | None = None) -> None:
        self.source, self.problems = source, tuple(problems)
        lines = "".join(f"\n  {p}" for p in problems)
        super().__init__(f"{source}: {len(problems)} problem{'s' if len(problems) != 1 else ''}{lines}", hint=hint)

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore_problems, (type(self), self.source, self.problems, self.hint))


def _restore_problems(
    cls: type[ProblemsError], source: str, problems: Sequence[str], hint: str | None
) -> ProblemsError:
    return cls(source, problems, hint=hint)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'cuda'?)`, or nothing when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
