"""Locking and fetching against small real indexes on loopback: the right build wins and leaves no trace of its host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uv

from buildctl.artifacts.store import Store
from buildctl.console.progress import Silent
from buildctl.ground.errors import FetchError, LockError, SettingsError
from buildctl.ground.net import Patience
from buildctl.lock import fetch
from buildctl.lock.claims import claims_of
from buildctl.lock.fetch import fetch_wheels
from buildctl.lock.uv import NoSolutionError
from buildctl.lock.wheels import WheelLock, format_wheel_lock, parse_wheel_lock, resolve_wheels, write_wheel_lock
from buildctl.matrix.cells import Cell
from buildctl.matrix.read import parse_matrix
from buildctl.oci.digest import Digest
from tests.support.servers import Fault, Site, site, wheel

TORCH = "torch-2.6.0-cp313-cp313-manylinux1_x86_64.whl"
VISION = "torchvision-0.21.0-cp313-cp313-manylinux1_x86_64.whl"
NVIDIA = "nvidia_cublas_cu12-12.4.5.8-py3-none-manylinux2014_x86_64.whl"
NUMPY = "numpy-2.5.0-cp313-cp313-manylinux_2_28_x86_64.whl"

MATRIX = """
python: "3.13"
versions: {"2.6": 2.6.0}
packages: [torchvision, numpy]
flavours: [runtime]
bases: {debian13: {debian: trixie, packages: [dash]}}
accelerators:
  cuda: {arch: [amd64, arm64], base: debian13, devices: {built: [cuda], never: [mps]}}
  cpu: {arch: [amd64, arm64], base: debian13, devices: {never: [cuda, mps]}}
  mps: {native: macos, arch: [arm64], devices: {built: [mps], never: [cuda]}}
"""


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as server:
        yield server


@pytest.fixture(autouse=True)
def _own_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's pip and uv configuration, and no proxy before loopback."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name.lower() in {"http_proxy", "https_proxy", "all_proxy"}:
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "xdg"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def stack(content: str, *, torch: str = TORCH, vision: str = VISION) -> dict[str, bytes]:
    return {
        torch: wheel(torch, requires=["nvidia-cublas-cu12==12.4.5.8"], content=content),
        vision: wheel(vision, requires=["torch==2.6.0", "numpy"], content=content),
        NVIDIA: wheel(NVIDIA, content=content),
        NUMPY: wheel(NUMPY, content=content),
    }


def cell(name: str = "cuda-2.6", arch: str = "amd64", *, index: str | None = None) -> Cell:
    matrix = parse_matrix(MATRIX, Path("matrix.yaml"))
    found = matrix.select([name], arch)[0]
    return replace(found, accelerator=replace(found.accelerator, index=index))


def digests(lock: WheelLock) -> dict[str, Digest]:
    return {wheel.name: wheel.digest for wheel in lock.wheels}


def test_uvs_own_default_index_is_asked(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = stack("default")
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", wheels))
    lock = resolve_wheels(cell())
    assert {w.filename: w.digest for w in lock.wheels} == {n: Digest.of(d) for n, d in wheels.items()}
    assert {w.filename: w.size for w in lock.wheels} == {n: len(d) for n, d in wheels.items()}


def test_the_accelerators_index_serves_torch_and_companions_and_nothing_else(
    server: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    default, own = stack("default"), stack("own")
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("default", default))
    lock = digests(resolve_wheels(cell(index=server.publish("own", own))))
    assert lock["torch"] == Digest.of(own[TORCH])
    assert lock["torchvision"] == Digest.of(own[VISION])
    assert lock["numpy"] == Digest.of(default[NUMPY])
    assert lock["nvidia-cublas-cu12"] == Digest.of(default[NVIDIA])


def test_a_local_version_on_the_default_index_does_not_win_over_the_accelerators_index(
    server: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By PEP 440 2.6.0+cpu is newer than 2.6.0 and satisfies ==2.6.0."""
    trap = TORCH.replace("2.6.0", "2.6.0+cpu")
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("default", stack("default") | {trap: wheel(trap)}))
    own = stack("own")
    assert digests(resolve_wheels(cell(index=server.publish("own", own))))["torch"] == Digest.of(own[TORCH])


def test_pips_index_is_used_when_uv_has_none(server: Site, tmp_path: Path) -> None:
    wheels = stack("pip")
    config = tmp_path / "home" / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text(f"[global]\nindex-url = {server.publish('pip', wheels)}\n")
    assert digests(resolve_wheels(cell()))["torch"] == Digest.of(wheels[TORCH])


def test_pips_extra_index_and_find_links_are_never_used(
    server: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trap = TORCH.replace("2.6.0", "2.6.0+cpu")
    links = tmp_path / "links"
    links.mkdir()
    (links / trap).write_bytes(wheel(trap, content="links"))
    wheels = stack("pip")
    monkeypatch.setenv("PIP_INDEX_URL", server.publish("pip", wheels))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", server.publish("extra", {trap: wheel(trap, content="extra")}))
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("UV_FIND_LINKS", str(links))
    assert digests(resolve_wheels(cell()))["torch"] == Digest.of(wheels[TORCH])
    assert not [request for request in server.seen if request.path.startswith("/extra/")]


def test_uvs_configuration_goes_before_pips(server: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheels = stack("uv")
    config = tmp_path / "home" / ".config" / "uv" / "uv.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[[index]]\nurl = "{server.publish("uv", wheels)}"\ndefault = true\n')
    monkeypatch.setenv("PIP_INDEX_URL", server.publish("pip", stack("pip")))
    assert digests(resolve_wheels(cell()))["torch"] == Digest.of(wheels[TORCH])


def test_torch_and_torchvision_from_two_indexes_are_refused(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = stack("first"), stack("second")
    monkeypatch.setenv("UV_INDEX", server.publish("first", {TORCH: first[TORCH]}))
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("second", second))
    with pytest.raises(LockError, match="more than one index"):
        resolve_wheels(cell())


def test_a_lock_names_no_host_port_path_or_password(
    server: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.password = "someone:secret"
    url = server.publish("a", stack("a")).replace("http://", "http://someone:secret@")
    monkeypatch.setenv("UV_DEFAULT_INDEX", url)
    text = format_wheel_lock(resolve_wheels(cell(index=url)))
    for trace in ("http", "127.0.0.1", server.netloc.split(":")[1], "secret", "someone", str(tmp_path), "simple"):
        assert trace not in text


def test_pins_stay_until_an_upgrade_is_asked_for(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = NUMPY.replace("2.5.0", "2.6.0")
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", stack("a")))
    old = resolve_wheels(cell())
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("b", stack("a") | {newer: wheel(newer)}))
    assert resolve_wheels(cell(), keep=old) == old
    upgraded = resolve_wheels(cell()).wheel("numpy")
    assert upgraded is not None
    assert upgraded.version == "2.6.0"


def test_a_cpu_build_under_a_cuda_name_is_refused(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = stack("a") | {TORCH: wheel(TORCH)}  # needs no nvidia wheel: what PyPI has for linux/aarch64 before 2.11
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", wheels))
    lock = resolve_wheels(cell())  # which says nothing; what is inside the wheel would
    with pytest.raises(LockError, match=r"cuda-2\.6-amd64: .*not a CUDA build"):
        claims_of(cell(), lock)


def test_a_cpu_local_version_under_a_cuda_name_is_refused(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    local = TORCH.replace("2.6.0", "2.6.0+cpu")
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", stack("a", torch=local)))
    with pytest.raises(LockError, match="not a CUDA build"):
        resolve_wheels(cell())


def test_a_cuda_build_under_a_cpu_name_is_refused(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", stack("a")))
    cpu = cell("cpu-2.6")
    lock = resolve_wheels(cpu)  # the CUDA of other packages is not torch's: its wheel decides, if it can be read
    with pytest.raises(LockError, match=r"cpu-2\.6-amd64: .*is a CUDA build \(it needs nvidia-cublas-cu12"):
        claims_of(cpu, lock)


def test_a_cpu_index_makes_a_cpu_lock(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    local = TORCH.replace("2.6.0", "2.6.0+cpu")
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", stack("a")))
    own = server.publish("cpu", {local: wheel(local), VISION: wheel(VISION, requires=["torch==2.6.0"])})
    lock = resolve_wheels(cell("cpu-2.6", index=own))
    torch = lock.wheel("torch")
    assert torch is not None
    assert torch.version == "2.6.0+cpu"
    assert lock.wheel("nvidia-cublas-cu12") is None
    assert parse_wheel_lock(format_wheel_lock(lock), "x") == lock


def test_the_most_specific_wheel_for_the_cells_platform_is_locked(
    server: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = stack("a")
    names = [
        "numpy-2.5.0-py3-none-any.whl",
        "numpy-2.5.0-cp313-cp313-manylinux_2_17_x86_64.whl",
        "numpy-2.5.0-cp313-cp313-manylinux_2_18_aarch64.whl",
        "numpy-2.5.0-cp313-cp313-musllinux_1_2_x86_64.whl",
        "numpy-2.5.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "numpy-2.5.0-cp313-cp313-macosx_14_0_arm64.whl",
        "numpy-2.5.0-cp313-cp313-macosx_15_0_arm64.whl",
    ]
    wheels |= {name: wheel(name) for name in names}
    for name in (TORCH, VISION):
        for platform in ("manylinux_2_28_aarch64", "macosx_14_0_arm64"):
            requires = ["nvidia-cublas-cu12; sys_platform == 'linux'"] if name is TORCH else ["torch"]
            other = name.replace("manylinux1_x86_64", platform)
            wheels[other] = wheel(other, requires=requires)
    arm = NVIDIA.replace("x86_64", "aarch64")
    wheels[arm] = wheel(arm)
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", wheels))
    for lock, expected in (
        (resolve_wheels(cell("cuda-2.6", "amd64")), NUMPY),
        (resolve_wheels(cell("cuda-2.6", "arm64")), names[2]),
        (resolve_wheels(cell("mps-2.6", "arm64")), names[5]),
    ):
        numpy = lock.wheel("numpy")
        assert numpy is not None
        assert numpy.filename == expected


@pytest.mark.parametrize("json_api", [True, False])
def test_an_index_without_sizes_is_asked_for_them(
    server: Site, monkeypatch: pytest.MonkeyPatch, json_api: bool
) -> None:
    wheels = stack("a")
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", wheels, sizes=False, json_api=json_api))
    assert {w.filename: w.size for w in resolve_wheels(cell()).wheels} == {n: len(d) for n, d in wheels.items()}


def test_an_index_behind_a_password_is_asked_for_sizes_with_it(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.publish("a", stack("a"), sizes=False)
    server.password = "someone:secret"
    monkeypatch.setenv("UV_DEFAULT_INDEX", url.replace("http://", "http://someone:secret@"))
    assert all(w.size > 0 for w in resolve_wheels(cell()).wheels)


def test_wheels_without_hashes_on_the_index_are_hashed(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = stack("a")
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", wheels, hashes=False))
    assert {w.filename: w.digest for w in resolve_wheels(cell()).wheels} == {n: Digest.of(d) for n, d in wheels.items()}


def test_an_index_elsewhere_cannot_name_a_file_of_this_machine(
    server: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = server.publish("a", stack("default"))
    data = wheel(NUMPY, content="here")
    (tmp_path / NUMPY).write_bytes(data)
    link = f'<a href="{(tmp_path / NUMPY).as_uri()}#sha256={Digest.of(data).hex}">{NUMPY}</a>'
    server.put("/a/simple/numpy/", link.encode(), "text/html")
    monkeypatch.setenv("UV_DEFAULT_INDEX", url)
    with pytest.raises(SettingsError, match=r"numpy==2\.5\.0: the index names a file on this machine: file://"):
        resolve_wheels(cell())


def test_a_folder_of_own_wheels_may_hold_links(server: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", {**stack("default")}))
    own, links = "numpy-2.6.0-cp313-cp313-manylinux_2_28_x86_64.whl", tmp_path / "links"
    links.mkdir()
    (tmp_path / own).write_bytes(wheel(own))
    (links / own).symlink_to(tmp_path / own)
    found = resolve_wheels(cell(), links=links).wheel("numpy")
    assert found is not None
    assert found.filename == own


def test_a_version_that_is_not_there_is_no_solution(server: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", {NUMPY: wheel(NUMPY)}))
    with pytest.raises(NoSolutionError, match="torch"):
        resolve_wheels(cell())


def test_an_index_out_of_reach_is_an_error_with_a_hint_and_without_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://someone:secret@127.0.0.1:9/simple")
    with pytest.raises(LockError) as caught:
        resolve_wheels(cell())
    assert not isinstance(caught.value, NoSolutionError)
    assert caught.value.hint
    assert "reachable" in caught.value.hint
    assert "secret" not in caught.value.message


PIP = [sys.executable, "-m", "pip", "install", "--only-binary=:all:", "--python-version=3.13"]
PIP += [f"--platform={tag}_x86_64" for tag in ("manylinux_2_28", "manylinux2014", "manylinux1")]


def test_pip_and_uv_take_the_lock_as_hashed_requirements(
    server: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = server.publish("a", stack("a"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", url)
    path = tmp_path / "requirements.amd64.txt"
    write_wheel_lock(path, resolve_wheels(cell()))
    common = ["--no-deps", "--require-hashes", "-r", str(path), "--target", str(tmp_path / "out")]
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    pip = [*PIP, "--index-url", url, *common]
    done = subprocess.run(pip, check=False, capture_output=True, timeout=120, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "torch" / "__init__.py").read_text() == "# a\n"
    uv_argv = [uv.find_uv_bin(), "pip", "install", "--python-platform=x86_64-manylinux_2_40", "--python-version=3.13"]
    done = subprocess.run(
        [*uv_argv, "--python", sys.executable, "--dry-run", *common],
        check=False,
        capture_output=True,
        timeout=120,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_pip_refuses_other_bytes_than_the_lock_pins(
    server: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", stack("a")))
    path = tmp_path / "requirements.amd64.txt"
    write_wheel_lock(path, resolve_wheels(cell()))
    url = server.publish("b", stack("b"))
    common = ["--no-deps", "--require-hashes", "-r", str(path), "--target", str(tmp_path / "out"), "--index-url", url]
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    done = subprocess.run([*PIP, *common], check=False, capture_output=True, timeout=120, text=True)
    assert done.returncode != 0
    assert "HASHES" in done.stderr


# fetching what was locked

QUICK = Patience(connect=2, read=1, attempts=3, backoff=0.01)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_wheels_are_fetched_from_the_index_they_were_locked_from(
    server: Site, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    own = stack("own")
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("default", stack("default")))
    asked = cell(index=server.publish("own", own))
    lock = resolve_wheels(asked)
    fetch_wheels([(asked, lock)], store=store, progress=Silent())
    for locked in lock.wheels:
        path = store.artifact(locked.digest)
        assert path is not None
        assert Digest.of_file(path) == locked.digest
    torch = store.artifact(Digest.of(own[TORCH]))
    assert torch is not None
    assert torch.read_bytes() == own[TORCH]


def test_credentials_of_the_index_are_used_for_its_files(
    server: Site, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    server.password = "someone:secret"
    url = server.publish("a", stack("a")).replace("http://", "http://someone:secret@")
    monkeypatch.setenv("UV_DEFAULT_INDEX", url)
    lock = resolve_wheels(cell())
    fetch_wheels([(cell(), lock)], store=store, progress=Silent())
    assert all(store.artifact(w.digest) for w in lock.wheels)


def test_a_better_wheel_uploaded_since_does_not_hide_the_locked_one(
    server: Site, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    generic = "numpy-2.5.0-py3-none-any.whl"
    wheels = {name: data for name, data in stack("a").items() if name != NUMPY} | {generic: wheel(generic)}
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", wheels))
    lock = resolve_wheels(cell())
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("b", wheels | {NUMPY: wheel(NUMPY)}))
    fetch_wheels([(cell(), lock)], store=store, progress=Silent())
    assert store.artifact(Digest.of(wheels[generic])) is not None


def test_a_version_that_vanished_from_the_index_says_so(
    server: Site, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", stack("a")))
    lock = resolve_wheels(cell())
    newer = NUMPY.replace("2.5.0", "2.6.0")
    later = {name: data for name, data in stack("a").items() if name != NUMPY} | {newer: wheel(newer)}
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("b", later))
    with pytest.raises(FetchError) as caught:
        fetch_wheels([(cell(), lock)], store=store, progress=Silent())
    assert caught.value.vanished
    assert "numpy" in caught.value.message


def test_a_file_replaced_under_its_name_is_not_fetched(
    server: Site, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", stack("a")))
    lock = resolve_wheels(cell())
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("b", stack("b")))
    with pytest.raises(FetchError, match=r"has no \S+\.whl with SHA-256") as caught:
        fetch_wheels([(cell(), lock)], store=store, progress=Silent())
    assert caught.value.vanished
    assert not (store.root / "artifacts").exists()


def test_a_file_that_is_listed_but_gone_says_vanished(
    server: Site, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", stack("a")))
    lock = resolve_wheels(cell())
    server.always[f"/a/files/{TORCH}"] = Fault(status=404)
    with pytest.raises(FetchError, match=r"torch-2\.6\.0") as caught:
        fetch_wheels([(cell(), lock)], store=store, progress=Silent(), patience=QUICK)
    assert caught.value.vanished


def test_an_index_out_of_reach_is_not_vanished(server: Site, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", stack("a")))
    lock = resolve_wheels(cell())
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    with pytest.raises(FetchError) as caught:
        fetch_wheels([(cell(), lock)], store=store, progress=Silent(), patience=QUICK)
    assert not caught.value.vanished


def test_nothing_is_asked_when_everything_is_in_the_store(
    server: Site, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("a", stack("a")))
    lock = resolve_wheels(cell())
    fetch_wheels([(cell(), lock)], store=store, progress=Silent())
    before = len(server.seen)

    def never(*args: object, **kwargs: object) -> dict[Digest, str]:
        raise AssertionError("uv was started")

    monkeypatch.setattr(fetch, "locate", never)
    fetch_wheels([(cell(), lock)], store=store, progress=Silent())
    assert len(server.seen) == before
