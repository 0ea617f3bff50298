"""The program that refuses system calls, run by an interpreter of its few instructions; the kernel's run is in the
integration tests.
"""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from buildctl.runtimes.sandbox import seccomp
from buildctl.runtimes.sandbox.seccomp import AUDIT, REFUSED, refusing

HEADERS = {
    "amd64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")),
    "arm64": (Path("/usr/include/asm-generic/unistd.h"),),
}
OTHERS = {"amd64": 0x40000003, "arm64": 0x40000028}  # 32-bit programs


def answer(arch: str, number: int, *arguments: int, audit: int | None = None) -> int | None:
    """The error number that a call gets; None if it is allowed."""
    data = struct.pack("=iIQ6Q", number, audit or AUDIT[arch], 0, *(arguments + (0,) * 6)[:6])
    program = list(struct.iter_unpack("=HBBI", refusing(arch)))
    at = value = 0
    while True:
        code, yes, no, k = program[at]
        at += 1
        if code == seccomp.LOAD:
            (value,) = struct.unpack_from("=I", data, k)
        elif code == seccomp.RETURN:
            return None if k == seccomp.ALLOW else k & 0xFFFF
        else:
            at += yes if (value == k if code == seccomp.JUMP_EQUAL else value & k) else no


@pytest.mark.parametrize("arch", AUDIT)
def test_what_is_listed_is_refused_and_the_rest_is_not(arch: str) -> None:
    column = list(AUDIT).index(arch)
    refused = {numbers[column] for numbers in REFUSED.values()} - {None}
    asked = {n for n in range(460) if answer(arch, n, 0x3FFF_FFFF if n in (56, 220) else 0) is not None}
    assert asked - refused <= {seccomp.CLONE[column], seccomp.CLONE3[column]}
    assert refused <= asked
    assert answer(arch, {"amd64": 0, "arm64": 63}[arch]) is None  # read
    assert answer(arch, {"amd64": 165, "arm64": 40}[arch]) == errno.EPERM  # mount


@pytest.mark.parametrize("arch", AUDIT)
def test_the_numbers_are_those_of_the_kernel_s_headers(arch: str) -> None:
    header = next((path for path in HEADERS[arch] if path.exists()), None)
    if header is None:
        pytest.skip("NOT RUN: linux-libc-dev is not installed")
    known = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)\s", header.read_text())}
    column = list(AUDIT).index(arch)
    newer = {"set_mempolicy_home_node"}
    assert {n: numbers[column] for n, numbers in REFUSED.items() if n in known} == {
        n: known[n] for n in REFUSED if n in known
    }
    assert {n for n, numbers in REFUSED.items() if numbers[column] is not None} <= set(known) | newer


@pytest.mark.parametrize("arch", AUDIT)
def test_other_architectures_of_this_machine_are_absent(arch: str) -> None:
    assert answer(arch, 3, audit=OTHERS[arch]) == errno.ENOSYS
    assert answer("amd64", 0x40000000) == errno.ENOSYS


@pytest.mark.parametrize(("call", "arguments", "expected"), [
    ((56, 220), (0x11,), None),  # fork
    ((56, 220), (0x3D0F00,), None),  # a thread
    ((56, 220), (0x10000011,), errno.EPERM),  # a user namespace
    ((56, 220), (0x20011,), errno.EPERM),  # a mount namespace
    ((435, 435), (), errno.ENOSYS),  # clone3, so that C libraries use clone
    ((16, 29), (0, 0x5401), None),  # TCGETS
    ((16, 29), (0, 0x5412), errno.EPERM),  # TIOCSTI
    ((16, 29), (0, 0x1_0000_5412), errno.EPERM),  # of which the kernel takes the lower half, too
    ((16, 29), (0, 0xC020462A), None),  # NVIDIA's driver is ioctl on device files
    ((41, 198), (2, 1), None),
    ((41, 198), (40, 1), errno.EPERM),  # AF_VSOCK
    ((101, 117), (0,), None),  # PTRACE_TRACEME
    ((101, 117), (16,), errno.EPERM),  # PTRACE_ATTACH
    ((135, 92), (0xFFFFFFFF,), None),
    ((135, 92), (0x0040000,), errno.EPERM),  # ADDR_NO_RANDOMIZE
])  # fmt: skip
@pytest.mark.parametrize("arch", AUDIT)
def test_some_calls_are_judged_by_an_argument(
    arch: str, call: tuple[int, int], arguments: tuple[int, ...], expected: int | None
) -> None:
    assert answer(arch, call[list(AUDIT).index(arch)], *arguments) == expected


@pytest.mark.parametrize("arch", AUDIT)
def test_the_program_is_as_the_kernel_wants_it(arch: str) -> None:
    program = list(struct.iter_unpack("=HBBI", refusing(arch)))
    assert len(program) <= 4096  # BPF_MAXINSNS
    assert program[-1] == (seccomp.RETURN, 0, 0, seccomp.ALLOW)
    assert all(at + 1 + max(one[1], one[2]) < len(program) for at, one in enumerate(program[:-1]))
