"""Will it run here: claims of images against facts of a host, one verdict with a reason and a next step for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from packaging.version import Version

from buildctl.host.catalogue import Subject
from buildctl.host.facts import Gpu, Host
from buildctl.lock.claims import Claims, runs_on
from buildctl.matrix.accelerators import DeviceFiles, public_version
from buildctl.matrix.arch import ARCHES
from buildctl.runtimes.devices import device_files

# NVIDIA's Linux for Jetson: kernel 5.10 is JetPack 5, 5.15 is JetPack 6 (L4T R36), 6.8 is JetPack 7 (R38, R39), the
# first whose driver runs code that is built for arm64 servers
JETPACK7_KERNEL = Version("6")
MPS_MACOS = Version("14")  # PyTorch's MPS backend needs macOS 14
_REPOSITORY = "pytorch"


class VerdictKind(StrEnum):
    GPU = "runs with GPU"
    CPU = "runs on CPU"
    EMULATED = "runs slowly under emulation"
    NOT = "does not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do: `says` for people, `commands` to copy, one after the other."""

    says: str = ""
    commands: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.says, ", then ".join(self.commands))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`reason` ends with `own` if only that tells it from the reason of other images."""

    name: str
    kind: VerdictKind
    reason: str
    steps: tuple[Step, ...]
    own: str = ""

    @property
    def next_step(self) -> str:
        return "; ".join(map(str, self.steps))

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "verdict": str(self.kind), "reason": self.reason, "nextStep": self.next_step}


def decide(subject: Subject, host: Host, others: Sequence[Subject] = ()) -> Verdict:
    """`others` may be proposed instead. Commands use the host's own engine."""
    if host.arch not in ARCHES:
        reason = f"PyTorch publishes no wheels for {host.arch}, so there are no images for it"
        return _verdict(subject, VerdictKind.NOT, reason, f"use a machine with {' or '.join(ARCHES)}")
    if subject.native:
        return _native(subject, host, others)
    if host.system == "windows":
        return _verdict(
            subject, VerdictKind.NOT, "Windows itself cannot run Linux images", "open WSL2 and ask again there"
        )
    if host.engine is None:
        return _without_engine(subject, host)
    claims = subject.of(host.engine.arch)
    if claims is None:
        return _foreign(subject, host, others)
    if not subject.says:
        reason = f"native on {claims.arch}; its labels and environment claim nothing about CUDA"
        ask = Step(says="to find out", commands=(f"buildctl test {subject.name}",))
        return _verdict(subject, VerdictKind.CPU, reason, _run(subject, host), ask)
    if not claims.kind.gpu:
        steps = (_run(subject, host), *_instead_gpu(claims, host, others))
        return _verdict(subject, VerdictKind.CPU, f"a CPU build, native on {claims.arch}", *steps)
    if host.system == "macos":
        steps = (_run(subject, host), *_instead_gpu(claims, host, others))
        return _verdict(subject, VerdictKind.CPU, "containers on macOS cannot use the GPU", *steps)
    if claims.kind.files is not None:
        return _device_files(subject, claims, claims.kind.files, host)
    return _nvidia(subject, claims, host, others)


def _verdict(subject: Subject, kind: VerdictKind, reason: str, *steps: Step | str, own: str = "") -> Verdict:
    """Text among the `steps` is for people."""
    made = tuple(Step(says=step) if isinstance(step, str) else step for step in steps)
    return Verdict(name=subject.name, kind=kind, reason=reason, steps=made, own=own)


def _without_engine(subject: Subject, host: Host) -> Verdict:
    reason = f"no container engine responds ({host.engine_problem})" if host.engine_problem else "no container engine"
    here = host.arch if subject.of(host.arch) else subject.claims[0].arch
    step = (
        "install Docker Desktop, colima or podman"
        if host.system == "macos"
        else f"install Docker or podman; without them, `buildctl test {subject.name} --arch {here}` runs its probes"
    )
    return _verdict(subject, VerdictKind.NOT, reason, step)


def _run(subject: Subject, host: Host, *options: str, says: str = "") -> Step:
    """With the engine of the host. podman has no image that it did not pull, and reads layouts itself."""
    podman = host.engine is not None and host.engine.name == "podman"
    given = "".join(f"{option} " for option in options)
    if subject.start:
        start = subject.start.replace("{options}", given)
        if podman:
            start = start.replace("docker run", "podman run").replace("docker-daemon:", "containers-storage:")
        return Step(says=says, commands=(start,))
    image = subject.image or subject.name
    build = () if subject.built else (f"buildctl build {image}",)
    program, where = ("podman", f"oci:{subject.place}") if podman else ("docker", _REPOSITORY)
    return Step(says=says, commands=(*build, f"{program} run -it --rm {given}{where}:{image}"))


# emulation


def _foreign(subject: Subject, host: Host, others: Sequence[Subject]) -> Verdict:
    assert host.engine is not None  # noqa: S101 - decided before
    arch = subject.claims[0].arch
    only = f"only for {arch}, this is {host.engine.arch}"
    better = _native_alternative(subject, host, others)
    if host.virtual_engine or arch in host.emulates:
        how = "Rosetta or QEMU" if host.system == "macos" and host.arch == "arm64" else "QEMU"
        gpu = ", without GPU access" if subject.claims[0].kind.gpu else ""
        step = better or _run(subject, host, f"--platform linux/{arch}")
        return _verdict(subject, VerdictKind.EMULATED, f"{only}: {how} translates every instruction{gpu}", step)
    step = better or Step(
        says="to run it slowly under emulation", commands=("sudo apt-get install qemu-user-static binfmt-support",)
    )
    return _verdict(subject, VerdictKind.NOT, f"{only}, and no emulator is registered", step)


def _native_alternative(subject: Subject, host: Host, others: Sequence[Subject]) -> str:
    """Names with the same torch that run natively here."""
    assert host.engine is not None  # noqa: S101 - decided before
    names = [o.name for o in _same_torch(subject, others) if not o.native and o.of(host.engine.arch)]
    if host.system == "macos" and host.arch == "arm64":
        names += [f"{o.name} (native, with the GPU)" for o in _same_torch(subject, others) if o.native]
    return f"use {' or '.join(names)}" if names else ""


def _same_torch(subject: Subject, others: Sequence[Subject]) -> list[Subject]:
    if not subject.claims[0].torch:
        return []
    wanted = public_version(subject.claims[0].torch)
    return [o for o in others if o.name != subject.name and public_version(o.claims[0].torch) == wanted]


# GPUs passed to a container as device files


def _device_files(subject: Subject, claims: Claims, files: DeviceFiles, host: Host) -> Verdict:
    found, reason = device_files(files, host.nodes)
    if not found:
        return _verdict(subject, VerdictKind.CPU, f"{reason} here", _run(subject, host))
    podman = host.engine is not None and host.engine.name == "podman"
    groups = ("--group-add keep-groups",) if podman else ("--group-add video", "--group-add render")
    options = [f"--device {path}" for path in dict.fromkeys(_folder(path) for path in found)]
    step = _run(subject, host, *options, *groups)
    reason = (
        f"an {files.maker} GPU ({', '.join(found)}); unknown: the driver {claims.kind.titled(claims.built_for)} needs, "
        "and whether torch has code for this GPU"
    )
    return _verdict(subject, VerdictKind.GPU, reason, step)


def _folder(path: str) -> str:
    return "/dev/dri" if path.startswith("/dev/dri/") else path


# NVIDIA


def _nvidia(subject: Subject, claims: Claims, host: Host, others: Sequence[Subject]) -> Verdict:
    def on_cpu(reason: str, *fix: Step | str, own: str = "") -> Verdict:
        run = _run(subject, host, says="until then" if fix else "")
        return _verdict(subject, VerdictKind.CPU, reason, *fix, run, own=own)

    if not host.gpus:
        if not host.gpu_problem:
            return on_cpu("no NVIDIA GPU here")
        step = "install the NVIDIA driver on Windows" if host.wsl else "install or reload the NVIDIA driver"
        return on_cpu(f"the GPU cannot be used: {host.gpu_problem}", f"{step} ({_new_enough(subject, claims)})")
    covered = [gpu for gpu in host.gpus if covers(claims, gpu)]
    if not covered:
        other = _covered_elsewhere(subject, host, others)
        return on_cpu(
            _uncovered(claims, host.gpus),
            f"use {other}" if other else "no image in this matrix supports it; add a newer PyTorch version",
        )
    if host.tegra and _kernel(host) < JETPACK7_KERNEL:
        reason = f"JetPack 6 or older (kernel {host.kernel}) runs only NVIDIA's own Jetson builds, not server builds"
        return on_cpu(reason, "update to JetPack 7, or use one of NVIDIA's Jetson images")
    if host.driver is None and not host.tegra:
        step = "check the output of nvidia-smi, and reload or reinstall the NVIDIA driver"
        return on_cpu("the driver version is unknown: nvidia-smi does not report it", step)
    if reason := _requirement(subject, host) if subject.requires else driver_refusal(claims, host):
        other = _covered_elsewhere(subject, host, others)
        where = " in Windows" if host.wsl else ""
        step = f"update the driver{where} to {_new_enough(subject, claims)}{f', or use {other}' if other else ''}"
        own = reason.partition(" is older than ")[2]
        return on_cpu(reason, step, f"with {gpu_option(host)} the container would not start", own=own)
    if reason := toolkit_refusal(host):
        return on_cpu(reason, Step(commands=(toolkit_step(host),)))
    rest = [gpu for gpu in host.gpus if gpu not in covered]
    names = ", ".join(dict.fromkeys(f"{gpu.name} ({capability_word(gpu)})" for gpu in covered))
    but = f"; but {_uncovered(claims, rest)}" if rest else ""
    but += f"; but {host.gpu_problem}" if host.gpu_problem else ""
    floor = f">= {claims.driver_floor}" if claims.driver_floor and host.driver else ""
    unknown = "" if claims.facts else "; the image does not claim which GPUs its torch is compiled for"
    own = f"{floor}{but}{unknown}"
    reason = f"{names}, driver {host.driver or 'of unknown version'}{' ' if floor else ''}{own}"
    return _verdict(subject, VerdictKind.GPU, reason, _run(subject, host, gpu_option(host)), own=own)


def gpu_option(host: Host) -> str:
    """The option of `docker run` or `podman run` that passes the GPU through."""
    if host.engine and (host.engine.name == "podman" or host.engine.cdi):
        return "--device nvidia.com/gpu=all"
    return "--runtime=nvidia" if host.tegra else "--gpus all"


def _kernel(host: Host) -> Version:
    found = re.match(r"\d+(\.\d+)*", host.kernel)
    return Version(found[0] if found else "0")


def driver_refusal(claims: Claims, host: Host) -> str:
    if host.driver is None or claims.driver_floor is None or Version(host.driver) >= Version(claims.driver_floor):
        return ""
    needs = claims.kind.titled(claims.built_for)
    return f"driver {host.driver} is older than {claims.driver_floor}, which {needs} needs"


def _requirement(subject: Subject, host: Host) -> str:
    if host.driver is None:
        return ""
    from buildctl.host.requirement import unmet  # noqa: PLC0415 - foreign images only

    return unmet(subject.requires, host.driver)


def _new_enough(subject: Subject, claims: Claims) -> str:
    floor = None if subject.requires else claims.driver_floor
    return f">= {floor}" if floor else f"one for {claims.kind.titled(claims.built_for)}"


def toolkit_refusal(host: Host) -> str:
    if host.engine is None or host.engine.gpus or (host.engine.desktop and host.wsl):
        return ""
    if host.engine.name == "podman" and host.toolkit and host.toolkit.startswith("CDI"):
        return ""
    if host.toolkit is None:
        return f"{host.engine.name} cannot pass the GPU through: no NVIDIA container toolkit or CDI specification"
    return f"{host.engine.name} does not know the NVIDIA runtime, although {host.toolkit} is installed"


def toolkit_step(host: Host) -> str:
    if host.engine and host.engine.name == "podman":
        configure = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
    else:
        configure = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
    return configure if host.toolkit else f"sudo apt-get install nvidia-container-toolkit && {configure}"


def covers(claims: Claims, gpu: Gpu) -> bool:
    """Whether torch has code for that GPU; true if claims or driver do not tell."""
    if gpu.capability is None or claims.facts is None:
        return True
    major, minor = map(int, gpu.capability.split("."))
    return runs_on((*claims.facts.gpu_architectures, *claims.facts.ptx), (major, minor))


def _uncovered(claims: Claims, gpus: Iterable[Gpu]) -> str:
    names = ", ".join(dict.fromkeys(f"{gpu.name} ({capability_word(gpu)})" for gpu in gpus))
    return f"torch has no code for {names}, only for {' '.join(claims.architectures or ())}"


def capability_word(gpu: Gpu) -> str:
    return f"sm_{gpu.capability.replace('.', '')}" if gpu.capability else "capability unknown"


def _covered_elsewhere(subject: Subject, host: Host, others: Sequence[Subject]) -> str:
    """The newest other image of the same kind that this host's driver and GPU can run."""
    arch = host.engine.arch if host.engine else host.arch
    for other in sorted(others, key=_newest, reverse=True):
        claims = other.of(arch)
        if other.name == subject.name or other.native or claims is None or claims.kind != subject.claims[0].kind:
            continue
        if not driver_refusal(claims, host) and any(covers(claims, gpu) for gpu in host.gpus):
            return other.name
    return ""


def _newest(subject: Subject) -> Version:
    return Version(subject.claims[0].torch or "0")


# Macs


def _instead_gpu(claims: Claims, host: Host, others: Sequence[Subject]) -> tuple[Step, ...]:
    """The native environment of the same torch, if that gets the GPU, or would under an arm64 Python."""
    if host.system != "macos" or host.arch != "arm64" or not claims.torch:
        return ()
    wanted = public_version(claims.torch)
    same = [o for o in others if o.native and public_version(o.claims[0].torch) == wanted]
    for verdict in [_native(o, host, others) for o in same[:1]]:
        if verdict.kind is VerdictKind.GPU:
            return (Step(says="with the GPU", commands=verdict.steps[0].commands),)
        if host.translated:
            return (Step(says=f"with the GPU, {verdict.steps[0].says}", commands=verdict.steps[0].commands),)
    return ()


def _native(subject: Subject, host: Host, others: Sequence[Subject]) -> Verdict:
    claims = subject.claims[0]
    if host.system != "macos":
        names = [o.name for o in _same_torch(subject, others) if o.of(host.arch)]
        where = " or ".join(names) or "an image"
        return _verdict(
            subject, VerdictKind.NOT, "a native environment, only for macOS on Apple silicon", f"use {where}"
        )
    if host.arch != "arm64":
        images = [o.name for o in _same_torch(subject, others) if o.of(host.arch)]
        reason = "PyTorch dropped wheels for Intel Macs after 2.2, and MPS needs an Apple GPU"
        return _verdict(subject, VerdictKind.NOT, reason, f"use {images[0]}" if images else "use another machine")
    make = Step(commands=(f"buildctl native {subject.name}",))
    if host.macos is None:
        return _verdict(
            subject, VerdictKind.NOT, "the macOS version is unknown", "sw_vers shows it", replace(make, says="or try")
        )
    version, floor = Version(host.macos), Version(claims.macos or "11.0")
    if version < floor:
        return _verdict(subject, VerdictKind.NOT, f"its wheels need macOS {floor}, this is {version}", "update macOS")
    if host.translated:
        reason = f"this Python runs under {host.translated}, which has no MPS"
        step = replace(make, says="use an arm64 Python (`arch -arm64 zsh`), then")
        return _verdict(subject, VerdictKind.NOT, reason, step)
    if version < MPS_MACOS:
        return _verdict(
            subject, VerdictKind.CPU, f"MPS needs macOS {MPS_MACOS}, this is {version}", "update macOS", make
        )
    if host.virtual:
        return _verdict(subject, VerdictKind.CPU, "MPS does not work in a macOS virtual machine", make)
    return _verdict(subject, VerdictKind.GPU, f"MPS on {host.chip or 'Apple silicon'}, macOS {version}", make)
