"""Running a foreign architecture: qemu-user behind binfmt_misc, so that every child process is emulated too."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.ground.machine import machine
from buildctl.ground.run import run, which
from buildctl.matrix.arch import ARCHES, arch_named
from buildctl.runtimes.api import EMULATION_ENV

PT_INTERP = 3
HOST_BINFMT = Path("/proc/sys/fs/binfmt_misc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """`rule` is what to write into the sandbox's own binfmt_misc, empty when the host's registration serves; `env` is
    what programs under it get besides their own environment.
    """

    name: str
    rule: str
    env: tuple[tuple[str, str], ...] = ()


def native_arch() -> str:
    """Docker's word for this machine; raises RuntimeUnavailableError if there are no images for it."""
    here = machine()
    if (arch := arch_named(here)) in ARCHES:
        return arch
    raise RuntimeUnavailableError(f"no images for {here}", hint="use Linux on amd64 or arm64")


def find_emulators(arch: str) -> tuple[Emulator, ...]:
    """What could run `arch` here, best first; if nothing can, raises RuntimeUnavailableError with how to install one.

    A binfmt_misc of the sandbox's own needs Linux 6.7 and a statically linked qemu, and leaves the host as it is.
    """
    if arch not in ARCHES:
        raise RuntimeUnavailableError(f"no emulation of {arch} images here", hint=f"known: {', '.join(ARCHES)}")
    word, machine = ARCHES[arch].emulator, ARCHES[arch].elf
    found = []
    for name in (f"{word}-static", word):
        program = which(name)
        if program and is_static(program):
            rule = binfmt_rule(word, machine, program.resolve())
            found.append(Emulator(name=word, rule=rule, env=processor(arch, program)))
            break
    registered = host_registration(machine, HOST_BINFMT)
    if registered:
        found.append(Emulator(name=registered, rule="", env=tuple(EMULATION_ENV[arch].items())))
    if not found:
        raise RuntimeUnavailableError(
            f"{arch} images cannot run on this {native_arch()} machine without qemu", hint=HINT
        )
    return tuple(found)


def processor(arch: str, program: Path) -> tuple[tuple[str, str], ...]:
    """The processor to emulate, or the emulator's default where that is older than the model."""
    wanted = EMULATION_ENV[arch]
    model = wanted.get("QEMU_CPU")
    if model is not None and model not in run([program, "-cpu", "help"], timeout=10, check=False).stdout.split():
        return ()
    return tuple(wanted.items())


def kernel_files(rule: str) -> dict[str, dict[str, str]]:
    """What an arm64 kernel says about its cores, by folder. The oneDNN in torch 2.15 reads MIDR_EL1 there and ends the
    process where there is none; QEMU shows the files of the host, an amd64. The value is that of a Neoverse N1 (Linux,
    cputype.h).
    """
    if "aarch64" not in rule:
        return {}
    cores = os.cpu_count() or 1
    files = dict.fromkeys(("present", "possible", "online"), f"0-{cores - 1}\n")
    registers = {f"cpu{core}/regs/identification/midr_el1": "0x00000000414fd0c1\n" for core in range(cores)}
    return {"sys/devices/system/cpu": files | registers}


HINT = "sudo apt-get install qemu-user-static"


def binfmt_rule(name: str, machine: int, program: Path) -> str:
    """Any ELF executable (ET_EXEC or ET_DYN), 64-bit, little-endian, of `machine`.

    F opens the emulator at registration: it needs no path in the image, and children find it as well.
    """
    magic = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, machine)
    mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + struct.pack("<HH", 0xFFFE, 0xFFFF)
    return f":{name}:M::{_hex(magic)}:{_hex(mask)}:{program}:F"


def _hex(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def host_registration(machine: int, root: Path) -> str | None:
    """Name of an enabled binfmt_misc entry for ELF `machine` that works in another root (flag F)."""
    try:
        entries = sorted(p for p in root.iterdir() if p.name not in ("register", "status"))
        for entry in entries:
            lines = entry.read_text().splitlines()
            fields = {key.rstrip(":"): value for key, _, value in (line.partition(" ") for line in lines)}
            magic = bytes.fromhex(fields.get("magic", ""))
            if "enabled" in lines and "F" in fields.get("flags", "") and magic[18:20] == struct.pack("<H", machine):
                return entry.name
    except (OSError, ValueError):  # not mounted or not readable: we cannot use it
        return None
    return None


def is_static(program: Path) -> bool:
    """Whether an ELF file asks for no dynamic loader, which would be looked for inside the image."""
    try:
        with program.open("rb") as file:
            header = file.read(64)
            if header[:6] != b"\x7fELF\x02\x01":
                return False
            offset, size, count = struct.unpack_from("<Q", header, 32)[0], *struct.unpack_from("<HH", header, 54)
            file.seek(offset)
            table = file.read(size * count)
    except (OSError, struct.error):
        return False
    return all(struct.unpack_from("<I", table, n * size)[0] != PT_INTERP for n in range(count))
