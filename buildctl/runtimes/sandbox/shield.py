"""What a sandbox exposes of the kernel and lets root in it do. `init` enforces it, whoever started it.

The lists are those of runc and Docker (moby, oci/defaults.go). Names that this kernel lacks are skipped.
"""

from __future__ import annotations

import os

# What Docker leaves to root: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW
# SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP
ROOT_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# With all that is mounted below: /proc/sys holds the sandbox's own binfmt_misc.
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/pressure", "/proc/sys", "/proc/sysrq-trigger", "/sys")
# Empty: what tells about the host's hardware and other processes, or is read by memory address.
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
# tmpfs by path, "" for what is written to the root: a share of the machine's memory. /dev holds device files.
SIZES = {"": "50%", "/tmp": "25%", "/dev/shm": "25%", "/dev": "1m"}  # noqa: S108
# Threads count as processes; files as Docker gives them. Private memory of one process: what the machine has, since a
# limit of address space would refuse CUDA, QEMU and others that reserve much more than they use.
LIMITS = {
    "RLIMIT_CORE": 0,
    "RLIMIT_DATA": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    "RLIMIT_NOFILE": 1 << 20,
    "RLIMIT_NPROC": 1 << 13,
}
POLICY = {
    "masked": MASKED,
    "read_only": READ_ONLY,
    "devices": DEVICES,
    "root_capabilities": ROOT_CAPABILITIES,
    "sizes": SIZES,
    "limits": LIMITS,
}
