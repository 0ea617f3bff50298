"""Shared by all tests: the project itself, and images that are built once per session."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from buildctl.artifacts.store import Store

ROOT = Path(__file__).parents[1]
RUN = "buildctl-tests-"  # and the process id of the run

# how fast a machine is at the moment says nothing about the code; the many examples are tried every night
settings.register_profile("usual", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("usual"), max_examples=1000)  # `make test-all`
settings.load_profile("usual")

# A shell that starts the tests in the background has told them to ignore Ctrl-C, and nohup a closed terminal, and so
# what they start; some tests do both.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # `nohup make test` goes on; what it starts is not told to ignore it


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """What the user has set for other work, a key to sign with above all, is not for the tests; places to fetch from
    and the store are.
    """
    for variable in [name for name in os.environ if name.startswith("BUILDCTL_")]:
        if variable not in {"BUILDCTL_CACHE", "BUILDCTL_DEBIAN_MIRROR"}:
            del os.environ[variable]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that cannot run here is NOT RUN, with the reason; any other skip has failed."""
    report = yield
    if report.skipped and (wrong := refused_skip(str(report.longrepr), os.environ.get("ALLOWED_SKIPS"))):
        report.outcome, report.longrepr = "failed", f"{wrong}: {report.longrepr}"
    return report


def refused_skip(said: str, allowed: str | None) -> str:
    """Why that skip is a failure; empty if it is not. `allowed` is a file with a glob of reasons a line, for a machine
    of which we know what it cannot do: there NOT RUN is not PASSED for us either.
    """
    _, mark, reason = said.partition("NOT RUN: ")
    if not mark:
        return "skipped without `NOT RUN: reason`"
    if not allowed:
        return ""
    reason = reason.rstrip("')")
    globs = [line.partition("#")[0].strip() for line in (ROOT / allowed).read_text().splitlines()]
    return "" if any(fnmatchcase(reason, glob) for glob in globs if glob) else f"not one of the skips in {allowed}"


@dataclass(frozen=True)
class Ran:
    returncode: int
    stdout: str
    stderr: str


def buildctl(
    *args: str | Path,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    timeout: float = 900,
) -> Ran:
    """Run the command line as a user does, in a process of its own."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "buildctl", *map(str, args)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def stores_of(pid: int) -> Path:
    """Next to the user's store, so that downloads can be linked."""
    return Store.default().root.parent / f"{RUN}{pid}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(stores_of(os.getpid()), ignore_errors=True)


@pytest.fixture(scope="session")
def stores(pytestconfig: pytest.Config) -> Path:
    """A folder for stores of the tests, which the workers of one run share; removed at the end of the run."""
    folder = stores_of(os.getppid() if hasattr(pytestconfig, "workerinput") else os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f"{RUN}*"):  # of a run that was killed
        if not Path(f"/proc/{left.name.rpartition('-')[2]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return folder


@contextmanager
def one_at_a_time(stores: Path, what: str) -> Iterator[None]:
    """Among the workers of one run: the first makes what the others find made."""
    with (stores / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fresh_store(target: Path, *, compiled: bool = True) -> dict[str, str]:
    """The environment of a store in `target` (below `stores`) that has the user's downloads and no layer yet; and,
    unless it is to have nothing `compiled`, the Python that compiles and the bytecode which the stores of a run share.
    """
    target.mkdir(parents=True)
    link_downloads(target)
    run = next(folder for folder in target.parents if folder.name.startswith(RUN))
    for name in ("python", "bytecode") if compiled else ():
        (run / name).mkdir(exist_ok=True)
        (target / name).symlink_to(run / name)
    return {"BUILDCTL_CACHE": str(target)}


def link_downloads(target: Path) -> None:
    artifacts = Store.default().root / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-alf", artifacts, target], check=True)


@pytest.fixture
def store(stores: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a store of the test's own: downloads, no layer."""
    folder = stores / f"{tmp_path.parent.name}-{tmp_path.name}"
    yield fresh_store(folder)
    shutil.rmtree(folder, ignore_errors=True)


SMALL = ("cpu-2.6",)  # 130 MB to download
LARGE = ("cpu-2.6-devel", "cuda-2.6", "cuda-2.6-devel")  # 3 GB


@pytest.fixture(scope="session")
def built_store(stores: Path) -> dict[str, str]:
    """The environment of the store that `built` and `everything` are made in."""
    with one_at_a_time(stores, "store"):
        if (stores / "built").exists():
            return {"BUILDCTL_CACHE": str(stores / "built")}
        fetched(SMALL)
        return fresh_store(stores / "built")


@pytest.fixture(scope="session")
def built(stores: Path, built_store: dict[str, str]) -> Path:
    """An OCI layout with cpu-2.6 for arm64: the smallest image with a real torch."""
    with one_at_a_time(stores, "dist"):
        return made(stores / "dist", SMALL, built_store)


@pytest.fixture(scope="session")
def everything(stores: Path, built: Path, built_store: dict[str, str]) -> Path:
    """The same layout with cuda-2.6 for amd64 as well, runtime and devel of both. Who asks for it is `big`."""
    with one_at_a_time(stores, "dist"):
        fetched(LARGE)
        link_downloads(Path(built_store["BUILDCTL_CACHE"]))
        return made(built, LARGE, built_store)


@pytest.fixture(scope="session")
def layouts(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """The layout that holds an image or cell of that name: `built`, or `everything` for a test that is marked `big`."""

    def holding(name: str) -> Path:
        found: Path = request.getfixturevalue("built" if name.removesuffix("-arm64") in SMALL else "everything")
        return found

    return holding


@dataclass(frozen=True)
class Asked:
    """What `buildctl test` said of cpu-2.6: JSON, and the JUnit file."""

    ran: Ran
    junit: Path


@pytest.fixture(scope="session")
def asked(stores: Path, built: Path, built_store: dict[str, str]) -> Asked:
    """The probes in `built`, once for all tests: under emulation they take minutes. The report is kept in `built`."""
    answer, junit = stores / "asked.json", stores / "asked.xml"
    with one_at_a_time(stores, "asked"):
        if not answer.exists():
            argv: list[str | Path] = ["test", *SMALL, "--runtime", "sandbox", "--json", "--junit", junit]
            answer.write_text(json.dumps(asdict(buildctl("--layout", built, *argv, env=built_store))))
    return Asked(Ran(**json.loads(answer.read_text())), junit)


def fetched(names: Sequence[str]) -> None:
    """Downloads go to the user's store, once a machine; layers are made by the code under test."""
    done = buildctl("fetch", *names)
    assert done.returncode == 0, done.stderr


def made(layout: Path, names: Sequence[str], store: Mapping[str, str]) -> Path:
    done = buildctl("--layout", layout, "build", *names, "--no-load", "--locked", env=store)
    assert done.returncode == 0, done.stderr
    return layout
