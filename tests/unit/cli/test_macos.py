"""The road of a Mac, walked here without what only Linux has: everything imports, and `buildctl test mps-2.6` asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What Python on macOS does not have (docs.python.org, "Availability: Linux"), and what it says of the machine.
AS_ON_A_MAC = """
import os, platform, select, sys, types
LINUX = (
    "memfd_", "MFD_", "sched_", "SCHED_", "posix_fa", "POSIX_FADV", "copy_file_range", "splice", "SPLICE", "pidfd",
    "unshare", "setns", "CLONE_", "O_TMPFILE", "O_PATH", "O_DIRECT", "O_NOATIME", "getrandom", "GRND_", "eventfd",
    "EFD_", "RWF_", "listxattr", "setxattr", "getxattr", "removexattr", "XATTR", "getres", "setres", "fdatasync",
    "pipe2",
)
for name in [n for n in dir(os) if n.startswith(LINUX) and n != "O_DIRECTORY"]:
    delattr(os, name)
del select.epoll
import selectors, socket, subprocess
sys.platform = "darwin"
platform.system, platform.machine = (lambda: "Darwin"), (lambda: "arm64")
platform.mac_ver = lambda: ("15.6", ("", "", ""), "arm64")
proxies = types.ModuleType("_scproxy")
proxies._get_proxies = proxies._get_proxy_settings = dict
sys.modules["_scproxy"] = proxies
"""
IMPORT_ALL = """
import importlib, pkgutil, buildctl
names = [m.name for m in pkgutil.walk_packages(buildctl.__path__, "buildctl.")]
# run alone, inside a Linux sandbox or an image
names = [n for n in names if ".inside." not in n and not n.endswith((".sandbox.init", ".__main__"))]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
COMMAND = """
sys.argv[0] = "buildctl"
from buildctl.cli import main
main()
"""
COMMANDS = """
from buildctl.cli import main
for line in sys.argv[1:]:
    sys.argv = ["buildctl", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
    print(end="\\f")
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: it stands in for a Mac where there is none")


def on_a_mac(code: str, *args: str | Path, path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_ON_A_MAC + code, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_module_imports_without_what_only_linux_has() -> None:
    done = on_a_mac(IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


def test_the_native_environment_is_asked_there(without_docker: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    layout = tmp_path / "dist"
    done = on_a_mac(COMMAND, "--layout", layout, "test", "mps-2.6", "--path", environment, path=str(without_docker))
    assert done.returncode == 1, done.stderr  # there is no torch in it
    assert "Traceback" not in done.stderr
    report = json.loads((layout / "reports" / "mps-2.6-arm64.json").read_text())
    found = {finding["name"]: finding for finding in report["findings"]}
    assert (report["runtime"], report["verdict"]) == ("native", "FAILED")
    assert found["mps built"]["detail"] == "ModuleNotFoundError: No module named 'torch'"
    # it really ran on this Linux machine, which the probe is not fooled about
    assert found["platform"]["detail"].startswith("expected platform Darwin arm64, image reports Linux")


def test_without_an_environment_it_says_how_to_make_one(without_docker: Path, tmp_path: Path) -> None:
    argv = ("--layout", tmp_path / "dist", "test", "mps-2.6", "--path", tmp_path / "none")
    done = on_a_mac(COMMAND, *argv, path=str(without_docker))
    assert done.returncode == 10, done.stderr
    assert "has no environment mps-2.6" in done.stderr
    assert f"buildctl native mps-2.6 --path {tmp_path / 'none'}" in done.stderr


def test_what_needs_no_linux_works_there(without_docker: Path) -> None:
    says = {
        "matrix cpu-2.6": "cpu-2.6",
        "lock --check": "locks are up to date",
        "render --check": "rendered files are up to date",
        "claims --help": "claims",
    }
    done = on_a_mac(COMMANDS, *says, path=str(without_docker))
    assert done.returncode == 0, done.stderr
    answers = dict(zip(says, done.stdout.split("\f"), strict=False))
    assert not [line for line, words in says.items() if words not in answers[line]]


def test_what_needs_linux_says_so_before_anything_else(without_docker: Path, tmp_path: Path) -> None:
    done = on_a_mac(COMMAND, "--layout", tmp_path / "dist", "build", "--engine", "docker", path=str(without_docker))
    assert done.returncode == 9, done.stderr
    assert done.stderr.splitlines()[0].startswith("error: `buildctl build` needs Linux, and this is macOS: ")
    assert not (tmp_path / "dist").exists()
