"""`buildctl test env:PATH`: somebody's environment, tested with the image probes and without a container.

Expects what its torch claims, read from its files; what it does not claim is NOT RUN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from buildctl.console.log import say
from buildctl.ground.clock import now, rfc3339
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.lock.claims import glibc_floor, nvidia_version
from buildctl.matrix.accelerators import CUDA, AcceleratorKind, kind_of, short_version, versions_in
from buildctl.matrix.arch import SPELLINGS, arch_named
from buildctl.runtimes.interpreter import Interpreter, find_interpreter
from buildctl.runtimes.native import NativeRuntime
from buildctl.testing.installed import Installed, read_installed
from buildctl.testing.listener import NOBODY, Listener
from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.findings import test_environment
from buildctl.testing.report import Report, following

PREFIX = "env:"
_IMPORT = 300.0  # seconds; a cold network file system is slow
_PYTHON = re.compile(r"cp(\d)(\d+)-cp\1\2")
_NOT_INSTALLED = "not installed in this environment"


def names_environment(text: str) -> bool:
    return text.startswith(PREFIX)


def test_environments(texts: Sequence[str], *, listener: Listener = NOBODY) -> tuple[Report, ...]:
    """Ask each environment (env:PATH). Reports are not kept: they are not about cells of the matrix.

    Raises RuntimeUnavailableError, before any test, for a path that does not exist, is not a Python, or is a Python
    whose torch is missing or does not import.
    """
    found = [(text, find_interpreter(text.removeprefix(PREFIX))) for text in texts]
    known = [(text, interpreter, read_installed(interpreter)) for text, interpreter in found]
    for _, interpreter, _ in known:
        _refuse_broken(interpreter)
    reports = []
    for text, interpreter, installed in known:
        say(f"testing {text}")
        listener.began(text)
        expected = expected_of_environment(interpreter, installed)
        report = test_environment(interpreter, expected, name=text, digest=installed.digest, on_finding=listener.found)
        reports.append(following(report, None, rfc3339(now())))
        listener.ended(reports[-1])
    return tuple(reports)


def _refuse_broken(interpreter: Interpreter) -> None:
    """Otherwise every finding would fail for the same reason."""
    with NativeRuntime().enter(interpreter) as session:
        done = session.run(["python", "-c", "import torch"], timeout=_IMPORT)
    if done.returncode == 0:
        return
    said = "the import hangs" if done.timed_out else (done.stderr.strip() or f"exit code {done.returncode}")
    raise RuntimeUnavailableError(
        f"torch in {interpreter.torch} does not import: {said.splitlines()[-1][:400]}",
        hint=f"{interpreter.python} -c 'import torch' shows the whole error",
    )


def expected_of_environment(interpreter: Interpreter, installed: Installed) -> Expected:
    """`unclaimed` are findings about which this torch claims nothing."""
    said, versions = installed.said, installed.distributions
    built_for = {name: short_version(text) for name, text in versions_in(said).items()}
    kind = kind_of(built_for, native=bool(installed.facts and installed.facts.mps))
    glibc = glibc_floor(installed.tags)
    return Expected(
        torch=installed.torch,
        torchvision=versions.get("torchvision"),
        torchaudio=versions.get("torchaudio"),
        python=_python(interpreter, installed.tags),
        arch=_arch(interpreter, installed.tags),
        accelerator=kind.name,
        versions=built_for,
        built=tuple(dict.fromkeys(filter(None, (kind.device, kind.backend)))),
        never=() if built_for else (CUDA.name,),
        distributions=versions,
        gpu_architectures=(*installed.facts.gpu_architectures, *installed.facts.ptx) if installed.facts else None,
        build=said["__version__"],
        cudnn=nvidia_version(versions, "nvidia-cudnn"),
        nccl=nvidia_version(versions, "nvidia-nccl"),
        glibc=glibc if interpreter.system == "Linux" else None,
        system=interpreter.system,
        native=True,
        environment=True,
        unclaimed=_unclaimed(installed, kind, mac=interpreter.system == "Darwin"),
    )


def _unclaimed(installed: Installed, kind: AcceleratorKind, *, mac: bool) -> dict[str, str]:
    reasons: dict[str, str] = {}
    if "numpy" not in installed.distributions:
        reasons["numpy"] = _NOT_INSTALLED
    if installed.facts is None:
        reasons["gpu architectures"] = installed.unread
        if mac:  # then it is unknown whether it is built for MPS
            reasons |= dict.fromkeys(("backends", "devices"), installed.unread)
    if kind.bundled:
        for name, stem in (("cudnn version", "nvidia-cudnn"), ("nccl version", "nvidia-nccl")):
            if nvidia_version(installed.distributions, stem) is None:
                reasons[name] = f"no distribution {stem} with a version: the library was installed another way"
    return reasons


def _python(interpreter: Interpreter, tags: Sequence[str]) -> str:
    """The Python that torch's wheel is for; the running one if no tag tells."""
    for tag in tags:
        if found := _PYTHON.match(tag):
            return f"{found[1]}.{found[2]}"
    return f"{interpreter.version[0]}.{interpreter.version[1]}"


def _arch(interpreter: Interpreter, tags: Sequence[str]) -> str:
    machines = [machine for tag in tags for machine in SPELLINGS if tag.endswith(f"_{machine}")]
    machine = machines[0] if machines else interpreter.machine
    return arch_named(machine)
