"""What a machine has that decides whether an image runs on it. Facts only: quick to read, to save and to load."""

from __future__ import annotations

import csv
import dataclasses
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from buildctl.ground import machine
from buildctl.ground.errors import BuildctlError, ToolError
from buildctl.ground.jsontext import parse_json
from buildctl.ground.run import run, which
from buildctl.matrix.accelerators import VERSIONED
from buildctl.matrix.arch import ARCHES, arch_named
from buildctl.runtimes.devices import DeviceNode, device_files, gpu_nodes, read_some

SCHEMA = 1
QUERY = "--query-gpu=name,driver_version,compute_cap"
_CDI = (Path("/etc/cdi"), Path("/var/run/cdi"))
# where it is when PATH lacks it: in WSL2, and where a cluster mounts the driver
_SMI = (Path("/usr/lib/wsl/lib/nvidia-smi"), Path("/usr/local/nvidia/bin/nvidia-smi"))
# nvidia-smi's driver 610 adds a remark: "610.47 [Deprecated; ...]"
DRIVER = re.compile(r"(\d+(?:\.\d+)*)(?:\s.*)?")
_CAPABILITY = re.compile(r"\d+\.\d+")
_VERSION = re.compile(r"\d+(\.\d+)*")
# what nvidia-smi prints for a GPU that no longer answers
_LOST = re.compile(r"unknown error|gpu is lost|err!|gpu requires reset", re.IGNORECASE)
_PLAIN: Mapping[str, tuple[type, ...]] = {"str": (str,), "str | None": (str, type(None)), "bool": (bool,)}
_PATIENCE = 10.0  # seconds; a driver that hangs must not hang us


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """`capability` is MAJOR.MINOR, None where the driver is too old to report it."""

    name: str
    capability: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEngine:
    """A container engine that answers. `desktop`: Linux in a virtual machine (Docker Desktop and the like), which
    emulates the other architecture; `gpus`: it knows NVIDIA's runtime or CDI devices; `cdi`: only the latter, so that
    `--gpus all` is refused.
    """

    name: str
    version: str
    arch: str
    desktop: bool
    gpus: bool
    cdi: bool = False


WRITTEN = {"gpu_problem": "gpuProblem", "engine_problem": "engineProblem"}
_READ = {written: name for name, written in WRITTEN.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`system` is linux, macos or windows; `arch` Docker's word for the real processor, whatever we run as (the
    kernel's word where it is neither amd64 nor arm64: armv7l, riscv64, ppc64le).

    `translated` is what translates this very process (rosetta, qemu). `driver` is NVIDIA's, of the host (in WSL2 of
    Windows); `gpu_problem` is why an existing device cannot be queried. `toolkit` is how containers get a GPU:
    NVIDIA's container toolkit or a CDI specification. `nodes` are the device files that ROCm and XPU need; the version
    of their driver is unknown. `emulates` are other architectures that this kernel
    runs.
    """

    system: str
    arch: str
    kernel: str
    wsl: bool = False
    translated: str | None = None
    virtual: bool = False
    macos: str | None = None
    chip: str | None = None
    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str = ""
    toolkit: str | None = None
    nodes: tuple[DeviceNode, ...] = ()
    engine: ContainerEngine | None = None
    engine_problem: str = ""
    emulates: tuple[str, ...] = ()
    note: str = ""

    @property
    def tegra(self) -> bool:
        """NVIDIA's Jetson and the like, by the kernel's name: the GPU is part of the processor."""
        return self.kernel.endswith("-tegra")

    @property
    def virtual_engine(self) -> bool:
        """Whether containers run in a virtual machine that emulates; on macOS every engine does (colima, OrbStack,
        Rancher Desktop, podman machine), whatever it reports.
        """
        return self.engine is not None and (self.engine.desktop or self.system == "macos")

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **{WRITTEN.get(key, key): item for key, item in dataclasses.asdict(self).items()}}

    @classmethod
    def from_json(cls, value: Any, source: str) -> Self:
        """The inverse of `to_json`, of older files too. Raises BuildctlError, naming `source`, for anything else."""
        try:
            if not isinstance(value, dict):
                raise TypeError(f"{value!r:.40} is not an object")
            value = {_READ.get(key, key): item for key, item in value.items()}
            if value["schema"] != SCHEMA:
                raise BuildctlError(f"{source}: schema {value['schema']!r}, not {SCHEMA}")
            known = {f.name for f in dataclasses.fields(cls)}
            if unknown := sorted(value.keys() - known - {"schema"}):
                raise BuildctlError(f"{source}: unknown {', '.join(unknown)}")
            fields = {key: item for key, item in value.items() if key in known}
            fields["gpus"] = tuple(_gpu(gpu) for gpu in _listed(value, "gpus"))
            fields["nodes"] = tuple(DeviceNode(**_plain(DeviceNode, node)) for node in _listed(value, "nodes"))
            fields["emulates"] = tuple(map(str, _listed(value, "emulates")))
            fields["engine"] = (
                ContainerEngine(**_plain(ContainerEngine, value["engine"])) if value.get("engine") else None
            )
            fields["driver"] = driver_version(_plain(cls, value).get("driver") or "")
            if fields.get("macos") is not None and not _VERSION.fullmatch(fields["macos"]):
                raise TypeError(f"macos: {fields['macos']!r} is not a version")
            host = cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise BuildctlError(
                f"{source} is not a host facts file ({error})", hint="`buildctl check --save FILE` writes one"
            ) from error
        if host.system not in {"linux", "macos", "windows"}:
            raise BuildctlError(f"{source}: {host.system} is not a known system (linux, macos, windows)")
        return host

    def summary(self) -> str:
        """`Linux 6.1 on amd64, NVIDIA H200 (driver 580.159.03), Docker 28.5.2`"""
        kernel = self.kernel.partition("-")[0]
        system = {
            "linux": f"Linux {kernel}{' (WSL2)' if self.wsl else ''}",
            "macos": f"macOS {self.macos}",
            "windows": "Windows",
        }[self.system]
        parts = [
            f"{system} on {self.chip or self.arch}",
            *self._gpu_words(),
            f"{self.engine.name} {self.engine.version}" if self.engine else "no container engine",
        ]
        if self.translated:
            parts.append(f"this Python runs under {self.translated}")
        return ", ".join(parts)

    def _gpu_words(self) -> tuple[str, ...]:
        """`("NVIDIA H200 (driver 580.159.03)",)`; GPUs of others too, by the files that images for them need."""
        names = ", ".join(dict.fromkeys(gpu.name for gpu in self.gpus))
        others = tuple(
            f"{kind.files.maker} GPU ({', '.join(found)})"
            for kind in VERSIONED
            if kind.files is not None and (found := device_files(kind.files, self.nodes)[0])
        )
        if self.system == "macos":  # the chip has been named
            return ()
        if names or self.gpu_problem or not others:
            return (f"{names} (driver {self.driver})" if names else self.gpu_problem or "no NVIDIA GPU", *others)
        return others


def _plain(cls: type, value: Any) -> Mapping[str, Any]:
    """`value`, if its strings and flags have the types of the dataclass's fields. Raises TypeError."""
    if not isinstance(value, dict):
        raise TypeError(f"{cls.__name__.lower()}: {value!r}")
    for field in dataclasses.fields(cls):
        kinds = _PLAIN.get(str(field.type))
        if kinds and field.name in value and not isinstance(value[field.name], kinds):
            raise TypeError(f"{field.name}: {value[field.name]!r}")
    return value


def _listed(value: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = value.get(key, [])
    if not isinstance(found, list | tuple):
        raise TypeError(f"{key}: {found!r} is not a list")
    return found


def _gpu(value: Any) -> Gpu:
    gpu = Gpu(**_plain(Gpu, value))
    if gpu.capability is not None and not _CAPABILITY.fullmatch(gpu.capability):
        raise TypeError(f"capability: {gpu.capability!r} is not MAJOR.MINOR")
    return gpu


def read_host(path: Path) -> Host:
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BuildctlError(
            f"{path} is not a host facts file: {error}", hint="`buildctl check --save FILE` writes one"
        ) from error
    return Host.from_json(value, str(path))


def this_host() -> Host:
    """Query this machine: kernel files, and nvidia-smi and docker where present. Never raises."""
    system = machine.system()
    arch = arch_named(machine.machine().lower()) or "unknown"
    return _mac(arch) if system == "macos" else _linux(arch, system)


def _linux(machine: str, system: str) -> Host:
    release = platform.release()
    cpuinfo = read_some(Path("/proc/cpuinfo"), 4096)
    translated, arch = translation(machine, cpuinfo)
    driver, gpus, problem = nvidia_gpus()
    engine, engine_problem = container_engine()
    return Host(
        system=system,
        arch=arch,
        kernel=release,
        wsl="microsoft" in release.lower(),
        translated=translated,
        driver=driver,
        gpus=gpus,
        gpu_problem=problem,
        toolkit=container_toolkit(),
        nodes=gpu_nodes(),
        engine=engine,
        engine_problem=engine_problem,
        emulates=tuple(a.name for a in ARCHES.values() if a.name != arch and _registered(a.elf)),
    )


def _mac(machine: str) -> Host:
    engine, problem = container_engine()
    known = {key: _sysctl(key) for key in ("sysctl.proc_translated", "machdep.cpu.brand_string", "kern.hv_vmm_present")}
    rosetta = known["sysctl.proc_translated"] == "1"
    return Host(
        system="macos",
        arch="arm64" if rosetta else machine,
        kernel=platform.release(),
        translated="rosetta" if rosetta else None,
        virtual=known["kern.hv_vmm_present"] == "1",
        macos=platform.mac_ver()[0] or None,
        chip=known["machdep.cpu.brand_string"] or None,
        engine=engine,
        engine_problem=problem,
    )


def translation(machine: str, cpuinfo: str) -> tuple[str | None, str]:
    """(what translates this process, the real architecture), told by a processor that does not match `machine`."""
    if machine == "amd64" and "VirtualApple" in cpuinfo:
        return "rosetta", "arm64"
    if machine == "amd64" and "CPU implementer" in cpuinfo:
        return "qemu", "arm64"
    if machine == "arm64" and "vendor_id" in cpuinfo:
        return "qemu", "amd64"
    return None, machine


def nvidia_gpus() -> tuple[str | None, tuple[Gpu, ...], str]:
    """(driver, GPUs, why they cannot be queried). The CSV queries are stable; the table for people is not."""
    program = which("nvidia-smi") or next((path for path in _SMI if path.exists()), None)
    if program is None:
        device = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
        return None, (), "an NVIDIA device without nvidia-smi" if device and not Path("/dev/dxg").exists() else ""
    for query in (QUERY, QUERY.removesuffix(",compute_cap")):  # drivers before 510 do not know compute_cap
        try:
            done = run([program, query, "--format=csv,noheader"], timeout=_PATIENCE, check=False)
        except ToolError as error:
            return None, (), error.message
        if done.timed_out:
            return None, (), f"nvidia-smi did not answer within {_PATIENCE:g} s"
        if done.returncode == 0:
            return parse_gpus(done.stdout)
    return None, (), (done.stdout.strip() or done.stderr.strip()).partition("\n")[0] or "nvidia-smi failed"


def parse_gpus(text: str) -> tuple[str | None, tuple[Gpu, ...], str]:
    """Leaves out a GPU that no longer answers, with the reason, even if others still do."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if len(row) >= 2]
    lost = [row for row in rows if any(_LOST.search(cell) for cell in row[1:])]
    good = [row for row in rows if row not in lost]
    gpus = tuple(
        Gpu(name=row[0], capability=row[2] if len(row) > 2 and _CAPABILITY.fullmatch(row[2]) else None) for row in good
    )
    driver = next(filter(None, (driver_version(row[1]) for row in [*good, *lost])), None)
    if not rows:
        return None, (), "nvidia-smi finds no GPU"
    said = "; ".join(f"nvidia-smi reports {next(filter(_LOST.search, row[1:]))} for {row[0]}" for row in lost)
    return driver, gpus, said


def driver_version(text: str) -> str | None:
    """None for anything but a version: nvidia-smi also answers N/A (Jetson), [N/A], [Not Supported]."""
    found = DRIVER.fullmatch(text.strip())
    return found[1] if found else None


def container_toolkit(folders: Iterable[Path] = _CDI) -> str | None:
    for folder in folders:
        found = [
            path for path in (folder.glob("nvidia*") if folder.is_dir() else ()) if path.suffix in {".yaml", ".json"}
        ]
        if found:
            return f"CDI {min(found)}"
    program = which("nvidia-ctk") or which("nvidia-container-runtime")
    return str(program.name) if program else None


def container_engine() -> tuple[ContainerEngine | None, str]:
    """(the engine that answers, why none does): docker as its command line finds it, else podman."""
    problem = "no docker or podman command"
    if which("docker"):
        done = run(["docker", "info", "--format", "{{json .}}"], timeout=_PATIENCE, check=False)
        try:
            return parse_docker(parse_json(done.stdout)), ""
        except (ValueError, BuildctlError):
            problem = (done.stderr.strip() or "docker did not answer").partition("\n")[0]
    if which("podman"):
        done = run(["podman", "info", "--format", "json"], timeout=_PATIENCE, check=False)
        try:
            return parse_podman(parse_json(done.stdout)), ""
        except (ValueError, BuildctlError):
            problem = (done.stderr.strip() or "podman did not answer").partition("\n")[0]
    return None, problem


def parse_docker(info: Mapping[str, Any]) -> ContainerEngine:
    """From `docker info`. Raises BuildctlError if no server answered."""
    if not info.get("ServerVersion"):
        raise BuildctlError("; ".join(info.get("ServerErrors") or ["no server"]))
    machine = str(info.get("Architecture", ""))
    devices = [str(d.get("ID", "")) for d in info.get("DiscoveredDevices") or () if isinstance(d, dict)]
    cdi = any(d.startswith("nvidia.com/gpu") for d in devices)
    runtime = "nvidia" in (info.get("Runtimes") or {})
    machines = (
        "Desktop",
        "OrbStack",
        "linuxkit",
        "orbstack",
    )  # what such a virtual machine calls its system and kernel
    system = f"{info.get('OperatingSystem', '')} {info.get('KernelVersion', '')}"
    return ContainerEngine(
        name="Docker",
        version=str(info["ServerVersion"]),
        arch=arch_named(machine),
        desktop=any(word in system for word in machines),
        gpus=runtime or cdi,
        cdi=cdi and not runtime,
    )


def parse_podman(info: Mapping[str, Any]) -> ContainerEngine:
    """From `podman info`. On macOS and Windows podman works in a virtual machine; GPUs come by CDI, see `toolkit`."""
    try:
        host = info["host"]
        return ContainerEngine(
            name="podman",
            version=str(info["version"]["Version"]),
            arch=arch_named(str(host["arch"])),
            desktop=bool(host.get("serviceIsRemote")),
            gpus=False,
        )
    except (KeyError, TypeError) as error:
        raise BuildctlError(f"cannot parse podman's answer ({error})") from error


def _registered(machine: int, root: Path = Path("/proc/sys/fs/binfmt_misc")) -> bool:
    """Whether an enabled binfmt_misc entry with flag F starts ELF files of `machine`, in containers too."""
    try:
        entries = [path.read_text() for path in sorted(root.iterdir()) if path.name not in {"register", "status"}]
    except OSError:
        return False
    magic = machine.to_bytes(2, "little").hex()
    for text in entries:
        lines = dict(line.partition(" ")[::2] for line in text.splitlines())
        found = lines.get("magic", "")
        if "enabled" in lines and "F" in lines.get("flags:", "") and found[36:40] == magic:
            return True
    return False


def _sysctl(key: str) -> str:
    try:
        return run(["/usr/sbin/sysctl", "-n", key], timeout=5, check=False).stdout.strip()
    except ToolError:
        return ""
