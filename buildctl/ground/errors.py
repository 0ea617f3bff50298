"""The one error tree: a message (what and where), a hint (what to do), an exit code. Caught once, in the CLI."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class BuildctlError(Exception):
    """Anything the user can act on.

    `message` says what is wrong and where (file, line or key path); `hint` what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:  # errors cross process boundaries with their hint
        return (_restore, (type(self), self.message, self.hint))


def _restore(cls: type[BuildctlError], message: str, hint: str | None) -> BuildctlError:
    return cls(message, hint=hint)


class MatrixError(BuildctlError):
    """matrix.yaml is wrong, or a combination that cannot exist was asked for."""

    exit_code = 2


class LockError(BuildctlError):
    """A lock is missing, stale, malformed or cannot be resolved."""

    exit_code = 3


class DriftError(BuildctlError):
    """A committed file differs from what would be generated (`--check`)."""

    exit_code = 4


class DockerfileError(BuildctlError):
    """A Dockerfile that cannot be parsed, or an instruction that the assemble engine refuses."""

    exit_code = 5


class ArtifactError(BuildctlError):
    """A wheel or Debian package that is malformed, malicious, or not what the lock pins."""

    exit_code = 6


class FetchError(BuildctlError):
    """An artifact could not be downloaded; `vanished` says that every source answered "not there"."""

    exit_code = 7

    def __init__(self, message: str, *, hint: str | None = None, vanished: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.vanished = vanished

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore_fetch, (self.message, self.hint, self.vanished))


def _restore_fetch(message: str, hint: str | None, vanished: bool) -> FetchError:
    return FetchError(message, hint=hint, vanished=vanished)


class LayoutError(BuildctlError):
    """An OCI layout or image that breaks the specification or does not match its digests."""

    exit_code = 8


class EngineError(BuildctlError):
    """The build engine failed (the docker engine, a full disk, a worker that died)."""

    exit_code = 9


class RuntimeUnavailableError(BuildctlError):
    """Nothing here can run the image; the reason becomes NOT RUN."""

    exit_code = 10


class ToolError(BuildctlError):
    """A program we call is missing, failed, or ran into its deadline."""

    exit_code = 11


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
