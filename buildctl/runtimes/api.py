"""What can run an image: a runtime starts a session on one image, a session runs commands in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from buildctl.oci.image import Descriptor, ImageConfig

# What an emulated image's environment gets besides its own: a processor without pointer authentication (which Debian's
# arm64 programs use on every call, and QEMU computes with a slow cipher) and without SVE (computed element by element).
# `import torch` takes 10 s of processor time instead of 48 with QEMU 7.2 and torch 2.6. `max` without the two does as
# well there, but with QEMU 11 it keeps SME, and that kills a DataLoader's workers. neoverse-n1 is known from QEMU 7.0.
EMULATION_ENV: Mapping[str, Mapping[str, str]] = {"arm64": {"QEMU_CPU": "neoverse-n1"}, "amd64": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """One image of an OCI layout: `descriptor` is its manifest's, `name` the cell's id, `arch` Docker's word."""

    layout: Path
    descriptor: Descriptor
    name: str
    arch: str
    config: ImageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command in an image ended.

    `returncode` is negative for a signal (subprocess's convention) and None when the deadline killed it. `stdout` and
    `stderr` are cut to their last megabytes if a program prints without end. `seconds` is wall time.
    """

    returncode: int | None
    stdout: str
    stderr: str
    timed_out: bool
    seconds: float


class Session(Protocol):
    """Runs commands in one image; each starts from the pristine image, and nothing is kept between them."""

    @property
    def emulated(self) -> str | None:
        """The emulator, e.g. "qemu-aarch64", when the image's architecture is not the machine's."""

    @property
    def gpus(self) -> bool:
        """Whether commands see the host's GPUs of the kind that the image is built for; `gpus_reason` says why not."""

    @property
    def gpus_reason(self) -> str: ...

    @property
    def ownership(self) -> bool:
        """Whether files inside have the owners the image gives them (not in a sandbox without root)."""

    @property
    def at_once(self) -> int:
        """How many commands may run at the same time, each `run` in a thread; `stop` ends all of them."""

    def stop(self) -> None: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: str = "",
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        read_only: bool = True,
        tmp: bool = True,
        network: bool = False,
        through_entrypoint: bool = False,
    ) -> Outcome:
        """Run `argv` (looked up on the image's PATH) in the image's WORKDIR, SIGKILL everything after `timeout` s.

        The environment is the image's, HOME if the image sets none, and `env` on top. `user` is `UID`, `UID:GID` or a
        name, by default the image's USER. With `read_only` the root is read-only and /tmp a fresh tmpfs, or with
        `tmp=False` as read-only as the rest; otherwise writes go to a throwaway layer. `through_entrypoint`
        puts the image's ENTRYPOINT in front, and CMD when `argv` is empty, as `docker run` does.
        """


class Runtime(Protocol):
    @property
    def name(self) -> str: ...

    def start(self, image: ImageRef) -> AbstractContextManager[Session]:
        """Raises RuntimeUnavailableError, with the reason and a hint, if the image cannot run here."""
