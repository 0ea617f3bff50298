# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH120, PTH211  (os is the better fit for a file that makes system calls in a row)
"""The process that becomes the sandbox. Runs alone (`python -I -S THIS FD`), so it imports the standard library only.

Three processes: the launcher makes the user namespace, in which root is not root outside; its child is process 1 of the
pid namespace, builds the mounts and reaps; its grandchild drops privileges and becomes the command. Each dies by
SIGKILL with its parent, and the mounts with the last of them, so nothing needs to be cleaned up whatever happens.
System calls are made directly: mount(8) goes through an interface that cuts long overlayfs options, and no version of
any tool has to be present.

The outcome is one JSON object on the file descriptor `status_fd`: {"exit": N}, {"signal": N}, or
{"error": TEXT, "step": NAME} when the sandbox could not be made.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

_libc = ctypes.CDLL(None, use_errno=True)
# linux/sched.h, sys/mount.h, linux/prctl.h
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE, DETACH = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18, 2
SET_PDEATHSIG, CAPBSET_DROP, SET_NO_NEW_PRIVS = 1, 24, 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
Spec = dict[str, Any]


class StepError(Exception):
    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step, self.reason = step, reason


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StepError(name, reason) from error


def call(name: str, *args: int | bytes | ctypes.Array[Any] | ctypes.c_ulong | None) -> None:
    if getattr(_libc, name)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def mount(source: str, target: str, kind: str | None, flags: int = 0, options: str = "") -> None:
    call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        os.fsencode(options) if options else None,
    )


def die_with_parent(parent: int | None = None) -> None:
    call("prctl", SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if parent is not None and os.getppid() != parent:  # it died before we asked to be told
        os._exit(1)


def main() -> NoReturn:
    with open(int(sys.argv[1]), "rb") as file:  # noqa: PTH123
        spec: Spec = json.load(file)
    die_with_parent(spec["parent"])
    try:
        enter_user_namespace(spec)
        with step("namespaces"):
            call("unshare", NEWNS | NEWPID | NEWIPC | NEWUTS | (0 if spec["network"] else NEWNET))
        alive, held = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(held)
            become_init(spec, alive)
    except StepError as error:
        report(spec, {"error": error.reason, "step": error.step})
        os._exit(1)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))  # the deadline
    os.close(alive)
    os.write(held, b"1")
    for fd in (0, 1, 2, spec["status_fd"]):  # the command's own end of these decides when the reader sees their end
        os.close(fd)
    os.waitpid(child, 0)  # returns when the whole pid namespace is gone
    os._exit(0)


def report(spec: Spec, outcome: dict[str, Any]) -> None:
    os.write(spec["status_fd"], json.dumps(outcome).encode())


def enter_user_namespace(spec: Spec) -> None:
    """With `ids` (root only) one whose ids are those, else the caller's as root, which is all that is allowed.

    Those ids see no more of the machine than anybody, so root opens the way to the layers before it becomes them.
    """
    if spec["ids"] is None:
        with step("user namespace"):
            become(0, 0)
        return
    with step("mount namespace"):
        try:
            call("unshare", NEWNS)
        except PermissionError:  # root of a container without CAP_SYS_ADMIN: first where it has it
            new_user_namespace(spec["ids"]["own"])
            call("unshare", NEWNS)
    open_stage(spec)
    with step("user namespace"):
        new_user_namespace(spec["ids"]["maps"])
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    die_with_parent(spec["parent"])  # the kernel forgets it with a change of ids


def new_user_namespace(maps: dict[str, str]) -> None:
    me = os.getpid()
    ready, go = os.pipe()
    writer = os.fork()  # a map of more than one id takes a process that stayed in the parent's namespace
    if writer == 0:
        os.close(go)
        code = 1
        with contextlib.suppress(OSError):
            if os.read(ready, 1):
                for name, text in maps.items():
                    write(f"/proc/{me}/{name}", text)
                code = 0
        os._exit(code)
    os.close(ready)
    call("unshare", NEWUSER)
    os.write(go, b"1")
    os.close(go)
    if os.waitpid(writer, 0)[1] != 0:
        raise OSError(0, "the id maps were refused")


def open_stage(spec: Spec) -> None:
    """The folder that everything is put together in, as the working directory: no path needs to lead there."""
    with step("mount propagation"):
        mount("none", "/", None, REC | PRIVATE)
    stage, ids = spec["stage"], spec["ids"]
    with step(f"tmpfs on {stage}"):
        owner = f",uid={ids['first']},gid={ids['first']}" if ids else ""
        mount("tmpfs", stage, "tmpfs", NOSUID | NODEV, f"mode=755{owner}")
    os.chdir(stage)
    os.mkdir("l")
    for number, layer in enumerate(spec["layers"]):
        with step(f"bind of {layer}"):
            if not ids:
                os.symlink(layer, f"l/{number}")
                continue
            os.mkdir(f"l/{number}")
            mount(layer, f"l/{number}", None, BIND)
            mount("none", f"l/{number}", None, REMOUNT | BIND | RDONLY | NODEV | kept_flags(f"l/{number}"))


def become(uid: int, gid: int) -> None:
    """In a new user namespace that has these two ids, which stand for the ones we have."""
    maps = {"uid_map": f"{uid} {os.geteuid()} 1", "gid_map": f"{gid} {os.getegid()} 1"}
    call("unshare", NEWUSER)
    write("/proc/self/setgroups", "deny")
    for name, text in maps.items():
        write(f"/proc/self/{name}", text)


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode("latin-1"))
    finally:
        os.close(fd)


def become_init(spec: Spec, alive: int) -> NoReturn:
    try:
        die_with_parent()
        if not os.read(alive, 1):
            os._exit(1)
        os.close(alive)
        build_root(spec)
        if spec["argv"] is None:  # only asked whether a sandbox can be made
            report(spec, {"exit": 0})
            os._exit(0)
        command = os.fork()
        if command == 0:
            become_command(spec)
        for fd in (0, 1, 2):
            os.close(fd)
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == command:
                break
        code = os.waitstatus_to_exitcode(status)
        report(spec, {"exit": code} if code >= 0 else {"signal": -code})
    except StepError as error:
        report(spec, {"error": error.reason, "step": error.step})
    except Exception as error:  # noqa: BLE001  # a process 1 that only vanished would tell nobody why
        report(spec, {"error": repr(error), "step": "set-up"})
    finally:
        os._exit(0)  # and the kernel kills whatever else is left in this pid namespace


def build_root(spec: Spec) -> None:
    if not spec["network"]:
        with step("loopback interface"):
            loopback_up()
    call("sethostname", b"sandbox", 7)
    if not spec["ids"]:
        open_stage(spec)
    if spec["binfmt"]:
        with step("binfmt_misc"):
            register_emulator(spec["binfmt"])
    os.mkdir("root")
    mount_tree(spec)
    os.chdir("root")
    mount_system(spec)
    for source, target, writable in spec["binds"]:
        with step(f"bind of {source}"):
            bind(source, target, read_only=not writable)
    with step("pivot_root"):
        call("pivot_root", b".", b".")
        call("umount2", b".", DETACH)
        os.chdir("/")
    shield(spec["shield"])
    if spec["read_only"]:
        with step("read-only root"):
            mount("none", "/", None, REMOUNT | BIND | RDONLY | kept_flags("/"))


def shield(policy: dict[str, list[str]]) -> None:
    """Hide and close the kernel's own files. A user namespace made in here cannot undo it: its mounts are locked."""
    for path in policy["masked"]:
        with step(f"mask of {path}"):
            if os.path.isdir(path):
                mount("tmpfs", path, "tmpfs", RDONLY | NOSUID | NODEV | NOEXEC, "mode=555")
            elif os.path.exists(path):
                mount("/dev/null", path, None, BIND)
    for path in filter(os.path.exists, policy["read_only"]):
        with step(f"read-only {path}"):
            mount(path, path, None, BIND | REC)
            for point in mounts_in(path):
                mount("none", point, None, REMOUNT | BIND | RDONLY | kept_flags(point))


def mounts_in(path: str) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = {line.split()[4].replace("\\040", " ") for line in lines}  # codecs are files, which the image lacks
    return sorted(point for point in points if f"{point}/".startswith(f"{path}/"))


def kept_flags(path: str) -> int:
    """Flags that a less privileged namespace may not clear when it remounts; ST_ and MS_ bits agree, all but one."""
    flags = os.statvfs(path).f_flag
    return flags & (NOSUID | NODEV | NOEXEC | 1024 | 2048) | ((1 << 21) if flags & 4096 else 0)


def register_emulator(rule: str) -> None:
    """A binfmt_misc of this user namespace's own (Linux 6.7): the host's is neither used nor changed. What it
    registers goes when the last mount of it does, so `mount_system` keeps it where every system has it.
    """
    os.mkdir("binfmt")
    mount("binfmt_misc", "binfmt", "binfmt_misc")
    write("binfmt/register", rule)


def mount_tree(spec: Spec) -> None:
    """The layers stacked by overlayfs, by short names (all options must fit in one page), or one whole directory."""
    if spec["merged"]:
        with step("root directory"):
            mount("l/0", "root", None, BIND)
        return
    os.mkdir("glue", 0o755)
    for name, text in spec["files"].items():
        os.makedirs(os.path.dirname(f"glue/{name}"), mode=0o755, exist_ok=True)
        Path(f"glue/{name}").write_text(text)
    for name in spec["directories"]:
        os.makedirs(f"glue/{name}", mode=0o755, exist_ok=True)
    options = "lowerdir=" + ":".join(["glue", *(f"l/{n}" for n in range(len(spec["layers"])))])
    if not spec["read_only"]:
        os.mkdir("upper", 0o755)
        os.mkdir("work")
        options += ",upperdir=upper,workdir=work"
    with step("overlayfs"):
        mount("overlay", "root", "overlay", 0, options + ",userxattr")


def mount_system(spec: Spec) -> None:
    with step("/proc"):
        try:
            mount("proc", "proc", "proc", NOSUID | NODEV | NOEXEC)
        except OSError:  # a container around us hides parts of its /proc; then ours would show them
            mount("/proc", "proc", None, BIND | REC)
    if spec["binfmt"]:
        with step("binfmt_misc"):
            mount("../binfmt", "proc/sys/fs/binfmt_misc", None, BIND)
    with contextlib.suppress(OSError):  # nothing needs /sys except GPUs and a better guess at the number of cores
        try:
            mount("sysfs", "sys", "sysfs", RDONLY | NOSUID | NODEV | NOEXEC)
        except OSError:
            mount("/sys", "sys", None, BIND | REC)
    for path, files in spec["kernel_files"].items():
        with contextlib.suppress(OSError):
            mount_files(path, files)
    with step("/dev"):
        mount_dev(spec["shield"]["devices"])
    for path in spec["scratch"]:
        with step(path):
            mount("tmpfs", path.lstrip("/"), "tmpfs", NOSUID | NODEV, "mode=1777")


def mount_files(target: str, files: dict[str, str]) -> None:
    mount("tmpfs", target, "tmpfs", NOSUID | NODEV | NOEXEC, "mode=755")
    for name, text in files.items():
        Path(f"{target}/{name}").parent.mkdir(parents=True, exist_ok=True)
        Path(f"{target}/{name}").write_text(text)


def mount_dev(devices: list[str]) -> None:
    mount("tmpfs", "dev", "tmpfs", NOSUID, "mode=755")
    for name in devices:
        Path(f"dev/{name}").touch()
        mount(f"/dev/{name}", f"dev/{name}", None, BIND)
    for name, target in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        os.symlink(f"/proc/self/{target}", f"dev/{name}")
    for name in ("shm", "pts"):
        os.mkdir(f"dev/{name}")
    mount("tmpfs", "dev/shm", "tmpfs", NOSUID | NODEV, "mode=1777")
    with contextlib.suppress(OSError):  # only terminals are lost
        mount("devpts", "dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
        os.symlink("pts/ptmx", "dev/ptmx")


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Onto `target` below the new root, which is made when it lies on one of our own tmpfs (/dev)."""
    if not os.path.lexists(target):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    mount(source, target, None, BIND)
    if read_only:
        with contextlib.suppress(OSError):  # flags of the source's mount may be locked; then it stays as it is there
            mount("none", target, None, REMOUNT | BIND | RDONLY | kept_flags(target))


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def become_command(spec: Spec) -> NoReturn:
    argv: list[str] = spec["argv"]
    try:
        os.set_inheritable(spec["status_fd"], False)  # nothing in the image can write its own outcome
        os.setsid()
        os.umask(0o022)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec keeps that
            signal.signal(number, signal.SIG_DFL)
        drop_privileges(spec)
        os.chdir(spec["cwd"])
        os.execvpe(argv[0], argv, spec["env"])  # noqa: S606
    except OSError as error:  # the exit codes that shells and Docker give
        name = spec["cwd"] if error.filename == spec["cwd"] else argv[0]
        os.write(2, f"sandbox: {name}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def drop_privileges(spec: Spec) -> None:
    uid, gid = spec["uid"], spec["gid"]
    if spec["ids"]:
        os.setgroups(spec["groups"])
    elif (uid, gid) != (0, 0):
        become(uid, gid)
    for capability in range(64):
        if uid != 0 or capability not in spec["shield"]["root_capabilities"]:
            _libc.prctl(CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)  # fails beyond the last one, that is all
    if spec["ids"]:
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if uid != 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3
        call("capset", header, (ctypes.c_uint32 * 6)())
        call("prctl", SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)


if __name__ == "__main__":
    main()
