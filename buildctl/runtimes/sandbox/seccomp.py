"""Which system calls a sandbox refuses, as a program for the kernel's filter (classic BPF, linux/seccomp.h).

The list is what Docker's default profile keeps from a container without extra capabilities, and a few more: terminals
cannot be typed into, and processes not be attached to. It is a list of what is refused, so that new calls work, and a
foreign program too: under QEMU the emulator makes the calls, and the filter is for those.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# linux/audit.h: what the kernel calls the architecture of a system call
AUDIT = {"amd64": 0xC000003E, "arm64": 0xC00000B7}
X32 = 0x40000000  # of amd64: the same calls with 32-bit pointers
NR, ARCH, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument has 8 bytes, the lower ones first
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PERMISSION, ABSENT = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
NAMESPACES = 0x7E020000  # linux/sched.h: every CLONE_NEW... but that of time, which clone does not take

# number on amd64 and on arm64 (asm/unistd.h); None where there is none
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "_sysctl": (156, None), "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "clock_adjtime": (305, 266),
    "clock_settime": (227, 112), "create_module": (174, None), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fsopen": (430, 430), "fspick": (433, 433), "get_kernel_syms": (177, None), "get_mempolicy": (239, 236),
    "init_module": (175, 105), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272),
    "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219), "lookup_dcookie": (212, 18),
    "mbind": (237, 235), "migrate_pages": (256, 238), "mount": (165, 40), "mount_setattr": (442, 442),
    "move_mount": (429, 429), "move_pages": (279, 239), "nfsservctl": (180, 42), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "pidfd_getfd": (438, 438), "pivot_root": (155, 41),
    "process_madvise": (440, 440), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "query_module": (178, None), "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "request_key": (249, 218), "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268), "settimeofday": (164, 170),
    "swapoff": (168, 225), "swapon": (167, 224), "sysfs": (139, None), "syslog": (103, 116), "umount2": (166, 39),
    "unshare": (272, 97), "uselib": (134, None), "userfaultfd": (323, 282), "ustat": (136, None),
    "vhangup": (153, 58),
}  # fmt: skip
CLONE, CLONE3 = (56, 220), (435, 435)


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """Calls that are refused by the lower half of one argument: if it is, or (`only`) is not, among `values`."""

    call: tuple[int, int]
    position: int
    values: tuple[int, ...]
    only: bool = False


ARGUMENT_RULES = (
    Argument(call=(16, 29), position=1, values=(0x5412, 0x541C)),  # ioctl: TIOCSTI, TIOCLINUX type into a terminal
    Argument(call=(41, 198), position=0, values=(40,)),  # socket: AF_VSOCK reaches around network namespaces
    Argument(call=(101, 117), position=0, values=(16, 0x4206)),  # ptrace: ATTACH, SEIZE; a parent may trace its child
    Argument(call=(135, 92), position=0, values=(0, 8, 0x20000, 0x20008, 0xFFFFFFFF), only=True),  # personality
)


def refusing(arch: str) -> bytes:
    """The program for processes of this machine, `arch`, as an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *one) for one in _instructions(arch))


def _instructions(arch: str) -> Iterator[tuple[int, int, int, int]]:
    column = list(AUDIT).index(arch)
    yield LOAD, 0, 0, ARCH
    yield from _unless(JUMP_EQUAL, AUDIT[arch], ABSENT)  # 32-bit programs, whose calls have other numbers
    yield LOAD, 0, 0, NR
    if arch == "amd64":
        yield from _if(JUMP_SET, X32, ABSENT)
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            yield from _if(JUMP_EQUAL, number, PERMISSION)
    yield from _if(JUMP_EQUAL, CLONE3[column], ABSENT)  # its flags are in memory; C libraries then use clone
    yield from _with_argument(CLONE[column], 0, [*_if(JUMP_SET, NAMESPACES, PERMISSION)])
    for rule in ARGUMENT_RULES:
        yield from _with_argument(rule.call[column], rule.position, list(_values(rule)))
    yield RETURN, 0, 0, ALLOW


def _values(rule: Argument) -> Iterator[tuple[int, int, int, int]]:
    for value in rule.values:
        yield from _if(JUMP_EQUAL, value, ALLOW if rule.only else PERMISSION)
    if rule.only:
        yield RETURN, 0, 0, PERMISSION


def _with_argument(
    call: int, position: int, body: list[tuple[int, int, int, int]]
) -> Iterator[tuple[int, int, int, int]]:
    """`body` with that argument, for one call; the number of the call is loaded again behind it."""
    yield JUMP_EQUAL, 0, len(body) + 2, call
    yield LOAD, 0, 0, ARGUMENTS + 8 * position
    yield from body
    yield LOAD, 0, 0, NR


def _if(how: int, value: int, result: int) -> Iterator[tuple[int, int, int, int]]:
    yield how, 0, 1, value
    yield RETURN, 0, 0, result


def _unless(how: int, value: int, result: int) -> Iterator[tuple[int, int, int, int]]:
    yield how, 1, 0, value
    yield RETURN, 0, 0, result
