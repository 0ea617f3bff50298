"""The wheel is complete: installed anywhere, it makes a project where there was nothing."""

from __future__ import annotations

import ensurepip
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import uv

from tests.conftest import ROOT, buildctl
from tests.support.sources import PACKAGE


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release is: from the source distribution."""
    out = tmp_path_factory.mktemp("wheel")
    argv = [uv.find_uv_bin(), "build", "-q", "--no-build-isolation", "--python", sys.executable, "-o", str(out)]
    subprocess.run([*argv, str(ROOT)], check=True, timeout=120)
    (found,) = out.glob("*.whl")
    return found


def test_every_file_of_the_package_is_in_it_and_the_locks_of_the_default_base(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {p.relative_to(PACKAGE.parent) for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {path.as_posix() for path in files} <= names
    locks = (ROOT / "images/bases").rglob("*.packages")
    assert {f"buildctl/lock/{p.relative_to(ROOT / 'images').as_posix()}" for p in locks} <= names


def test_both_names_call_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(path).decode()
    assert "buildctl = buildctl.cli:main" in text
    assert "torch-buildctl = buildctl.cli:main" in text


def test_unpacked_somewhere_else_it_starts_a_project(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(home)
    (tmp_path / "empty").mkdir()

    def buildctl(*args: str) -> str:
        # -P and PYTHONPATH: this package, not the checkout
        argv = [sys.executable, "-P", "-m", "buildctl", *args]
        environment = {"PYTHONPATH": str(home), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            argv, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    where = "import buildctl.lock.debian as d, buildctl.dockerfile.render as r; "
    where += "print(d.SHIPPED[0].is_dir(), *r.TEMPLATES.iterdir())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", where], env={"PYTHONPATH": str(home)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", str(home / "buildctl/dockerfile/templates/image.Dockerfile.j2")]
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert f"(commit {head.stdout[:12]})" in buildctl("--version")
    assert "matrix.yaml written" in buildctl("init", "--cpu", "--torch", "2.6")
    assert "cpu-2.6" in buildctl("matrix")
    assert "debian13" in buildctl("matrix", "--explain")


FIRST_MINUTE = """\
set -e
export HOME=/tmp/me PATH=/tmp/me/.local/bin:/usr/bin:/bin
python3 "$(ls /mnt/wheel/pip-*.whl)/pip" install -q --user --break-system-packages /mnt/wheel/buildctl-*.whl
buildctl --version
torch-buildctl --version
mkdir /tmp/me/new
cd /tmp/me/new
buildctl init --cuda 2.10 --cpu
buildctl plan cpu-2.10 --json >plan.json
python3 -c 'import json; print(json.load(open("plan.json"))["images"][0]["id"])'
buildctl build cpu-2.10 --json >built.json
python3 -c 'import json; print(json.load(open("built.json"))["images"][0]["layersMade"])'
buildctl test cpu-2.10 || echo "exit code $?"
"""


@pytest.mark.big
@pytest.mark.network
def test_in_a_fresh_container_of_our_own_base(wheel: Path, store: dict[str, str], tmp_path: Path) -> None:
    """Debian with the Python that our images have, and nothing else; dependencies from the configured index."""
    if shutil.which("bwrap") is None:
        pytest.skip("NOT RUN: bwrap is not installed (apt-get install bwrap)")
    name = {"x86_64": "cuda-2.6", "aarch64": "cpu-2.6"}[platform.machine()]
    root, given = tmp_path / "root", tmp_path / "wheel"
    dist = ["--layout", str(tmp_path / "dist")]
    for argv in (["bases", name], ["export", f"{tmp_path / 'dist'}:base-debian13", "--format", "dir", "-o", str(root)]):
        done = buildctl(*dist, *argv, env=store)
        assert done.returncode == 0, done.stderr
    given.mkdir()
    (bundled,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    for path in (wheel, bundled):
        shutil.copy(path, given)
    (given / "go").write_text(FIRST_MINUTE)
    argv = ["bwrap", "--bind", str(root), "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    argv += ["--dir", "/mnt/wheel", "--ro-bind", str(given), "/mnt/wheel", *_where_things_come_from(root)]
    ran = subprocess.run([*argv, "sh", "/mnt/wheel/go"], capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    lines = ran.stdout.splitlines()
    assert lines[0] == lines[1]
    assert lines[0].startswith("buildctl ")
    layers, *tested = lines[lines.index("cpu-2.10-arm64") + 1 :]
    assert layers == "4"
    if platform.machine() == "x86_64":  # there is no QEMU in it, and nothing passes that did not run
        assert "arm64 images cannot run on this amd64 machine" in " ".join(tested)
        assert "exit code 3" in tested


def _where_things_come_from(root: Path) -> list[str]:
    """This machine's name service, authorities and pip settings, bound into the container."""
    places = {path: path for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt")}
    places |= {
        "/etc/pip.conf": "/etc/pip.conf",
        str(Path.home() / ".config/pip/pip.conf"): "/tmp/me/.config/pip/pip.conf",
    }
    out = []
    for here, there in places.items():
        if Path(here).exists():
            if not there.startswith("/tmp"):
                (root / there[1:]).parent.mkdir(parents=True, exist_ok=True)
                (root / there[1:]).touch()
            out += ["--ro-bind", here, there]
    return out
