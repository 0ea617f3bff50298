"""`buildctl doctor`: what this machine has for building, testing and running; the commands that fix what is missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from buildctl.artifacts.store import Store
from buildctl.console.table import size, wrapped
from buildctl.ground.errors import BuildctlError, ExitCode, RuntimeUnavailableError, ToolError
from buildctl.ground.machine import IN_LINUX, NEEDED
from buildctl.ground.run import run, which
from buildctl.host.facts import Host, this_host
from buildctl.lock.apt import KEYRING
from buildctl.matrix.accelerators import VERSIONED
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.project import Project
from buildctl.runtimes.devices import device_files, read_some

# Measured: the whole default matrix is 14 GB of artifacts and 16 GB of layers; one cuda image 3 and 3. Tests without
# Docker unpack what they test, once: as much again.
COMFORTABLE = 30 * 10**9
TIGHT = 8 * 10**9


class State(StrEnum):
    GOOD = "good"
    MISSING = "missing"
    WORTH = "worth having"


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptom:
    """`purpose`: build, lock, test, run or native. `mend` is the command that fixes it, empty if none is needed."""

    purpose: str
    what: str
    state: State
    detail: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        return {
            "for": self.purpose,
            "what": self.what,
            "state": str(self.state),
            "detail": self.detail,
            "mend": self.mend,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    host: Host
    symptoms: tuple[Symptom, ...]

    @property
    def exit_code(self) -> int:
        """1 when images cannot be built here."""
        lacking = any(s.state is State.MISSING and s.purpose == "build" for s in self.symptoms)
        return ExitCode.FAILED if lacking else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        return {"host": self.host.to_json(), "symptoms": [s.to_json() for s in self.symptoms]}

    def text(self) -> str:
        """First what this machine can do, and what prevents the rest; then every check."""
        lines = [*wrapped("", self.host.summary()), "", *self._answer()]
        width = max(len(s.what) for s in self.symptoms)
        for purpose in dict.fromkeys(s.purpose for s in self.symptoms):
            lines += ["", f"To {purpose}:"]
            for s in self.symptoms:
                if s.purpose == purpose:
                    lines += wrapped(f"  {s.state:<12}  {s.what:<{width}}  ", s.detail)
                    lines += [f"      {part}" for part in s.mend.split(" && ") if s.state is State.WORTH and part]
        return "\n".join(lines)

    def _answer(self) -> list[str]:
        purposes = dict.fromkeys(s.purpose for s in self.symptoms)
        lacking = {p: [s for s in self.symptoms if (s.purpose, s.state) == (p, State.MISSING)] for p in purposes}
        ready = [purpose for purpose, missing in lacking.items() if not missing]
        lines = [f"Ready to {_listed(ready)}."] if ready else []
        for purpose, missing in lacking.items():
            for s in missing:
                lines += wrapped(f"Not ready to {purpose}: ", f"{s.what}: {s.detail}")
                lines += [f"    {part}" for part in s.mend.split(" && ") if part]
        return lines


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def examine(open_project: Callable[[], Project], host: Host | None = None) -> Examination:
    """Changes nothing, and never raises for what it finds."""
    host = host or this_host()
    found = [*_build(open_project, host), *_lock(host), *_test(host), *_run(host), *_native(host)]
    return Examination(host=host, symptoms=tuple(found))


def _good(purpose: str, what: str, detail: str) -> Symptom:
    return Symptom(purpose=purpose, what=what, state=State.GOOD, detail=detail)


def _bad(purpose: str, what: str, detail: str, mend: str, *, state: State = State.MISSING) -> Symptom:
    return Symptom(purpose=purpose, what=what, state=state, detail=detail, mend=mend)


def _build(open_project: Callable[[], Project], host: Host) -> Iterator[Symptom]:
    if host.arch not in ARCHES:
        where = " or ".join(ARCHES)
        yield _bad("build", "system", f"{host.arch}: bytecode needs a Python for {where}", f"build on {where}")
    elif host.system == "linux" and host.translated is None:
        yield _good("build", "system", f"Linux on {host.arch}")
    elif host.translated:
        yield _bad("build", "system", f"this Python runs under {host.translated}", f"use a Python for {host.arch}")
    else:
        yield _bad("build", "system", NEEDED, IN_LINUX)
    try:
        project = open_project()
        yield _good("build", "project", str(project.root))
    except BuildctlError as error:
        yield _bad("build", "project", error.message, error.hint or "")
    if other := _other_buildctl():
        yield other
    store = Store.default().root
    yield _room(store)
    yield _writable(store)


def _other_buildctl(path: str | None = None) -> Symptom | None:
    """BuildKit's client has our name. What a shell finds first is one of the two, and the other is `torch-buildctl`."""
    folders = (os.environ.get("PATH", "") if path is None else path).split(os.pathsep)
    found = [p for folder in folders if folder and os.access(p := Path(folder, "buildctl"), os.X_OK) and p.is_file()]
    others = [p for p in dict.fromkeys(found) if not _is_ours(p)]
    if not others:
        return None
    first = "comes first on the PATH" if found[0] in others else "comes later on the PATH"
    detail = f"{', '.join(map(str, others))} is another program of that name (BuildKit's client?) and {first}"
    return _bad("build", "buildctl", detail, "torch-buildctl always calls this one", state=State.WORTH)


def _is_ours(path: Path) -> bool:
    """Whether it is the script that an installer made of our entry point; a binary has no such line."""
    return b"buildctl.cli" in read_some(path, 4096).encode("utf-8", "replace")


def _room(store: Path) -> Symptom:
    place = next(p for p in (store, *store.parents) if p.exists())
    free = shutil.disk_usage(place).free
    held = sum(p.stat().st_size for f in ("artifacts", "blobs") for p in (store / f).glob("*/*") if p.is_file())
    detail = f"{size(free)} free, {size(held)} used by {store}"
    mend = "free some space, or export BUILDCTL_CACHE=FOLDER on a larger disk"
    if free + held < TIGHT:
        return _bad("build", "disk", f"{detail}; a cuda image needs {size(TIGHT)}", mend)
    if free + held < COMFORTABLE:
        return _bad("build", "disk", f"{detail}; the whole matrix takes {size(COMFORTABLE)}", mend, state=State.WORTH)
    return _good("build", "disk", detail)


def _writable(store: Path) -> Symptom:
    place = next(p for p in (store, *store.parents) if p.exists())
    if os.access(place, os.W_OK | os.X_OK):
        return _good("build", "store", f"{store} is writable")
    return _bad("build", "store", f"{place} is not writable", "export BUILDCTL_CACHE=FOLDER, a writable one")


def _lock(host: Host) -> Iterator[Symptom]:
    if host.system != "linux":
        yield _bad(
            "lock", "apt-get", "bases are resolved with Debian's apt", "lock on Debian or Ubuntu", state=State.WORTH
        )
    elif which("apt-get") is None:
        yield _bad("lock", "apt-get", "bases are resolved with apt", "lock on Debian or Ubuntu", state=State.WORTH)
    else:
        yield _good("lock", "apt-get", str(which("apt-get")))
        yield _good("lock", "Debian's keys", str(KEYRING) if KEYRING.exists() else "those that ship with buildctl")
    try:
        import uv  # noqa: PLC0415 - this checks whether it is installed

        version = run([uv.find_uv_bin(), "--version"], timeout=20).stdout.strip()
        yield _good("lock", "uv", version)
    except (ImportError, FileNotFoundError, ToolError) as error:
        yield _bad("lock", "uv", str(error), f"{sys.executable} -m pip install uv")


def _test(host: Host) -> Iterator[Symptom]:
    if host.system == "linux":
        problem, mend = sandbox_problem()
        state = State.WORTH if host.engine else State.MISSING
        yield (
            _bad("test", "sandbox", problem, mend, state=state)
            if problem
            else _good("test", "sandbox", "namespaces are available: images can be tested without Docker")
        )
    if host.arch not in ARCHES:
        return
    foreign = "arm64" if host.arch == "amd64" else "amd64"
    how = emulator(host, foreign)
    if how:
        yield _good("test", f"{foreign} images", f"emulated by {how}")
    elif host.system == "linux":
        mend = "sudo apt-get install qemu-user-static"
        yield _bad("test", f"{foreign} images", "no emulator", mend, state=State.WORTH)


def emulator(host: Host, arch: str) -> str:
    """What would run images for `arch` here; empty when nothing would."""
    if host.engine and host.virtual_engine:
        return f"{host.engine.name}'s virtual machine"
    if host.system != "linux":
        return ""
    from buildctl.runtimes.sandbox.emulation import find_emulators  # noqa: PLC0415

    try:
        return find_emulators(arch)[0].name
    except RuntimeUnavailableError:
        return ""


def sandbox_problem(root: Path = Path("/proc/sys")) -> tuple[str, str]:
    """(why no sandbox can start, the command that fixes it); empty when one can, tried with unshare."""
    for name, bad, good in (
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("user/max_user_namespaces", "0", "10000"),
    ):
        path = root / name
        root_user = os.geteuid() == 0
        if path.exists() and path.read_text().strip() == bad and not root_user:
            return f"{name.replace('/', '.')} is {bad}", f"sudo sysctl -w {name.replace('/', '.')}={good}"
    if which("unshare"):
        done = run(["unshare", "--user", "--map-root-user", "--mount", "true"], timeout=10, check=False)
        if done.returncode:
            reason = (done.stderr.strip() or "unshare fails").splitlines()[-1]
            return reason, "start Docker instead, or leave the container that blocks user namespaces"
    return "", ""


def _run(host: Host) -> Iterator[Symptom]:
    if host.engine is None:
        mend = "install Docker Desktop or colima" if host.system == "macos" else "sudo apt-get install docker.io"
        yield _bad("run", "container engine", host.engine_problem, f"{mend} (23 or newer), and start it")
    else:
        yield _good("run", "container engine", f"{host.engine.name} {host.engine.version} on {host.engine.arch}")
    others = list(_other_gpus(host))
    yield from others
    if not host.gpus and not host.gpu_problem:
        detail = (
            "containers on macOS cannot see a GPU" if host.system == "macos" else "no NVIDIA GPU: images run on the CPU"
        )
        if not others:
            yield _good("run", "GPU", detail)
        return
    if host.gpu_problem:
        yield _bad("run", "GPU", host.gpu_problem, "sudo apt-get install nvidia-driver, then restart")
        return
    names = ", ".join(dict.fromkeys(gpu.name for gpu in host.gpus))
    yield _good("run", "GPU", f"{names}, driver {host.driver}")
    from buildctl.host.verdict import toolkit_refusal, toolkit_step  # noqa: PLC0415

    if reason := toolkit_refusal(host):
        yield _bad("run", "GPU in containers", reason, toolkit_step(host))
    elif host.engine:
        yield _good("run", "GPU in containers", host.toolkit or f"{host.engine.name} passes it through")


def _other_gpus(host: Host) -> Iterator[Symptom]:
    """GPUs that containers get as device files; a GPU that lacks one is worth a line."""
    for kind in VERSIONED:
        if kind.files is None or not any(node.vendor == kind.files.vendor for node in host.nodes):
            continue
        what, (found, reason) = f"{kind.files.maker} GPU", device_files(kind.files, host.nodes)
        if found:
            detail = f"{', '.join(found)}, for {kind.label} images; buildctl does not know which driver they need"
            yield _good("run", what, detail)
        else:
            yield _bad("run", what, reason, "load its kernel driver", state=State.WORTH)


def _native(host: Host) -> Iterator[Symptom]:
    if host.system != "macos":
        return
    if host.arch != "arm64":
        yield _bad("native", "Apple GPU", "MPS needs Apple silicon", "", state=State.WORTH)
    elif host.translated:
        yield _bad(
            "native", "Python", "runs under Rosetta, which has no MPS", "arch -arm64 zsh, then use an arm64 Python"
        )
    else:
        yield _good("native", "Apple GPU", f"{host.chip}, macOS {host.macos}: buildctl native mps-VERSION")
