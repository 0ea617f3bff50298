"""The folder that the engine runs in: a small Debian with a current dockerd and other tools, made once and cached."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

from buildctl.ground.errors import ToolError
from buildctl.ground.run import run, which

SUITE = "forky"
PACKAGES = (
    "ca-certificates",
    "containerd",
    "cosign",
    "crane",
    "docker-buildx",
    "docker-cli",
    "docker.io",
    "iproute2",
    "iptables",
    "mount",
    "openssh-client",
    "openssh-server",
    "oras",
    "qemu-user-binfmt",
    "runc",
    "tini",
)
NEEDED = {"mmdebstrap": "mmdebstrap", "unshare": "util-linux", "setpriv": "util-linux"}
# only these two emulators are of use; the others are 450 MB
_HOOK = 'find "$1/usr/bin" -name "qemu-*" ! -name qemu-aarch64 ! -name qemu-x86_64 -delete'


class Unavailable(Exception):  # noqa: N818 - not an error: the tests that need an engine are NOT RUN
    """Why there is no Docker Engine here; the message is the reason a skipped test shows."""


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "buildctl-tests" / "docker-engine"


def refuse_where_impossible() -> None:
    """Raise Unavailable where an engine of our own must not or cannot be started."""
    if platform.system() != "Linux":
        raise Unavailable("no Docker Engine answers, and one of our own needs Linux")
    if os.geteuid() != 0:
        raise Unavailable("no Docker Engine answers, and starting one of our own needs root")
    release = platform.freedesktop_os_release()
    if not {release.get("ID", ""), *release.get("ID_LIKE", "").split()} & {"debian", "ubuntu"}:
        raise Unavailable(f"no Docker Engine answers, and our own is made on Debian or Ubuntu, not {release.get('ID')}")


def install_tools() -> None:
    packages = sorted({package for program, package in NEEDED.items() if which(program) is None})
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        packages.append("debian-archive-keyring")
    if not packages:
        return
    argv = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        if run(argv, timeout=300, env=environment, check=False).returncode != 0:
            run(["apt-get", "update", "-q"], timeout=300, env=environment)
            run(argv, timeout=300, env=environment)
    except ToolError as error:
        raise Unavailable(f"a Docker Engine of our own needs {', '.join(packages)}: {error.message}") from error


def debian_mirror() -> str | None:
    """The mirror of this machine's own apt sources; None (mmdebstrap's packaged default) where they have no Debian."""
    form = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    listed = run(["apt-get", "indextargets", "--format", form], timeout=60, check=False).stdout.splitlines()
    mirrors = sorted({line.split("|")[2] for line in listed if line.startswith("Debian|Debian|")})
    return mirrors[0] if mirrors else None


def prepare() -> Path:
    """The root file system, made with mmdebstrap when the cache has none (30 s, 0.6 GB)."""
    key = hashlib.sha256("\n".join((SUITE, *PACKAGES, _HOOK)).encode()).hexdigest()[:12]
    target = cache() / f"{SUITE}-{key}"
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            refuse_where_impossible()
            install_tools()
            _bootstrap(target)
    return target


def _bootstrap(target: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="making-", dir=cache()))
    try:
        temporary.chmod(0o755)
        argv = ["mmdebstrap", "--variant=apt", "--mode=root", f"--include={','.join(PACKAGES)}"]
        argv += ['--aptopt=Acquire::Check-Valid-Until "false"', f"--customize-hook={_HOOK}"]
        argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
        mirror = debian_mirror()
        run([*argv, SUITE, temporary, *([mirror] if mirror else [])], timeout=900)
        # mount points for what the namespace brings along
        for name in ("run", "var/lib/docker", "etc/docker", ".old"):
            (temporary / name).mkdir(parents=True, exist_ok=True)
        temporary.rename(target)
    except ToolError as error:
        raise Unavailable(f"a Docker Engine of our own could not be made: {error.message}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def program(name: str) -> Path:
    """A program of that Debian (crane, cosign, oras), made to run on this one. Raises Unavailable."""
    root = prepare()
    wrapper = cache() / f"bin-{root.name}" / name
    loader = next(iter(sorted(root.glob("usr/lib/*/ld-linux-*.so.*"))), None)
    binary = root / "usr/bin" / name
    if loader is None or not binary.exists():
        raise Unavailable(f"{name} is not in the tests' own Debian")
    wrapper.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=wrapper.parent, delete=False) as file:
        file.write(f'#!/bin/sh\nexec {loader} --library-path {loader.parent} {binary} "$@"\n')
    Path(file.name).chmod(0o755)
    Path(file.name).rename(wrapper)
    return wrapper
