"""The architectures that images are for, and what each is called by whom. The one table of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """`name` is Docker's and Debian's word; `machine` the Linux kernel's (uname -m), that of wheels, uv and qemu;
    `darwin` that of the kernel of macOS. `triplet` is Debian's folder of libraries, `loader` the dynamic loader in it,
    `elf` e_machine of the gABI, `cache_flags` what glibc writes to ld.so.cache (ELF libc6, ABI).
    """

    name: str
    machine: str
    darwin: str
    aliases: tuple[str, ...]
    triplet: str
    loader: str
    elf: int
    cache_flags: int

    @property
    def emulator(self) -> str:
        return f"qemu-{self.machine}"

    def uname(self, system: str) -> str:
        """What the kernel of `system` (uname -s) calls the machine."""
        return self.darwin if system == "Darwin" else self.machine


_ALL = (
    Arch(
        name="amd64",
        machine="x86_64",
        darwin="x86_64",
        aliases=("x86-64",),
        triplet="x86_64-linux-gnu",
        loader="ld-linux-x86-64.so.2",
        elf=62,
        cache_flags=0x0303,
    ),
    Arch(
        name="arm64",
        machine="aarch64",
        darwin="arm64",
        aliases=("arm64/v8",),
        triplet="aarch64-linux-gnu",
        loader="ld-linux-aarch64.so.1",
        elf=183,
        cache_flags=0x0A03,
    ),
)
ARCHES: Mapping[str, Arch] = {arch.name: arch for arch in _ALL}
# What people, kernels and wheels call them -> our name, which is Docker's.
SPELLINGS: Mapping[str, str] = {word: a.name for a in _ALL for word in (a.machine, a.name, *a.aliases)}


def arch_named(word: str) -> str:
    """Our name of an architecture that somebody else calls `word`; `word` itself for one that no image is for."""
    return SPELLINGS.get(word, word)
