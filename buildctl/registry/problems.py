"""What a registry can answer beside yes, as three classes that ask for three different reactions."""

from __future__ import annotations

from collections.abc import Sequence

from buildctl.ground.errors import BuildctlError, ExitCode


class RegistryError(BuildctlError):
    """A registry did not do what was asked. `codes` are its own words (distribution-spec, "error codes")."""

    exit_code = ExitCode.REGISTRY

    def __init__(self, message: str, *, hint: str | None = None, codes: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.codes = tuple(codes)


class AbsentError(RegistryError):
    """The registry answered: there is no such thing."""


class RefusedError(RegistryError):
    """The registry understood and will not, however often it is asked."""


class ForbiddenError(RefusedError):
    """403: no right to do that, or, as Artifactory says it to who may write but not search, no such thing."""


class UnavailableError(RegistryError):
    """The registry did not answer, or said "not now", until patience ran out."""

    exit_code = ExitCode.UNREACHABLE


class AgainError(Exception):
    """One attempt failed, the next may not. `wait` is what the registry asked for, in seconds."""

    def __init__(self, reason: str, *, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait
