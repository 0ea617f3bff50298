# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH120, PTH211  (os is the better fit for a file that makes system calls in a row)
"""The mounts of a sandbox: its layers, /proc, /sys and /dev, what is bound into it, and what is hidden and closed.

For process 1 of a sandbox (`init`), so it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from buildctl.runtimes.sandbox.calls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    ATTR_IDMAP,
    ATTR_NODEV,
    ATTR_NOSUID,
    BIND,
    DETACH,
    IFF_UP,
    MOUNT_SETATTR,
    MOVE_EMPTY_PATH,
    MOVE_MOUNT,
    NEWUSER,
    NODEV,
    NOEXEC,
    NOSUID,
    OPEN_TREE,
    OPEN_TREE_CLONE,
    PRIVATE,
    RDONLY,
    REC,
    REMOUNT,
    SIOCSIFFLAGS,
    Spec,
    call,
    kept_flags,
    mount,
    step,
    system_call,
    write,
)


def open_stage(spec: Spec) -> None:
    """The folder that everything is put together in, as the working directory: no path needs to lead there."""
    with step("mount propagation"):
        mount("none", "/", None, REC | PRIVATE)
    stage, ids = spec["stage"], spec["ids"]
    with step(f"tmpfs on {stage}"):
        owner = f",uid={ids['first']},gid={ids['first']}" if ids else ""
        mount("tmpfs", stage, "tmpfs", NOSUID | NODEV, f"mode=755,size={spec['shield']['sizes']['']}{owner}")
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
    if spec["workspace"]:
        os.mkdir("w")
        with step(f"bind of {spec['workspace']['source']}"):
            bring_folder(spec["workspace"])


def bring_folder(folder: Spec) -> None:
    """A folder of the host at `w`. With `owners`, an idmapped mount (Linux 5.12): its owner here is the command's user
    inside, and the other way around. Where the file system cannot do that, others' rights count.
    """
    if folder["owners"]:
        try:
            bring_mapped(folder)
            return
        except OSError as error:
            text = f"sandbox: {folder['source']}: {error.strerror}: its owner is nobody inside, so it may be unreadable"
            os.write(2, f"{text}\n".encode())
    mount(folder["source"], "w", None, BIND | REC)
    mount("none", "w", None, REMOUNT | BIND | NOSUID | NODEV | kept_flags("w"))


def bring_mapped(folder: Spec) -> None:
    with namespace_with(folder["owners"]) as namespace:
        path = os.fsencode(folder["source"])
        tree = system_call(OPEN_TREE, AT_FDCWD, path, OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC)
        size = 32  # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
        attributes = (ctypes.c_uint64 * 4)(ATTR_IDMAP | ATTR_NOSUID | ATTR_NODEV, 0, 0, namespace)
        system_call(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH | AT_RECURSIVE, attributes, ctypes.c_ulong(size))
        system_call(MOVE_MOUNT, tree, b"", AT_FDCWD, b"w", MOVE_EMPTY_PATH)
        os.close(tree)


@contextlib.contextmanager
def namespace_with(maps: dict[str, str]) -> Iterator[int]:
    """A user namespace that nobody is in, as a file descriptor."""
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        with contextlib.suppress(OSError):
            call("unshare", NEWUSER)
            os.write(go, b"1")
            signal.pause()
        os._exit(1)
    os.close(go)
    try:
        if not os.read(ready, 1):
            raise OSError(0, "no user namespace for its owner")
        for name, text in maps.items():
            write(f"/proc/{child}/{name}", text)
        namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        yield namespace
    finally:
        os.close(namespace)


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
    if spec["workspace"]:
        with step(spec["workspace"]["target"]):
            mount("../w", spec["workspace"]["target"], None, BIND | REC)
    with step("pivot_root"):
        call("pivot_root", b".", b".")
        call("umount2", b".", DETACH)
        os.chdir("/")
    shield(spec["shield"], own_root=spec["own_root"])
    if spec["read_only"]:
        with step("read-only root"):
            mount("none", "/", None, REMOUNT | BIND | RDONLY | kept_flags("/"))


def shield(policy: dict[str, list[str]], *, own_root: bool) -> None:
    """Hide and close the kernel's own files. A user namespace made in here cannot undo it: its mounts are locked.

    With `own_root`, root inside owns what /proc shows, so all of it but the processes is closed.
    """
    read_only = [*policy["read_only"], *(kernel_files() if own_root else [])]
    for path in policy["masked"]:
        with step(f"mask of {path}"):
            if os.path.isdir(path):
                mount("tmpfs", path, "tmpfs", RDONLY | NOSUID | NODEV | NOEXEC, "mode=555")
            elif os.path.exists(path):
                mount("/dev/null", path, None, BIND)
    for path in filter(os.path.exists, read_only):
        with step(f"read-only {path}"):
            mount(path, path, None, BIND | REC)
            for point in mounts_in(path):
                mount("none", point, None, REMOUNT | BIND | RDONLY | kept_flags(point))


def kernel_files() -> list[str]:
    """Everything in /proc that is not about a process, nor closed already."""
    found = (path for path in Path("/proc").iterdir() if not path.name.isdigit() and not path.is_symlink())
    mounted = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return sorted({str(path) for path in found} - mounted)


def mounts_in(path: str) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = {line.split()[4].replace("\\040", " ") for line in lines}  # codecs are files, which the image lacks
    return sorted(point for point in points if f"{point}/".startswith(f"{path}/"))


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
        mount_dev(spec["shield"], spec["terminal"])
    for path in spec["scratch"]:
        with step(path):
            size = spec["shield"]["sizes"].get(path, spec["shield"]["sizes"]["/tmp"])  # noqa: S108
            mount("tmpfs", path.lstrip("/"), "tmpfs", NOSUID | NODEV, f"mode=1777,size={size}")


def mount_files(target: str, files: dict[str, str]) -> None:
    mount("tmpfs", target, "tmpfs", NOSUID | NODEV | NOEXEC, "mode=755,size=4m")
    for name, text in files.items():
        Path(f"{target}/{name}").parent.mkdir(parents=True, exist_ok=True)
        Path(f"{target}/{name}").write_text(text)


def mount_dev(shield: Spec, terminal: str) -> None:
    sizes = shield["sizes"]
    mount("tmpfs", "dev", "tmpfs", NOSUID, f"mode=755,size={sizes['/dev']}")
    for name in shield["devices"]:
        Path(f"dev/{name}").touch()
        mount(f"/dev/{name}", f"dev/{name}", None, BIND)
    for name, target in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        os.symlink(f"/proc/self/{target}", f"dev/{name}")
    for name in ("shm", "pts"):
        os.mkdir(f"dev/{name}")
    mount("tmpfs", "dev/shm", "tmpfs", NOSUID | NODEV, f"mode=1777,size={sizes['/dev/shm']}")  # noqa: S108
    with contextlib.suppress(OSError):  # only terminals are lost
        mount("devpts", "dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
        os.symlink("pts/ptmx", "dev/ptmx")
    if terminal:  # for programs that ask for its name
        Path("dev/console").touch()
        mount(terminal, "dev/console", None, BIND)


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
