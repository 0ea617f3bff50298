"""apt resolves a base: against a small signed archive on loopback, and (network) against Debian's own."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from pathlib import Path

import pytest

from buildctl.artifacts.debian.deb import Control
from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.ground.errors import LockError
from buildctl.lock.apt import resolve_base
from buildctl.lock.apt_sources import apt_mirrors
from buildctl.lock.debian import changes, is_stale, read_base_lock, write_base_lock
from buildctl.lock.debian_added import BaseMovedError, Wanted, inputs_of, resolve_added
from buildctl.lock.debian_added import is_stale as is_stale_on_top
from buildctl.matrix.cells import Cell, DebianBase, Flavour
from buildctl.matrix.read import load_matrix, parse_matrix
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    not shutil.which("apt-get") or not shutil.which("gpg"), reason="NOT RUN: needs apt and gpg"
)

BASE = DebianBase(name="tiny", suite="trixie", packages=("app",), devel=("cc",))


def stanza(name: str, version: str, arch: str, **more: str) -> str:
    fields = {
        "Package": name,
        "Version": version,
        "Architecture": arch,
        "Maintainer": "A <a@example.invalid>",
        **{key.replace("_", "-"): value for key, value in more.items()},
        "Filename": f"pool/main/{name[0]}/{name}/{name}_{version.replace('~', '%7e')}_{arch}.deb",
        "Size": "1000",
        "SHA256": hashlib.sha256(f"{name}{version}{arch}".encode()).hexdigest(),
        "Description": "x",
    }
    return "".join(f"{key}: {value}\n" for key, value in fields.items())


def main_packages(arch: str) -> str:
    return "\n".join(
        [
            stanza("app", "1.0", arch, Depends="lib (>= 1), data", Recommends="docs"),
            stanza("base", "1", arch, Essential="yes"),
            stanza("cc", "14", arch, Depends="app"),
            stanza("data", "2026f", "all"),
            stanza("docs", "1", "all"),
            stanza("enemy", "1", arch, Conflicts="lib"),
            stanza("lib", "1:1.0+b1", arch),
            stanza("oldlibt64", "2", arch, Provides="oldlib (= 2)"),
            stanza("one", "1", arch, Provides="role"),
            stanza("other", "1", arch, Provides="role"),
            stanza("thief", "1", arch, Conflicts="data", Provides="data"),
            stanza("tool", "3", arch, Depends="app, toollib"),
            stanza("toollib", "3", arch),
            stanza("young", "1", arch, Depends="lib (>= 1:1.0+deb13u1~x)"),
        ]
    )


def gpg(home: Path, *args: str, stdin: bytes = b"") -> bytes:
    command = [
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
        *args,
    ]
    try:
        return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout
    finally:  # it starts an agent, which would outlive the tests
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], capture_output=True, check=True)


def key(home: Path) -> Path:
    home.mkdir(mode=0o700)
    gpg(home, "--quick-gen-key", "Archive <archive@example.invalid>", "ed25519", "sign", "never")
    (home / "public.gpg").write_bytes(gpg(home, "--export"))
    return home / "public.gpg"


def publish(root: Path, suite: str, packages: Mapping[str, str], home: Path) -> None:
    dist = root / "dists" / suite
    lines = []
    for arch, text in packages.items():
        path = dist / "main" / f"binary-{arch}" / "Packages"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        lines.append(f" {digest} {len(text.encode())} {path.relative_to(dist)}\n")
    head = f"Origin: Tiny\nSuite: {suite}\nCodename: {suite}\nDate: {formatdate(usegmt=True)}\nComponents: main\n"
    release = f"{head}Architectures: {' '.join(packages)}\nSHA256:\n{''.join(lines)}"
    (dist / "InRelease").write_bytes(gpg(home, "--clearsign", stdin=release.encode()))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return key(tmp_path_factory.mktemp("gpg") / "home")


@pytest.fixture(scope="module")
def mirrors(keyring: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, tuple[str, ...]]]:
    root = tmp_path_factory.mktemp("archive")
    both = {arch: main_packages(arch) for arch in ("amd64", "arm64")}
    nothing = dict.fromkeys(both, "")
    publish(root / "debian", "trixie", both, keyring.parent)
    publish(root / "debian", "trixie-updates", nothing, keyring.parent)
    fixed = {arch: stanza("lib", "1:1.0+deb13u1~x", arch) for arch in both}
    publish(root / "debian-security", "trixie-security", fixed, keyring.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        host = f"http://127.0.0.1:{server.server_address[1]}"
        yield {"debian": (f"{host}/debian",), "debian-security": (f"{host}/debian-security",)}
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_essential_and_dependent_packages_in_their_newest_versions(
    mirrors: Mapping[str, tuple[str, ...]], keyring: Path, arch: str
) -> None:
    locks = resolve_base(BASE, arch, mirrors=mirrors, keyring=keyring)
    runtime, devel = locks[Flavour.RUNTIME], locks[Flavour.DEVEL]
    assert [(p.name, p.version, p.architecture, p.archive) for p in runtime.packages] == [
        ("app", "1.0", arch, "debian"),
        ("base", "1", arch, "debian"),  # essential, and nobody asked for it
        ("data", "2026f", "all", "debian"),
        ("lib", "1:1.0+deb13u1~x", arch, "debian-security"),  # and no docs: only recommended
    ]
    assert [p.name for p in devel.packages] == ["cc"]
    lib = runtime.packages[-1]
    assert lib.filename.startswith("pool/main/l/lib/lib_1:1.0+deb13u1")
    assert lib.size == 1000
    assert lib.digest.hex == hashlib.sha256(f"lib1:1.0+deb13u1~x{arch}".encode()).hexdigest()
    assert is_stale(BASE, runtime) is None
    assert is_stale(BASE, devel) is None


def test_an_archive_that_somebody_else_signed(mirrors: Mapping[str, tuple[str, ...]], tmp_path: Path) -> None:
    with pytest.raises(LockError, match="apt cannot read the archive of trixie") as caught:
        resolve_base(BASE, "amd64", mirrors=mirrors, keyring=key(tmp_path / "other"))
    assert "debian-archive-keyring" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        (("app", "nosuch"), "Unable to locate package nosuch"),
        (("app", "enemy"), "apt cannot resolve the packages"),
        (("ap.",), "bases.tiny: not Debian package names: 'ap.'"),
        (("a.p",), "Unable to locate package a.p|no such package in trixie: a.p"),
    ],
)
def test_packages_that_cannot_be(
    mirrors: Mapping[str, tuple[str, ...]], keyring: Path, packages: tuple[str, ...], message: str
) -> None:
    base = DebianBase(name="tiny", suite="trixie", packages=packages)
    with pytest.raises(LockError, match=message):
        resolve_base(base, "amd64", mirrors=mirrors, keyring=keyring)


def test_devel_never_takes_from_runtime(mirrors: Mapping[str, tuple[str, ...]], keyring: Path) -> None:
    base = DebianBase(name="tiny", suite="trixie", packages=("app",), devel=("thief",))
    with pytest.raises(LockError, match="the devel packages would remove data"):
        resolve_base(base, "amd64", mirrors=mirrors, keyring=keyring)


MATRIX = """
python: "3.13"
versions: {"2.6": 2.6.0}
packages: [numpy]
flavours: [runtime, devel]
bases: {tiny: {debian: trixie, packages: [app], devel: [cc]}}
accelerators: {cuda: {arch: [amd64], base: tiny}}
images: {cuda-2.6: {apt: [%s]}}
"""


def on_top(names: str, locks: Mapping[Flavour, BaseLock], flavour: Flavour = Flavour.RUNTIME) -> Wanted:
    matrix = parse_matrix(MATRIX % names, Path("matrix.yaml"))
    cell = next(c for c in matrix.cells if c.flavour is flavour)
    below = tuple(locks[f] for f in dict.fromkeys((Flavour.RUNTIME, flavour)))
    return Wanted(cell=cell, below=below, key="images")


def control(package: DebPackage) -> Control:
    """Of a package of the base, as the archive's stanza has it."""
    texts = [text for text in main_packages("amd64").split("\n\n") if f"Package: {package.name}\n" in text]
    fields = dict(line.split(": ", 1) for line in texts[0].strip().split("\n"))
    return Control(fields={**fields, "Version": package.version}, files={})


@pytest.fixture(scope="module")
def locked(mirrors: Mapping[str, tuple[str, ...]], keyring: Path) -> Mapping[Flavour, BaseLock]:
    return resolve_base(BASE, "amd64", mirrors=mirrors, keyring=keyring)


def test_an_images_own_packages_are_what_they_add_to_the_base(
    mirrors: Mapping[str, tuple[str, ...]], keyring: Path, locked: Mapping[Flavour, BaseLock], tmp_path: Path
) -> None:
    wanted = [on_top("tool", locked), on_top("cc, data", locked, Flavour.DEVEL), on_top("cc", locked)]
    tool, nothing, cc = resolve_added(wanted, mirrors=mirrors, control=control, keyring=keyring)
    assert [p.name for p in tool.packages] == ["tool", "toollib"]
    assert (tool.base, tool.flavour, nothing.flavour) == ("tiny_cuda-2.6", "runtime", "devel")
    assert nothing.packages == ()  # the devel flavour has it all
    assert [p.name for p in cc.packages] == ["cc"]
    for lock in (tool, nothing):
        write_base_lock(tmp_path / "x.packages", lock)
        assert read_base_lock(tmp_path / "x.packages") == lock


def test_a_renamed_package_is_locked_by_its_new_name(
    mirrors: Mapping[str, tuple[str, ...]], keyring: Path, locked: Mapping[Flavour, BaseLock]
) -> None:
    (lock,) = resolve_added([on_top("oldlib", locked)], mirrors=mirrors, control=control, keyring=keyring)
    assert [p.name for p in lock.packages] == ["oldlibt64"]
    base = replace(BASE, packages=("app", "oldlib"), devel=())
    names = [p.name for p in resolve_base(base, "amd64", mirrors=mirrors, keyring=keyring)[Flavour.RUNTIME].packages]
    assert "oldlibt64" in names
    with pytest.raises(LockError) as refused:
        resolve_added([on_top("role", locked)], mirrors=mirrors, control=control, keyring=keyring)
    assert refused.value.hint == "write one of the packages that provide role: one, other"


def test_such_a_lock_is_stale_when_the_matrix_or_the_base_moves(
    mirrors: Mapping[str, tuple[str, ...]], keyring: Path, locked: Mapping[Flavour, BaseLock]
) -> None:
    want = on_top("tool", locked)
    (lock,) = resolve_added([want], mirrors=mirrors, control=control, keyring=keyring)
    assert is_stale_on_top(want.cell, lock, want.below) is None
    other: Cell = on_top("tool, docs", locked).cell
    assert "changed after it was written" in str(is_stale_on_top(other, lock, want.below))
    moved = (replace(want.below[0], packages=want.below[0].packages[1:]),)
    assert "changed after it was written" in str(is_stale_on_top(want.cell, lock, moved))
    assert inputs_of(want.cell, want.below) == lock.inputs
    devel = on_top("tool", locked, Flavour.DEVEL)
    assert "runtime" in str(is_stale_on_top(devel.cell, lock, devel.below))


def test_packages_that_the_base_would_have_to_move_for(
    mirrors: Mapping[str, tuple[str, ...]], keyring: Path, locked: Mapping[Flavour, BaseLock]
) -> None:
    def resolve(names: str, below: Mapping[Flavour, BaseLock] = locked) -> None:
        resolve_added([on_top(names, below)], mirrors=mirrors, control=control, keyring=keyring)

    old = [replace(p, version="1:1.0+b1") if p.name == "lib" else p for p in locked[Flavour.RUNTIME].packages]
    older = {Flavour.RUNTIME: replace(locked[Flavour.RUNTIME], packages=tuple(old))}
    resolve("young")
    with pytest.raises(
        BaseMovedError, match=r"young needs newer packages in the base: lib 1:1\.0\+b1 -> 1:1\.0\+deb13u1~x"
    ):
        resolve("young", older)
    with pytest.raises(BaseMovedError, match="thief would remove packages of the base"):
        resolve("thief")
    with pytest.raises(LockError, match=r"(?s)images \(cuda-2.6, amd64\): .*[Uu]nable to locate package nosuch"):
        resolve("nosuch")


def test_a_mirror_that_is_not_there(keyring: Path) -> None:
    nowhere = {"debian": ("http://127.0.0.1:9/debian",), "debian-security": ("http://127.0.0.1:9/debian-security",)}
    with pytest.raises(LockError, match="apt cannot read the archive of trixie") as caught:
        resolve_base(BASE, "amd64", mirrors=nowhere, keyring=keyring)
    assert "set `mirror: {debian: URL}`" in str(caught.value.hint)


def debian_base() -> DebianBase:
    return next(b for b in load_matrix(ROOT / "matrix.yaml").bases if isinstance(b, DebianBase))


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_the_committed_locks_are_of_this_matrix(arch: str) -> None:
    base = debian_base()
    for flavour in Flavour:
        lock = read_base_lock(ROOT / "images" / "bases" / base.name / f"{flavour}.{arch}.packages")
        assert is_stale(base, lock) is None
        assert (lock.flavour, lock.arch) == (flavour, arch)


@pytest.mark.network
@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_debians_own_archive(arch: str) -> None:
    base = debian_base()
    mirrors = apt_mirrors(load_matrix(ROOT / "matrix.yaml").debian_mirror)
    locks = resolve_base(base, arch, mirrors=mirrors)
    runtime = {p.name for p in locks[Flavour.RUNTIME].packages}
    assert runtime >= {*base.packages, "dpkg", "perl-base", "libc-bin"}
    assert {p.name for p in locks[Flavour.DEVEL].packages} >= set(base.devel)
    assert changes(locks[Flavour.RUNTIME], locks[Flavour.RUNTIME]) == []
