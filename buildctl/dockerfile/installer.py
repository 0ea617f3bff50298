"""The install step of a Dockerfile: install-wheels, the lock that it reads, and the wheels that it names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from buildctl.dockerfile.common import common_file
from buildctl.dockerfile.context import OTHER_ENGINE
from buildctl.dockerfile.parse import Instruction
from buildctl.matrix.arch import ARCHES

INSTALLER = "/usr/local/bin/install-wheels"
REQUIREMENTS = "/lock/requirements.txt"
# How install-wheels reaches an index behind a corporate proxy under BuildKit; never part of what it installs.
INSTALLER_SECRETS = (("mount", "type=secret,id=ca-bundle"), ("mount", "type=secret,id=uv-config"))


def require_installer(placed: Mapping[str, Path], instruction: Instruction) -> None:
    """Refuse another script, or a step without a lock. `placed` are files of the context by their place."""
    script = placed.get(INSTALLER)
    # the assemble engine does the same as this exact script under BuildKit
    if script is None or script.read_bytes() != common_file("install-wheels"):
        raise instruction.fail(
            f"{INSTALLER} is not this buildctl's install-wheels script",
            hint=f"COPY the unchanged common/install-wheels to {INSTALLER}, or {OTHER_ENGINE}",
        )
    if REQUIREMENTS not in placed:
        raise instruction.fail(
            f"there is no lock at {REQUIREMENTS}", hint=f"COPY NAME/requirements.${{TARGETARCH}}.txt {REQUIREMENTS}"
        )


def pins(texts: Sequence[str], instruction: Instruction, arch: str) -> tuple[tuple[str, str], ...]:
    """NAME==VERSION words to pairs, without those whose marker excludes this platform."""
    environment = {
        "platform_machine": ARCHES[arch].machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    found: list[tuple[str, str]] = []
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise instruction.fail(f"not a requirement: {text!r}: {error}") from error
        specifiers = list(requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==" or requirement.extras or requirement.url:
            raise instruction.fail(f"not NAME==VERSION: {text!r}", hint="only locked wheels can be installed")
        if requirement.marker is None or requirement.marker.evaluate(environment):
            found.append((re.sub(r"[-_.]+", "-", requirement.name).lower(), specifiers[0].version))
    return tuple(found)
