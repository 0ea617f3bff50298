"""The Debian base for real: assembled from the committed locks, entered, and built upon, for both architectures."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from buildctl.artifacts.bytecode import BuildPython
from buildctl.artifacts.debian.alternatives import ALTERNATIVES
from buildctl.artifacts.debian.base import base_entries
from buildctl.artifacts.debian.deb import read_control
from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.artifacts.debian.python import build_arch, build_python, prepare_python, python_packages
from buildctl.artifacts.store import Store
from buildctl.console.progress import Silent
from buildctl.ground.errors import FetchError, RuntimeUnavailableError
from buildctl.lock.apt import resolve_base
from buildctl.lock.apt_sources import apt_mirrors
from buildctl.lock.debian import read_base_lock
from buildctl.lock.fetch import fetch_debs
from buildctl.matrix.cells import DebianBase, Flavour
from buildctl.matrix.read import load_matrix
from buildctl.oci.check import check_layout
from buildctl.oci.compression import ZSTD
from buildctl.oci.image import ImageConfig, Layer, Platform
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import ImageRef, Outcome, Session
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from tests.conftest import ROOT

pytestmark = pytest.mark.network

ARCHES = ("amd64", "arm64")
NATIVE = build_arch()
Kind = tuple[Flavour, str]


def kinds(big: Callable[[Flavour, str], bool], flavours: Sequence[Flavour] = tuple(Flavour)) -> list[ParameterSet]:
    """The flavours on every architecture; which of them take long is for the test to say."""
    every = [(flavour, arch) for arch in ARCHES for flavour in flavours]
    return [pytest.param(k, id=f"{k[0]}-{k[1]}", marks=[pytest.mark.big] if big(*k) else []) for k in every]


# the compilers of the other architecture are 70 MB
KINDS = kinds(big=lambda flavour, arch: flavour is Flavour.DEVEL and arch != NATIVE)
# what takes minutes under emulation, and shows nothing new there
OF_THIS_MACHINE = pytest.mark.parametrize("reference", kinds(big=lambda _, arch: arch != NATIVE), indirect=True)
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}


class Locks(dict[Kind, BaseLock]):
    """The committed locks, with their packages in `store` from when they are asked for; resolved anew where some are
    gone from the archive.
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        matrix = load_matrix(ROOT / "matrix.yaml")
        self.base = next(b for b in matrix.bases if isinstance(b, DebianBase))
        self.mirrors = apt_mirrors(matrix.debian_mirror)

    def __missing__(self, key: Kind) -> BaseLock:
        flavour, arch = key
        lock = read_base_lock(ROOT / "images" / "bases" / self.base.name / f"{flavour}.{arch}.packages")
        try:
            self._fetch(lock)
        except FetchError as error:
            if not error.vanished:
                raise
            lock = resolve_base(self.base, arch, mirrors=self.mirrors)[flavour]
            self._fetch(lock)
        self[key] = lock
        return lock

    def _fetch(self, lock: BaseLock) -> None:
        fetch_debs(lock.packages, store=self.store, mirrors=self.mirrors, progress=Silent())


@pytest.fixture(scope="module")
def store() -> Store:
    return Store.default()


@pytest.fixture(scope="module")
def locks(store: Store) -> Locks:
    return Locks(store)


@pytest.fixture(scope="module")
def python(locks: Locks, store: Store) -> BuildPython:
    lock = locks[Flavour.RUNTIME, build_arch()]
    prepare_python(lock, store=store)
    return build_python(lock, store=store)


def deb(store: Store, package: DebPackage) -> Path:
    path = store.artifact(package.digest)
    assert path is not None
    return path


def layers(locks: Locks, arch: str, flavour: Flavour, store: Store, python: BuildPython, root: Path) -> list[Layer]:
    """Made anew, in a store of their own."""
    runtime = locks[Flavour.RUNTIME, arch]
    wanted: list[tuple[BaseLock, tuple[BaseLock, ...]]] = [(runtime, ())]
    if flavour is Flavour.DEVEL:
        wanted.append((locks[Flavour.DEVEL, arch], (runtime,)))
    out = []
    for number, (lock, below) in enumerate(wanted):
        layer, made = Store(root).put(
            f"{arch}-{number}",
            lambda lock=lock, below=below: base_entries(  # type: ignore[misc]
                lock, lambda p: deb(store, p), below=below, compiler=python
            ),
            compression=ZSTD,
        )
        assert made
        out.append(layer)
    return out


def image(made: list[Layer], arch: str, root: Path) -> ImageRef:
    layout = Layout(root / "layout")
    layout.create()
    config = ImageConfig(
        platform=Platform(architecture=arch), diff_ids=tuple(layer.diff_id for layer in made), env=tuple(ENV.items())
    )
    descriptor = layout.put_image(name=f"base-{arch}", config=config, layers=made, blob=Store(root / "store").blob)
    return ImageRef(layout=layout.root, descriptor=descriptor, name=f"base-{arch}", arch=arch, config=config)


@pytest.fixture(scope="module")
def references(
    locks: Locks, store: Store, python: BuildPython, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Kind], ImageRef]:
    """Each base as an image, made once however often tests ask for it."""

    @cache
    def made(kind: Kind) -> ImageRef:
        flavour, arch = kind
        root = tmp_path_factory.mktemp("base")
        return image(layers(locks, arch, flavour, store, python, root / "store"), arch, root)

    return made


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> SandboxRuntime:
    return SandboxRuntime(Store(tmp_path_factory.mktemp("sandbox")))


@pytest.fixture(scope="module", params=KINDS)
def reference(request: pytest.FixtureRequest, references: Callable[[Kind], ImageRef]) -> ImageRef:
    return references(request.param)


@pytest.fixture(scope="module")
def session(reference: ImageRef, runtime: SandboxRuntime) -> Iterator[Session]:
    try:
        with runtime.start(reference) as session:
            yield session
    except RuntimeUnavailableError as error:
        pytest.skip(f"NOT RUN: {error.message} ({error.hint})")


def sh(session: Session, script: str, *, timeout: float = 120, user: str = "0") -> Outcome:
    """As root, on a writable root with network: what a `RUN` in somebody's Dockerfile gets."""
    command = ["sh", "-euc", script]
    return session.run(command, timeout=timeout, user=user, read_only=False, network=True)


def devel(reference: ImageRef) -> bool:
    return len(reference.config.diff_ids) == 2


def test_the_layers_are_sound_and_small(reference: ImageRef) -> None:
    allowed = ("setuid", "setgid")
    assert [p for p in check_layout(reference.layout) if not any(word in p for word in allowed)] == []
    sizes = [layer.size for layer in Layout(reference.layout).manifest(reference.descriptor).layers]
    assert sizes[0] < 60_000_000
    assert sum(sizes) < 160_000_000


def test_dpkg_finds_nothing_to_complain_about(session: Session) -> None:
    done = sh(session, "dpkg --audit; dpkg -V; dpkg-query -W -f '${db:Status-Abbrev}\\n' | sort -u; apt-get check -qq")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ii \n", "")


def test_dpkg_notices_a_changed_file(session: Session) -> None:
    done = sh(session, "echo >> /usr/bin/which.debianutils; rm /usr/bin/tini; dpkg -V || true")
    assert sorted(done.stdout.splitlines()) == ["??5??????   /usr/bin/which.debianutils", "missing     /usr/bin/tini"]


def test_python_is_whole(session: Session, reference: ImageRef) -> None:
    script = """
import bz2, ctypes, ctypes.util, curses, lzma, platform, readline, sqlite3, ssl, sys, zlib, zoneinfo
assert sys.version_info[:2] == (3, 13), sys.version
assert zoneinfo.ZoneInfo("Europe/Berlin") and sqlite3.connect(":memory:").execute("select 1").fetchone() == (1,)
assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 100
assert ctypes.CDLL(ctypes.util.find_library("gomp")) and ctypes.CDLL("libstdc++.so.6")
import json, encodings
assert json.__spec__.cached.endswith(".cpython-313.pyc")
print(platform.machine())
"""
    for program in ("python", "python3", "python3.13"):
        done = session.run([program, "-c", script], timeout=60, user="1000:1000")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip() == {"amd64": "x86_64", "arm64": "aarch64"}[reference.arch]


def test_the_standard_library_is_imported_from_bytecode(session: Session) -> None:
    script = "import argparse, asyncio, json, logging, unittest, xml.dom.minidom"
    done = session.run(["python", "-v", "-c", script], timeout=60)
    read = [line for line in done.stderr.splitlines() if line.startswith("# code object from")]
    assert len(read) > 50
    # sitecustomize.py is a configuration file: whoever edits it must see that take effect
    compiled = [line for line in read if "/__pycache__/" not in line and "/sitecustomize.py" not in line]
    assert compiled == []


def test_pip_and_uv_may_write_into_the_system_python(session: Session) -> None:
    done = sh(session, "cat /etc/pip.conf /etc/uv/uv.toml")
    assert done.stdout.count("break-system-packages = true") == 2


def test_the_user_and_the_folders(session: Session) -> None:
    if not session.ownership:
        pytest.skip("NOT RUN: without root a sandbox has one owner for all files")
    paths = "/tmp /var/tmp /home/torch /workspace /etc/shadow /usr/bin/su"
    done = sh(session, f"stat -c '%a %u:%g %n' {paths}; id torch; getent shadow torch")
    assert done.stdout.splitlines() == [
        "1777 0:0 /tmp",
        "1777 0:0 /var/tmp",
        "1777 1000:1000 /home/torch",
        "1777 1000:1000 /workspace",
        "640 0:42 /etc/shadow",
        "4755 0:0 /usr/bin/su",
        "uid=1000(torch) gid=1000(torch) groups=1000(torch)",
        "torch:*::0:99999:7:::",
    ]


def test_accounts_alternatives_and_logins_work_as_if_installed(session: Session) -> None:
    if not session.ownership:
        pytest.skip("NOT RUN: needs more than one user id")
    done = sh(
        session,
        "useradd -m ada; su ada -c 'id -un'; awk 'BEGIN {print 1}'; which which; "
        "update-alternatives --get-selections | sort; pwck -r -q; grpck -r; localedef --help > /dev/null",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ada\n1\n/usr/bin/which\nawk")
    assert "pager" in done.stdout


def test_ldconfig_agrees_with_the_cache_we_wrote(session: Session) -> None:
    listing = "ldconfig -p | grep -v '^Cache generated by'"
    done = sh(session, f"{listing} > /tmp/ours; ldconfig; {listing} > /tmp/theirs; diff /tmp/ours /tmp/theirs")
    assert (done.returncode, done.stdout) == (0, "")
    assert "libstdc++.so.6" in sh(session, "ldconfig -p").stdout


@OF_THIS_MACHINE
def test_openssl_and_update_ca_certificates_agree_with_ours(session: Session) -> None:
    listing = "find . -type l -printf '%f %l\\n' | sort"
    script = (
        f"cd /etc/ssl/certs; {listing} > /tmp/ours; mv ca-certificates.crt /tmp/bundle; find . -type l -delete;"
        f"update-ca-certificates > /dev/null; {listing} > /tmp/theirs;"
        "cmp ca-certificates.crt /tmp/bundle; diff /tmp/ours /tmp/theirs; wc -l < /tmp/theirs"
    )
    done = sh(session, script, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 250


def test_pam_auth_update_agrees_with_ours(session: Session) -> None:
    script = (
        "cp -r /etc/pam.d /tmp/ours; cp -r /var/lib/pam /tmp/state; pam-auth-update --package --force;"
        "diff -r /tmp/ours /etc/pam.d -x '*.pam-old'; diff -r /tmp/state /var/lib/pam"
    )
    done = sh(session, script)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_devel_compiles_what_torch_compile_needs(session: Session, reference: ImageRef) -> None:
    if not devel(reference):
        assert sh(session, "! command -v c++ g++ cc gcc").returncode == 0
        return
    compiler = "c++ -O2 -fopenmp -shared -fPIC -x c++ - $(python3.13-config --includes) -o /tmp/sum.so"
    call = "python -c 'import ctypes; print(ctypes.CDLL(\"/tmp/sum.so\").sum())'"
    command = ["sh", "-euc", f"{compiler}; cc --version > /dev/null; {call}"]
    done = session.run(command, timeout=300, stdin=SOURCE, user="0", read_only=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4950\n"


SOURCE = """
#include <Python.h>
#include <omp.h>
#include <vector>
extern "C" int sum() {
    int s = PY_MAJOR_VERSION - 3;
    #pragma omp parallel for reduction(+:s)
    for (int i = 0; i < 100; i++) s += i;
    return s;
}
"""


WANTED = {
    "a tool": "--no-install-recommends git && git --version",
    "a desktop": "git libgl1 ffmpeg && git --version && ffmpeg -version | head -1",  # 300 packages
}


@pytest.mark.parametrize("reference", kinds(lambda _, arch: arch != NATIVE, [Flavour.RUNTIME]), indirect=True)
@pytest.mark.parametrize("wanted", ["a tool", pytest.param("a desktop", marks=pytest.mark.big)])
def test_apt_get_install_on_top(wanted: str, session: Session) -> None:
    """What people install; and dpkg is as content afterwards, also with packages of the base installed once more."""
    if not session.ownership:
        pytest.skip("NOT RUN: apt needs more than one user id")
    if session.emulated and wanted != "a tool":
        pytest.skip("NOT RUN: 15 minutes under emulation")
    again = (
        "python3.13-minimal libpython3.13-stdlib python3.13 python3-minimal ca-certificates base-files libc-bin dash"
    )
    if wanted == "a tool":
        again = "libpython3.13-stdlib base-files"
    script = (
        f"apt-get update -q; apt-get install -q -y {WANTED[wanted]}; apt-get install -q -y --reinstall {again};"
        "echo ----; dpkg --audit; dpkg -V; python -c 'import ssl, asyncio'"
    )
    done = sh(session, script, timeout=2400)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout.rpartition("----\n")[2] == ""


@pytest.mark.parametrize("reference", kinds(lambda *k: k != (Flavour.RUNTIME, NATIVE)), indirect=True)
def test_the_same_bytes_again(
    reference: ImageRef,
    locks: Locks,
    store: Store,
    python: BuildPython,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another folder, umask, locale and time zone."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "C")
    flavour = Flavour.DEVEL if devel(reference) else Flavour.RUNTIME
    old = os.umask(0o077)
    try:
        made = layers(locks, reference.arch, flavour, store, python, tmp_path / "elsewhere")
    finally:
        os.umask(old)
    assert tuple(layer.diff_id for layer in made) == reference.config.diff_ids


def test_what_has_to_be_fetched_for_the_build_python_is_little(locks: Locks) -> None:
    assert sum(p.size for p in python_packages(locks[Flavour.RUNTIME, build_arch()])) < 12_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_every_alternative_and_account_of_the_packages_is_known(kind: Kind, locks: Locks, store: Store) -> None:
    """What their scripts would do is data here; a script that starts to do more must be noticed."""
    alternatives: set[tuple[str, str]] = set()
    accounts: set[str] = set()
    for package in locks[kind].packages:
        control = read_control(deb(store, package))
        for script in (control.files.get(name, b"").decode() for name in ("preinst", "postinst")):
            text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*$", "", script, flags=re.MULTILINE))
            alternatives |= {(package.name, name) for name in re.findall(r"--install\s+\S+\s+(\S+)", text)}
            if re.search(r"^\s*(adduser|addgroup|useradd|groupadd|systemd-sysusers)\b", text, re.MULTILINE):
                accounts.add(package.name)
    assert alternatives <= {(a.package, a.name) for a in ALTERNATIVES}
    if kind[0] is Flavour.RUNTIME:
        assert ("mawk", "awk") in alternatives
        assert accounts == {"apt", "passwd"}  # _apt and shadow, which base-passwd lists


def test_setuid_programs_are_the_ones_we_know(reference: ImageRef, session: Session) -> None:
    done = sh(session, "find / -xdev -type f -perm /6000 | sort")
    known = {"/usr/sbin/unix_chkpwd"}
    known |= {f"/usr/bin/{n}" for n in ("chage", "chfn", "chsh", "expiry", "gpasswd", "newgrp", "passwd", "su")}
    assert set(done.stdout.split()) <= known
