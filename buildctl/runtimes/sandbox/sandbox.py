"""Running an image without Docker: its layers in Linux namespaces, as any user; needs no other program."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildctl.artifacts.store import Store
from buildctl.ground.errors import RuntimeUnavailableError, ToolError
from buildctl.ground.machine import require_linux
from buildctl.matrix.account import PATH
from buildctl.oci.image import ImageConfig
from buildctl.runtimes.api import ImageRef, Outcome
from buildctl.runtimes.gpu_files import kind_of_image
from buildctl.runtimes.sandbox.emulation import HINT, Emulator, find_emulators, kernel_files, native_arch
from buildctl.runtimes.sandbox.gpu import Passthrough, passthrough
from buildctl.runtimes.sandbox.ids import Ids, find_ids, outside, own_map
from buildctl.runtimes.sandbox.process import Launched, attach, end_launched, launch
from buildctl.runtimes.sandbox.seccomp import refusing
from buildctl.runtimes.sandbox.shield import POLICY
from buildctl.runtimes.sandbox.tree import FOLDERS, WORKSPACE, Tree, merged, stacked
from buildctl.runtimes.sandbox.user import User, find_user

_EMULATED_AT_ONCE = 3  # each with torch in memory
SET_UP = 30.0  # seconds for a sandbox that only sets itself up
HOSTS = "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n"


NAMESPACES = "it is made of namespaces, mounts and a seccomp filter"


class SandboxRuntime:
    """Keeps unpacked layers in the store, `unpacked/DIFF-ID`, so that images share them; root's have a folder in there,
    since their files belong to other ids.
    """

    name = "sandbox"

    def __init__(self, store: Store) -> None:
        self.store = store

    @contextmanager
    def start(self, image: ImageRef) -> Iterator[SandboxSession]:
        """Unpack what is missing and start an empty sandbox; raises RuntimeUnavailableError with reason and hint."""
        require_linux("a sandbox", NAMESPACES, hint="start Docker", error=RuntimeUnavailableError)
        emulators = emulators_for(image.arch)
        stage, ids = self.store.root / "mnt", find_ids()
        owner, whose = (ids.owner, f"ids-{ids.first}") if ids else (None, "")
        tree = stacked(image, self.store.root / "unpacked" / whose, owner=owner)
        if tree is not None:
            try:
                yield open_session(tree, image.config, arch=image.arch, stage=stage, emulators=emulators, ids=ids)
                return
            except OverlayRefusedError:
                pass
        tree = merged(image, self.store.root / "unpacked-images" / whose, owner=owner)
        yield open_session(tree, image.config, arch=image.arch, stage=stage, emulators=emulators, ids=ids)


class OverlayRefusedError(RuntimeUnavailableError):
    """The kernel does not let us mount an overlayfs."""


def emulators_for(arch: str) -> tuple[Emulator | None, ...]:
    return (None,) if arch == native_arch() else find_emulators(arch)


def open_session(
    tree: Tree,
    config: ImageConfig,
    *,
    arch: str,
    stage: Path,
    emulators: Sequence[Emulator | None],
    ids: Ids | None = None,
) -> SandboxSession:
    """A session on an unpacked image, with the first emulator this kernel accepts. `stage` is an empty folder, `ids`
    those that the files of `tree` belong to, None when all belong to the caller.
    """
    stage.mkdir(parents=True, exist_ok=True)
    gpu = passthrough(kind_of_image(config), arch, emulated=arch != native_arch(), as_others=ids is not None)
    if gpu.available and tree.merged:
        gpu = Passthrough(reason="GPUs need overlayfs in the sandbox")
    session = SandboxSession(tree=tree, config=config, stage=stage, emulator=None, gpu=gpu, ids=ids)
    for emulator in emulators:
        attempt = replace(session, emulator=emulator)
        refused = attempt.refusal()
        if refused is None:
            return attempt
        if refused.step != "binfmt_misc":
            raise unavailable(refused)
    raise RuntimeUnavailableError(
        f"this kernel ({os.uname().release}) has no binfmt_misc in user namespaces (Linux 6.7), and the host has no "
        f"registration for {arch}",
        hint=f"{HINT}  # registers qemu on the host",
    )


def unavailable(launched: Launched) -> RuntimeUnavailableError:
    text = f"cannot start a sandbox here: {launched.step}: {launched.error}"
    if launched.step == "overlayfs":
        return OverlayRefusedError(text, hint="Linux 5.11 or newer, or run as root")
    switches = {
        "kernel/apparmor_restrict_unprivileged_userns": "1",
        "kernel/unprivileged_userns_clone": "0",
        "user/max_user_namespaces": "0",
    }
    for name, bad in switches.items():
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() == bad:
            good = {"1": "0", "0": "1"}[bad] if name != "user/max_user_namespaces" else "10000"
            return RuntimeUnavailableError(text, hint=f"sudo sysctl -w {name.replace('/', '.')}={good}")
    return RuntimeUnavailableError(
        text, hint="user namespaces are blocked here (a container without --privileged?); use Docker, or run as root"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSession:
    tree: Tree
    config: ImageConfig
    stage: Path
    emulator: Emulator | None
    gpu: Passthrough
    ids: Ids | None

    @property
    def emulated(self) -> str | None:
        return self.emulator.name if self.emulator else None

    @property
    def gpus(self) -> bool:
        return self.gpu.available

    @property
    def gpus_reason(self) -> str:
        return self.gpu.reason

    @property
    def ownership(self) -> bool:
        return self.ids is not None

    @property
    def at_once(self) -> int:
        """An emulated program keeps one processor busy for long; others end in a second, and may need a GPU."""
        return min(_EMULATED_AT_ONCE, os.cpu_count() or 1) if self.emulator else 1

    def stop(self) -> None:
        end_launched()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: str = "",
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        read_only: bool = True,
        tmp: bool = True,
        network: bool = False,
        through_entrypoint: bool = False,
    ) -> Outcome:
        """See `Session.run`; raises ToolError if the sandbox itself, not the command, fails."""
        command = self._command(argv) if through_entrypoint else list(argv)
        who = self._who(user)
        spec = self._spec(command, who, extra=env or {}, read_only=read_only, tmp=tmp, network=network)
        return _outcome(launch(spec, timeout=timeout, stdin=stdin))

    def attach(
        self,
        argv: Sequence[str],
        *,
        workspace: Path,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        network: bool = False,
    ) -> Outcome:
        """Run `argv` as `docker run` does, through the ENTRYPOINT, with this process's input, output and signals, and
        the folder `workspace` of this machine at /workspace, which is where it starts. Raises ToolError as `run` does.

        The folder's owner is the command's user inside. What is written elsewhere is thrown away.
        """
        who, term = self._who(user), os.environ.get("TERM")
        extra = {**({"TERM": term} if term else {}), **(env or {})}
        spec = self._spec(self._command(argv), who, extra=extra, read_only=False, tmp=True, network=network)
        maps = self._maps(who)
        owners, owner = None, os.geteuid()
        if maps is not None:
            there, here = workspace.stat(), maps["maps"]
            owner = outside(here["uid_map"], who.uid)
            groups = outside(here["gid_map"], who.gid)
            owners = {"uid_map": f"{there.st_uid} {owner} 1", "gid_map": f"{there.st_gid} {groups} 1"}
        folder = {"source": str(workspace), "target": WORKSPACE, "owners": owners}
        return _outcome(attach({**spec, "cwd": f"/{WORKSPACE}", "workspace": folder}, owner=owner))

    def _command(self, argv: Sequence[str]) -> list[str]:
        return [*self.config.entrypoint, *(argv or self.config.cmd)]

    def _who(self, user: str | None) -> User:
        return find_user(user if user is not None else self.config.user, self.tree.read)

    def refusal(self) -> Launched | None:
        """Why no sandbox can start, or None if one can."""
        who = self._who(None)
        spec = self._spec(None, who, extra={}, read_only=True, tmp=True, network=False)
        launched = launch(spec, timeout=SET_UP, stdin="")
        return launched if launched.outcome is None else None

    def _spec(
        self,
        argv: list[str] | None,
        who: User,
        *,
        extra: Mapping[str, str],
        read_only: bool,
        tmp: bool,
        network: bool,
    ) -> dict[str, object]:
        if argv is not None and not argv:
            raise ToolError("nothing to run: no command, and the image has no ENTRYPOINT or CMD")
        cwd = self.config.working_dir or "/"
        emulation = self.emulator.env if self.emulator else ()
        env = {"PATH": PATH, "HOME": who.home, **dict(emulation), **dict(self.config.env), **extra}
        files = {"etc/hosts": HOSTS, **({"etc/resolv.conf": _resolv_conf()} if network else {})}
        files |= {target: "" for _, target, _ in self.gpu.binds if not target.startswith("dev/")}
        directories = [d for d in (*FOLDERS, cwd.strip("/")) if d and not self.tree.exists(d)]
        scratch = ["/tmp"] if read_only and tmp else []  # noqa: S108
        if self.tree.merged and not read_only:  # no layer to throw away: what people expect to write to is in memory
            places, own = {env["HOME"], cwd}, who.home
            if self.tree.exists(own.strip("/")) and not any(place.startswith(f"{own}/") for place in places):
                places.add(own)  # root's, where the image sets HOME for its user
            scratch = ["/tmp", *sorted(places - {"/"})]  # noqa: S108
        return {
            "argv": argv,
            "env": env,
            "cwd": cwd,
            "uid": who.uid,
            "gid": who.gid,
            "groups": list(who.groups),
            "ids": self._maps(who),
            "stage": str(self.stage),
            "layers": [str(p) for p in self.tree.layers],
            "merged": self.tree.merged,
            "read_only": read_only or self.tree.merged,
            "network": network,
            "files": files,
            "directories": directories,
            "scratch": scratch,
            "binds": [list(b) for b in self.gpu.binds],
            "binfmt": self.emulator.rule if self.emulator else "",
            "kernel_files": kernel_files(self.emulator.rule) if self.emulator else {},
            "shield": POLICY,
            "own_root": self.ids is None and os.geteuid() == 0,
            "refused_calls": refusing(native_arch()).hex(),
            "workspace": None,
        }

    def _maps(self, who: User) -> dict[str, Any] | None:
        if self.ids is None:
            return None
        maps = {"uid_map": self.ids.mapping([who.uid]), "gid_map": self.ids.mapping([who.gid, *who.groups])}
        return {"first": self.ids.first, "maps": maps, "own": {name: own_map(name) for name in maps}}


def _outcome(launched: Launched) -> Outcome:
    if launched.outcome is None:
        raise ToolError(f"the sandbox failed: {launched.step}: {launched.error}")
    return launched.outcome


def _resolv_conf() -> str:
    try:
        return Path("/etc/resolv.conf").read_text()
    except OSError:
        return ""
