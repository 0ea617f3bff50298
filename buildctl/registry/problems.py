"""What a registry can answer besides yes: three classes, for three different reactions."""

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
    """The registry answered: not found."""


class RefusedError(RegistryError):
    """The registry refuses, however often it is asked."""


class ForbiddenError(RefusedError):
    """403: no permission; or not found, as Artifactory puts it to users who may write but not search."""


class UnavailableError(RegistryError):
    """The registry did not answer, or said "not now", until we gave up."""

    exit_code = ExitCode.UNREACHABLE


class AgainError(Exception):
    """One attempt failed, the next may succeed. `wait` is what the registry asked for, in seconds; `unreached` says
    that nothing has ever answered there.
    """

    def __init__(self, reason: str, *, wait: float | None = None, unreached: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.unreached = unreached
