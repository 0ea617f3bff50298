"""The process that becomes the sandbox. Runs alone (`python -I -S THIS FD`): it and its neighbours `calls` and `mounts`
import the standard library only.

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
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[3]))  # -I takes the folder of the script away

from buildctl.runtimes.sandbox.calls import (
    CAPBSET_DROP,
    LIBC,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    SECCOMP_FILTER,
    SET_NO_NEW_PRIVS,
    SET_SECCOMP,
    Spec,
    StepError,
    call,
    die_with_parent,
    step,
    write,
)
from buildctl.runtimes.sandbox.mounts import build_root, open_stage


def main() -> NoReturn:
    with open(int(sys.argv[1]), "rb") as file:  # noqa: PTH123
        spec: Spec = json.load(file)
    die_with_parent(spec["parent"])
    # where memory runs out, the kernel ends a sandbox first; all processes of it together have no limit of their own
    with contextlib.suppress(OSError):
        write("/proc/self/oom_score_adj", "1000")
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
    os.close(alive)
    os.write(held, b"1")
    for fd in (0, 1, 2, spec["status_fd"]):  # the command's own end of these decides when the reader sees their end
        os.close(fd)
    # returns when the whole pid namespace is gone
    if spec["passed_on"]:
        attend(child, spec["passed_on"], lambda number: os.kill(child, number))
    else:
        attend(child, (signal.SIGTERM,), lambda _: os.kill(child, signal.SIGKILL))  # the deadline
    os._exit(0)


def attend(child: int, numbers: Sequence[int], send: Callable[[int], None]) -> int:
    """Wait for `child`, and return its status. Signals of `numbers` that come meanwhile go to `send`; the command may
    be gone already.

    They stay blocked and are fetched: a handler next to a waiting waitpid misses what comes just before it waits.
    """
    awaited = {*numbers, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_SETMASK, awaited)
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            return status
        if pid == 0 and (number := signal.sigwait(awaited)) != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                send(number)


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


def become(uid: int, gid: int) -> None:
    """In a new user namespace that has these two ids, which stand for the ones we have."""
    maps = {"uid_map": f"{uid} {os.geteuid()} 1", "gid_map": f"{gid} {os.getegid()} 1"}
    call("unshare", NEWUSER)
    write("/proc/self/setgroups", "deny")
    for name, text in maps.items():
        write(f"/proc/self/{name}", text)


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
        status = attend(command, spec["passed_on"], lambda number: os.killpg(command, number))
        code = os.waitstatus_to_exitcode(status)
        report(spec, {"exit": code} if code >= 0 else {"signal": -code})
    except StepError as error:
        report(spec, {"error": error.reason, "step": error.step})
    except Exception as error:  # noqa: BLE001  # a process 1 that only vanished would tell nobody why
        report(spec, {"error": repr(error), "step": "set-up"})
    finally:
        os._exit(0)  # and the kernel kills whatever else is left in this pid namespace


def become_command(spec: Spec) -> NoReturn:
    argv: list[str] = spec["argv"]
    try:
        os.set_inheritable(spec["status_fd"], False)  # nothing in the image can write its own outcome
        os.setsid()
        if spec["terminal"]:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.umask(0o022)
        limit(spec["shield"])
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec keeps that
            signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        drop_privileges(spec)
        os.chdir(spec["cwd"])
        refuse_calls(bytes.fromhex(spec["refused_calls"]))
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
            LIBC.prctl(CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)  # fails beyond the last one, that is all
    if spec["ids"]:
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if uid != 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3
        call("capset", header, (ctypes.c_uint32 * 6)())
    call("prctl", SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)


def limit(shield: dict[str, Any]) -> None:
    for name, most in shield["limits"].items():
        number = getattr(resource, name)
        soft, hard = (most if had == resource.RLIM_INFINITY else min(most, had) for had in resource.getrlimit(number))
        resource.setrlimit(number, (soft, hard))


def refuse_calls(program: bytes) -> None:
    """From here on, for this process and all that it starts. Needs no rights, since it can gain none."""

    class FilterProgram(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    loaded = FilterProgram(len(program) // 8, program)
    call("prctl", SET_SECCOMP, ctypes.c_ulong(SECCOMP_FILTER), ctypes.c_ulong(ctypes.addressof(loaded)), 0, 0)


if __name__ == "__main__":
    main()
