"""The guard of the unit tests: each way to somebody else fails the test that takes it, whatever the code catches."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import uv

from tests.conftest import ROOT

HOOKS = "from tests.unit.conftest import pytest_runtest_call, pytest_runtest_protocol\n"
REFUSED = {
    "connection": "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)",
    "server": "import socket\nsocket.create_server(('127.0.0.1', 0))",
    "name": "import socket\nsocket.getaddrinfo('localhost', 80)",
    "checkout": f"open({str(ROOT / 'images' / 'x')!r}, 'w')",
    "docker": "import docker\ndocker.DockerClient(base_url='unix:///var/run/docker.sock').ping()",
    "index": f"import subprocess\nsubprocess.run([{uv.find_uv_bin()!r}, 'pip', 'download', 'x'])",
    "child": "import subprocess, sys\ncode = 'import socket; socket.create_server((str(), 0))'\n"
    "subprocess.run([sys.executable, '-c', code], stderr=subprocess.DEVNULL)",
}
ALLOWED = {
    "program": f"import subprocess\nsubprocess.run([{uv.find_uv_bin()!r}, '--version'], stdout=subprocess.DEVNULL)",
    "workers": "import multiprocessing\n"
    "with multiprocessing.get_context('forkserver').Pool(1) as pool: assert pool.map(abs, [-1]) == [1]",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What pytest says of a test of each, in which every error is caught."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "conftest.py").write_text(HOOKS)
    tests = []
    for name, code in (REFUSED | ALLOWED).items():
        body = "".join(f"        {line}\n" for line in code.splitlines())
        tests.append(f"def test_{name}():\n    try:\n{body}    except Exception:\n        pass\n")
    (folder / "test_x.py").write_text("\n".join(tests))
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-rA",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:hypothesispytest",
        "-c",
        "/dev/null",
        "--rootdir",
        str(folder),
    ]
    said = subprocess.run([*argv, str(folder)], capture_output=True, text=True, timeout=100, check=False).stdout
    return {name: text for text, name in re.findall(r"^(\w+) \S*test_x.py::test_(\w+)", said, re.MULTILINE)}


@pytest.mark.parametrize("name", REFUSED)
def test_a_test_that_talks_to_somebody_fails(name: str, outcomes: dict[str, str]) -> None:
    assert outcomes[name] == "FAILED"


@pytest.mark.parametrize("name", ALLOWED)
def test_what_stays_on_this_machine_is_allowed(name: str, outcomes: dict[str, str]) -> None:
    assert outcomes[name] == "PASSED"
