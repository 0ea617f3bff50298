"""images/common/entrypoint and install-wheels, run by the shells of this machine."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
import uv

from buildctl.artifacts import bytecode
from buildctl.artifacts.wheels.layer import wheel_entries
from buildctl.artifacts.wheels.wheel import Site
from tests.support.wheels import make_wheel, record_line, saved, wheel_contents, zipped

COMMON = Path(__file__).parents[3] / "images" / "common"
SHELLS = [name for name in ("sh", "dash", "bash", "busybox") if shutil.which(name)]
RECORD = '#!/bin/sh\nprintf "%s" "${0##*/}"; printf " <%s>" "$@"; printf "\\n"\n'


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    return ["busybox", "sh"] if request.param == "busybox" else [request.param]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH with a python and a tool that say how they were called, and what the script itself needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python", "torchrun"):
        write(folder / name, RECORD)
    write(folder / "id", '#!/bin/sh\n[ "$1" = -u ] && echo 4321 && exit\nexit 1\n')  # a user without a name
    return folder


def write(path: Path, text: str, *, mode: int = 0o755) -> None:
    path.write_text(text)
    path.chmod(mode)


def start(
    shell: list[str], programs: Path, *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """What the entrypoint ends up running, as `NAME <ARG>...`."""
    environment = {"PATH": str(programs), "HOME": str(programs), "USER": "torch", **(env or {})}
    program = shutil.which(shell[0])
    assert program is not None
    argv = [program, *shell[1:], str(COMMON / "entrypoint"), *args]
    done = subprocess.run(argv, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip() or f"{done.returncode} {done.stderr.strip()}"


@pytest.mark.parametrize(
    ("args", "started"),
    [
        ([], "python <>"),
        (["-c", "print(1)"], "python <-c> <print(1)>"),
        (["--version"], "python <--version>"),
        (["-m", "torch.utils.collect_env"], "python <-m> <torch.utils.collect_env>"),
        (["torchrun", "--nproc-per-node=2", "t.py"], "torchrun <--nproc-per-node=2> <t.py>"),
        (["python", "x y", "", "*"], "python <x y> <> <*>"),
    ],
)
def test_what_is_started(shell: list[str], programs: Path, args: list[str], started: str) -> None:
    assert start(shell, programs, *args) == started


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_script_goes_to_python_executable_or_not(shell: list[str], programs: Path, tmp_path: Path, mode: int) -> None:
    """A mount from a Mac or Windows makes every file executable, and the kernel would give it to /bin/sh."""
    write(tmp_path / "train.py", "print(1)\n", mode=mode)
    assert start(shell, programs, "train.py", "--lr", "1", cwd=tmp_path) == "python <train.py> <--lr> <1>"
    assert start(shell, programs, str(tmp_path / "train.py")) == f"python <{tmp_path}/train.py>"


def test_a_script_that_is_not_there_goes_to_python_which_says_where_it_looked(
    shell: list[str], programs: Path, tmp_path: Path
) -> None:
    assert start(shell, programs, "train.py", cwd=tmp_path) == "python <train.py>"


def test_a_command_on_the_path_may_end_in_py(shell: list[str], programs: Path, tmp_path: Path) -> None:
    write(programs / "convert.py", RECORD)
    assert start(shell, programs, "convert.py", "x", cwd=tmp_path) == "convert.py <x>"


def test_a_missing_command_fails_as_in_a_shell(shell: list[str], programs: Path) -> None:
    assert start(shell, programs, "no-such-command").startswith("127 ")


def test_home_stays_when_it_can_be_written(shell: list[str], programs: Path) -> None:
    write(programs / "python", '#!/bin/sh\necho "$HOME $USER"\n')
    assert start(shell, programs) == f"{programs} torch"


def test_a_user_without_home_and_name_gets_both(shell: list[str], programs: Path) -> None:
    write(programs / "python", '#!/bin/sh\necho "$HOME $USER"\n')
    assert start(shell, programs, env={"HOME": "/no/such/folder", "USER": ""}) == "/tmp uid4321"


@pytest.mark.parametrize(
    ("uid", "home", "said"),
    [("0", "/home/torch", "/root root"), ("0", "/", "/ torch"), ("1000", "/", "/ torch")],
)
def test_root_does_not_write_into_the_users_home(
    shell: list[str], programs: Path, uid: str, home: str, said: str
) -> None:
    """On this machine `/` and `/root` can be written to by root alone, as whom these tests may not run."""
    if os.getuid() != 0:
        pytest.skip("NOT RUN: only root has a home that root can write to")
    write(programs / "id", f'#!/bin/sh\n[ "$1" = -u ] && echo {uid} && exit\necho torch\n')
    write(programs / "python", '#!/bin/sh\necho "$HOME $USER"\n')
    assert start(shell, programs, env={"HOME": home}) == said


def test_a_folder_for_temporary_files_that_cannot_be_written_to_is_replaced(shell: list[str], programs: Path) -> None:
    write(programs / "python", '#!/bin/sh\necho "${TMPDIR-unset} $HOME"\n')
    assert start(shell, programs) == f"unset {programs}"
    temporary, home = start(shell, programs, env={"TMPDIR": "/no/such/folder", "HOME": "/no/such/home"}).split()
    assert temporary in {"/var/tmp", "/dev/shm"}
    assert home == temporary
    mine = str(programs)
    assert start(shell, programs, env={"TMPDIR": mine}) == f"{mine} {programs}"


def test_no_init_where_it_is_not_the_first_process(shell: list[str], programs: Path) -> None:
    write(programs / "tini", RECORD)
    assert start(shell, programs, "torchrun") == "torchrun <>"


def can_unshare() -> bool:
    argv = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="NOT RUN: no user namespaces here")
@pytest.mark.parametrize("has_tini", [True, False])
def test_the_first_process_is_an_init_where_the_image_has_one(shell: list[str], programs: Path, has_tini: bool) -> None:
    if has_tini:
        write(programs / "tini", RECORD)
    program = shutil.which(shell[0])
    assert program is not None
    argv = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--"]
    argv += [program, *shell[1:], str(COMMON / "entrypoint"), "-c", "1"]
    path = f"{programs}:{os.environ['PATH']}" if not has_tini and not shutil.which("tini") else str(programs)
    environment = {"PATH": path, "HOME": str(programs), "USER": "torch"}
    unshare = shutil.which("unshare")
    assert unshare is not None
    done = subprocess.run([unshare, *argv[1:]], env=environment, capture_output=True, text=True, check=False)
    expected = "tini <--> <python> <-c> <1>" if has_tini else "python <-c> <1>"
    assert done.stdout.strip() == expected, done.stderr


# install-wheels

FAKE_UV = """#!/bin/sh
printf '%s\\n' "$@" >"$UV_SAID"
echo "SSL_CERT_FILE=${SSL_CERT_FILE:-}" >>"$UV_SAID"
while [ "$1" != --prefix ]; do shift; done
site="$2/lib/PYTHON/site-packages"
mkdir -p "$site/pkg/__pycache__" "$2/bin"
echo 'CLASSES = {"a", "b"}' >"$site/pkg/__init__.py"
printf 'def f(x):\\n  class C: pass\\n  return x in {"a", "b", "c", "d", "e"}\\n' >"$site/pkg/b.py"
[ -z "$MORE" ] || cp "$site/pkg/b.py" "$site/pkg/a.py"
echo 'def broken(:' >"$site/pkg/broken.py"
mkdir -p "$site/tests" "$site/pkg/deep/tests/__pycache__" "$site/pkg/folder.py"
: | tee "$site/tests/a.py" >"$site/pkg/deep/tests/a.py"
: | tee "$site/pkg/__pycache__/broken.TAG.pyc" >"$site/pkg/deep/tests/__pycache__/a.TAG.pyc"
echo '#!/bin/sh' | tee "$2/bin/tool" "$2/bin/tool.py" >"$site/pkg/.py"
head -c 16777217 /dev/zero | tr '\\0' '#' >"$site/pkg/data.py"
: >"$2/.lock"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which install-wheels has run, with a uv that unpacks a package of two modules."""
    root = tmp_path_factory.mktemp("installed")
    install(root, "arm64")
    return root


def with_python(root: Path) -> Path:
    """A folder for PATH."""
    folder = root / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to(os.path.realpath(sys.executable))
    return folder


def install(root: Path, arch: str, *, more: str = "", first: str = "") -> subprocess.CompletedProcess[str]:
    folder = with_python(root)
    fake = FAKE_UV.replace("PYTHON", f"python{sysconfig.get_python_version()}")
    write(folder / "uv", fake.replace("TAG", str(sys.implementation.cache_tag)))
    env = {
        "PATH": f"{first}:{folder}:/usr/bin:/bin".lstrip(":"),
        "TARGETARCH": arch,
        "OUT": f"{root}/out",
        "UV_SAID": f"{root}/said",
        "PYTHONHASHSEED": str(len(more)),
        "MORE": more,
    }
    argv = ["sh", str(COMMON / "install-wheels"), "torch==2.6.0"]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)


@functools.cache
def site() -> str:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    python = os.path.realpath(sys.executable)
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_wheels_are_for_the_platform_of_the_image(installed: Path) -> None:
    said = (installed / "said").read_text().splitlines()
    assert said[said.index("--python-platform") + 1] == "aarch64-manylinux_2_40"
    assert "--require-hashes" in said
    assert "--no-deps" in said
    assert said[-2] == "torch==2.6.0"


def test_files_lie_where_they_are_in_the_image(installed: Path) -> None:
    found = installed / "out" / site().lstrip("/")
    assert (found / "pkg/__init__.py").exists()
    assert not list((installed / "out").rglob(".lock"))


def test_bytecode_is_unchecked_and_names_the_path_in_the_image(installed: Path) -> None:
    found = installed / "out" / site().lstrip("/")
    names = {p.name for p in (found / "pkg/__pycache__").iterdir()}
    tag = sys.implementation.cache_tag
    # none of the file that is not Python 3, nor of what is too large to be a module
    assert names == {f"__init__.{tag}.pyc", f"b.{tag}.pyc"}
    data = (found / f"pkg/__pycache__/__init__.{tag}.pyc").read_bytes()
    assert data[4:8] == (1).to_bytes(4, "little")  # PEP 552: hash-based, not checked
    assert f"{site()}/pkg/__init__.py".encode() in data
    assert str(installed).encode() not in data


def test_scripts_get_no_bytecode(installed: Path) -> None:
    (script,) = (installed / "out").rglob("tool.py")
    assert not (script.parent / "__pycache__").exists()


def test_the_tests_of_a_package_get_no_bytecode(installed: Path) -> None:
    found = installed / "out" / site().lstrip("/")
    assert [p.relative_to(found).parent.parent for p in found.rglob("a.*.pyc")] == [Path("tests")]
    assert (found / "pkg/deep/tests/a.py").exists()


def test_a_virtual_environment_behind_a_link_is_installed_into(tmp_path: Path) -> None:
    python = os.path.realpath(sys.executable)
    subprocess.run([python, "-m", "venv", "--without-pip", tmp_path / "real"], check=True, timeout=60)
    (tmp_path / "link").symlink_to("real")
    done = install(tmp_path, "amd64", first=f"{tmp_path}/link/bin")
    assert done.returncode == 0, done.stderr
    found = tmp_path / f"out{tmp_path}/real/lib/python{sysconfig.get_python_version()}/site-packages/pkg/__init__.py"
    assert found.exists()
    assert f"{tmp_path}/real/bin/python{sysconfig.get_python_version()}" in (tmp_path / "said").read_text()


def test_both_engines_compile_with_the_same_code() -> None:
    there = (COMMON / "install-wheels").read_text()
    shared = bytecode._COMPILE[bytecode._COMPILE.index("def words_by_sets") : bytecode._COMPILE.index("while lengths")]
    assert "def bytecode(path, source):" in shared
    assert shared.strip() in there


def test_bytecode_does_not_depend_on_what_else_is_compiled(installed: Path, tmp_path: Path) -> None:
    place = f"out{site()}/pkg/__pycache__/b.{sys.implementation.cache_tag}.pyc"
    install(tmp_path, "amd64", more="yes")
    found = tmp_path / place
    assert found.with_name(found.name.replace("b.", "a.", 1)).exists()
    assert found.read_bytes() == (installed / place).read_bytes()


def test_every_time_stamp_is_the_same(installed: Path) -> None:
    times = {int(p.stat().st_mtime) for p in [installed / "out", *(installed / "out").rglob("*")]}
    assert times == {315532800}


@pytest.mark.parametrize("arch", ["", "riscv64"])
def test_an_unknown_architecture_is_refused(tmp_path: Path, arch: str) -> None:
    done = install(tmp_path, arch)
    assert done.returncode == 2
    assert f"TARGETARCH is '{arch}'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_uv_that_fails_fails_the_step(tmp_path: Path) -> None:
    folder = with_python(tmp_path)
    write(folder / "uv", "#!/bin/sh\necho 'hash mismatch' >&2\nexit 1\n")
    env = {"PATH": f"{folder}:/usr/bin:/bin", "TARGETARCH": "amd64", "OUT": f"{tmp_path}/other", "MORE": ""}
    argv = ["sh", str(COMMON / "install-wheels"), "torch==2.6.0"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (1, "hash mismatch")


def test_odd_wheels_are_installed_as_in_the_assemble_engine(tmp_path: Path) -> None:
    """The first wheel by name wins a shared path: uv leaves the file of the one that it installs last, in any order.
    RECORD comes out the same, whatever it forgets.
    """
    named = tmp_path / "wheels"
    named.mkdir()
    for name, size in (("aa", 1), ("zz", 2_000_000)):
        files = {"tests/__init__.py": f"# {name}".encode(), f"{name}/data": random.Random(0).randbytes(size)}
        wheel = make_wheel(tmp_path, files, name=name)
        wheel.path.rename(named / wheel.filename)
    contents = wheel_contents({"odd/__init__.py": b"", "odd/unlisted": b"1"}, name="odd")
    line = record_line("odd/unlisted", b"1")
    rows = contents["odd-1.0.dist-info/RECORD"].decode().replace(line, "odd/gone.pyc,,\nodd/__init__.py,,")
    odd = saved(tmp_path, zipped(contents | {"odd-1.0.dist-info/RECORD": rows.encode()}), name="odd")
    odd.path.rename(named / odd.filename)
    lock = "".join(
        f"{p.name.split('-')[0]}==1.0 --hash=sha256:{hashlib.sha256(p.read_bytes()).hexdigest()}\n"
        for p in named.iterdir()
    )
    write(tmp_path / "requirements.txt", lock)
    (with_python(tmp_path) / "uv").symlink_to(uv.find_uv_bin())
    write(tmp_path / "uv.toml", f'no-index = true\nfind-links = ["{named}"]\n')
    for run in range(2):  # in both orders
        env = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "TARGETARCH": "amd64",
            "LOCK": f"{tmp_path}/requirements.txt",
            "OUT": f"{tmp_path}/out{run}",
            "UV_CONFIG_FILE": f"{tmp_path}/uv.toml",
        }
        argv = ["sh", str(COMMON / "install-wheels"), *("aa==1.0", "zz==1.0", "odd==1.0")[:: 1 if run else -1]]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"out{run}" / site().lstrip("/") / "tests/__init__.py").read_bytes() == b"# aa"
    place = Site(purelib=site().lstrip("/"))
    entries = {e.path: e for e in wheel_entries(named / odd.filename, filename=odd.filename, site=place, bytecode=None)}
    path = f"{place.purelib}/odd-1.0.dist-info/RECORD"
    body = entries[path].body
    assert body is not None
    ours, uvs = b"".join(body.chunks()).decode().splitlines(), (tmp_path / "out1" / path).read_text().splitlines()
    assert [row for row in ours if "INSTALLER" not in row] == sorted(r for r in uvs if "INSTALLER" not in r)
    assert not list((tmp_path / "out1").rglob("uv_cache.json"))  # which holds times, of wheels from a folder


def test_own_files_get_modes_and_times_and_no_bytecode(tmp_path: Path) -> None:
    own = tmp_path / "files/opt/app"
    own.mkdir(parents=True)
    own.chmod(0o2775)
    for name, mode in (("main.py", 0o600), ("tool", 0o4700)):
        write(own / name, "pass\n")
        (own / name).chmod(mode)
    (own / "link").symlink_to("gone")
    (tmp_path / "out/opt").mkdir(parents=True)
    write(tmp_path / "out/opt/secret", "")
    (tmp_path / "out/opt/secret").chmod(0o600)  # as a COPY --chmod wants it
    with_python(tmp_path)
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "TARGETARCH": "amd64", "OUT": f"{tmp_path}/out"}
    env["FILES"] = f"{tmp_path}/files"
    argv = ["sh", str(COMMON / "install-wheels")]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = {str(p.relative_to(tmp_path / "out")): p.lstat() for p in (tmp_path / "out").rglob("*")}
    assert {name: oct(state.st_mode & 0o7777) for name, state in found.items()} == {
        "opt": "0o755",
        "opt/secret": "0o600",
        "opt/app": "0o755",
        "opt/app/main.py": "0o644",
        "opt/app/tool": "0o755",
        "opt/app/link": "0o777",
    }
    assert {int(state.st_mtime) for state in found.values()} == {315532800}
