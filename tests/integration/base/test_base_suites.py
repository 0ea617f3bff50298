"""Bases of other Debian releases than the default's: resolved, assembled and entered."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.artifacts.debian.base import base_entries
from buildctl.artifacts.debian.python import build_arch, build_python, prepare_python
from buildctl.artifacts.store import Store
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.lock.apt import resolve_base
from buildctl.lock.apt_sources import apt_mirrors
from buildctl.lock.inside.assembly import Debs, refuse_unbuildable
from buildctl.matrix.account import PATH
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import DebianBase, Flavour
from buildctl.oci.compression import ZSTD
from buildctl.oci.image import ImageConfig, Platform
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import ImageRef
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime

pytestmark = [pytest.mark.network, pytest.mark.big]

COMMON = ("apt", "ca-certificates", "libgomp1", "netbase", "passwd", "procps", "python-is-python3", "python3", "tzdata")
SUITES = {"bookworm": "3.11", "forky": "3.14"}
# the Release files of a mirror that stands still have expired
INSIDE = """
dpkg --audit; dpkg -V; apt-get check -qq
python -c 'import ssl, sqlite3, lzma, bz2, ctypes, sys; print(sys.version.split()[0])'
getent passwd torch | cut -d: -f3; readlink /bin /sbin; update-alternatives --query awk | grep -c ^Alt
apt-get update -qq -o Acquire::Check-Valid-Until=false
apt-get install -qq --no-install-recommends -y nano >/dev/null 2>&1; nano --version | head -1
"""


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("suite", SUITES)
def test_such_a_base_is_assembled_and_works(suite: str, arch: str, tmp_path: Path) -> None:
    python, store, mirrors = SUITES[suite], Store.default(), dict(apt_mirrors(None))
    base = DebianBase(name=suite, suite=suite, packages=(*COMMON, f"python{python}"))
    debs = Debs(store=store, mirrors=mirrors)
    runtime = resolve_base(base, arch, mirrors=mirrors)[Flavour.RUNTIME]
    refuse_unbuildable(base, [runtime], debs)
    if arch != build_arch():
        return  # entering it says nothing new, and takes minutes under emulation
    prepare_python(runtime, store=store)
    layer, _ = Store(tmp_path / "store").put(
        suite, lambda: base_entries(runtime, debs.path, compiler=build_python(runtime, store=store)), compression=ZSTD
    )
    layout = Layout(tmp_path / "layout")
    layout.create()
    config = ImageConfig(platform=Platform(architecture=arch), diff_ids=(layer.diff_id,), env=(("PATH", PATH),))
    blob = Store(tmp_path / "store").blob
    descriptor = layout.put_image(name="base", config=config, layers=[layer], blob=blob)
    image = ImageRef(layout=layout.root, descriptor=descriptor, name="base", arch=arch, config=config)
    try:
        with SandboxRuntime(Store(tmp_path / "sandbox")).start(image) as session:
            done = session.run(["sh", "-euc", INSIDE], timeout=300, user="0", read_only=False, network=True)
    except RuntimeUnavailableError as error:
        pytest.skip(f"NOT RUN: {error.message} ({error.hint})")
    version, uid, *links, alternatives, nano = done.stdout.splitlines()
    assert version.startswith(f"{python}."), done
    assert (uid, links, alternatives) == ("1000", ["usr/bin", "usr/sbin"], "1")
    assert "nano" in nano
