"""The guard of the unit tests: each way to somebody else fails the test that takes it, whatever the code catches."""

from __future__ import annotations

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


class Outcomes(dict[str, str]):
    """By name; a plugin of the pytest that runs those tests in this process."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self[report.nodeid.rpartition("test_")[2]] = report.outcome


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What pytest says of a test of each, in which every error is caught."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "conftest.py").write_text(HOOKS)
    tests = []
    for name, code in (REFUSED | ALLOWED).items():
        body = "".join(f"        {line}\n" for line in code.splitlines())
        tests.append(f"def test_{name}():\n    try:\n{body}    except Exception:\n        pass\n")
    (folder / "test_x.py").write_text("\n".join(tests))
    without = ("cacheprovider", "xdist", "hypothesispytest", "faulthandler", "terminal")
    argv = ["-c", "/dev/null", f"--rootdir={folder}", "--import-mode=importlib", *(f"-pno:{name}" for name in without)]
    said = Outcomes()
    pytest.main([*argv, str(folder)], plugins=[said])
    return said


@pytest.mark.parametrize("name", REFUSED)
def test_a_test_that_talks_to_somebody_fails(name: str, outcomes: Outcomes) -> None:
    assert outcomes[name] == "failed"


@pytest.mark.parametrize("name", ALLOWED)
def test_what_stays_on_this_machine_is_allowed(name: str, outcomes: Outcomes) -> None:
    assert outcomes[name] == "passed"
