"""The road of a Mac, walked here without what only Linux has: everything imports, and `buildctl test mps-2.6` asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, Ran
from tests.unit.conftest import no_docker

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
COMMANDS = """
import json, os, pathlib, traceback
from buildctl.cli import main

def answer(folder, argv):
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY), number)
    sys.argv = ["buildctl", *argv]
    try:
        main()
    except SystemExit as end:
        return end.code or 0

folder = pathlib.Path(sys.argv[1])
for name, argv in json.loads(sys.argv[2]).items():
    (folder / name).mkdir()
    if os.fork() == 0:
        code = 255
        try:
            code = answer(folder / name, argv)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    (folder / name / "code").write_text(str(os.waitstatus_to_exitcode(os.wait()[1])))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: it stands in for a Mac where there is none")
NO_LINUX = {
    "matrix cpu-2.6": "cpu-2.6",
    "lock --check": "locks are up to date",
    "render --check": "rendered files are up to date",
    "claims --help": "claims",
}


@dataclass(frozen=True)
class Mac:
    """What everything that was asked there answered, by name; `folder` holds what it was asked about."""

    folder: Path
    imported: str

    def answer(self, name: str) -> Ran:
        said = [(self.folder / "answers" / name / what).read_text() for what in ("code", "out", "err")]
        return Ran(int(said[0]), said[1], said[2])


@pytest.fixture(scope="module")
def mac(tmp_path_factory: pytest.TempPathFactory) -> Mac:
    """One Python that imports everything, and a child of it for each command."""
    folder = tmp_path_factory.mktemp("mac")
    (folder / "answers").mkdir()
    venv.create(folder / "environment", with_pip=False)
    test = ("--layout", f"{folder}/dist", "test", "mps-2.6", "--path")
    asked = {line: line.split() for line in NO_LINUX} | {
        "native": [*test, f"{folder}/environment"],
        "none": [*test, f"{folder}/none"],
        "build": ["--layout", f"{folder}/never", "build", "--engine", "docker"],
    }
    environment = no_docker(folder / "bin")
    done = subprocess.run(
        [sys.executable, "-c", AS_ON_A_MAC + IMPORT_ALL + COMMANDS, folder / "answers", json.dumps(asked)],
        cwd=ROOT,
        env={**os.environ, **environment, "PATH": f"{folder}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Mac(folder, done.stdout)


def test_every_module_imports_without_what_only_linux_has(mac: Mac) -> None:
    assert int(mac.imported) > 80


def test_the_native_environment_is_asked_there(mac: Mac) -> None:
    done = mac.answer("native")
    assert done.returncode == 1, done.stderr  # there is no torch in it
    assert "Traceback" not in done.stderr
    report = json.loads((mac.folder / "dist" / "reports" / "mps-2.6-arm64.json").read_text())
    found = {finding["name"]: finding for finding in report["findings"]}
    assert (report["runtime"], report["verdict"]) == ("native", "FAILED")
    assert found["mps built"]["detail"] == "ModuleNotFoundError: No module named 'torch'"
    # it really ran on this Linux machine, which the probe is not fooled about
    assert found["platform"]["detail"].startswith("expected platform Darwin arm64, image reports Linux")


def test_without_an_environment_it_says_how_to_make_one(mac: Mac) -> None:
    done = mac.answer("none")
    assert done.returncode == 10, done.stderr
    assert "has no environment mps-2.6" in done.stderr
    assert f"buildctl native mps-2.6 --path {mac.folder / 'none'}" in done.stderr


def test_what_needs_no_linux_works_there(mac: Mac) -> None:
    for line, words in NO_LINUX.items():
        done = mac.answer(line)
        assert (done.returncode, words in done.stdout) == (0, True), done.stderr


def test_what_needs_linux_says_so_before_anything_else(mac: Mac) -> None:
    done = mac.answer("build")
    assert done.returncode == 9, done.stderr
    assert done.stderr.splitlines()[0].startswith("error: `buildctl build` needs Linux, and this is macOS: ")
    assert not (mac.folder / "never").exists()
