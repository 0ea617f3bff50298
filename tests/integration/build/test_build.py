"""Real images of both architectures: built, the same everywhere, continued after a kill, refused when they must be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildctl.oci.check import check_layout
from buildctl.oci.layout import Layout
from tests.conftest import Ran, buildctl, fresh_store
from tests.support.projects import copy_project
from tests.support.tiny import CELL, NAME, tiny

pytestmark = pytest.mark.network
SMALL = ["cpu-2.6"]
LARGE = ["cpu-2.6", "cpu-2.6-devel", "cuda-2.6", "cuda-2.6-devel"]
NAMES = [SMALL, pytest.param(LARGE, marks=pytest.mark.big)]


@dataclass(frozen=True, slots=True)
class Here:
    """A project, a store that has what it is built from and no layer yet, the layout that should come out, and a size
    of a disk in MB that the build's Python fits on and the layers do not.
    """

    project: Path
    store: dict[str, str]
    expected: Path
    disk: int

    @property
    def root(self) -> Path:
        return Path(self.store["BUILDCTL_CACHE"])

    def build(self, *args: str | Path) -> Ran:
        return buildctl("build", NAME, "--no-load", *args, cwd=self.project, env=self.store)

    def start(self, *args: str | Path, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """A build in a process group of its own."""
        argv = [sys.executable, "-m", "buildctl", "build", NAME, "--no-load", *map(str, args)]
        env = {**os.environ, **self.store}
        return subprocess.Popen(argv, cwd=self.project, env=env, start_new_session=True, stderr=stderr, text=True)


@pytest.fixture(scope="module")
def tiny_layout(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the tiny project gives when nothing happens."""
    root, folder = tmp_path_factory.mktemp("tiny") / "project", stores / f"tiny-{os.getpid()}"
    env = fresh_store(folder)
    tiny(root, folder)
    done = buildctl("build", NAME, "--no-load", cwd=root, env=env)
    assert done.returncode == 0, done.stderr
    yield root / "dist"
    shutil.rmtree(folder)


@pytest.fixture
def alone(stores: Path) -> Iterator[dict[str, str]]:
    """The environment of a store in which everything is compiled again."""
    folder = stores / f"alone-{os.getpid()}"
    yield fresh_store(folder, compiled=False)
    shutil.rmtree(folder)


@pytest.fixture(params=["tiny", pytest.param("real", marks=pytest.mark.big)])
def here(request: pytest.FixtureRequest, store: dict[str, str], tmp_path: Path) -> Here:
    """A tiny image, and cpu-2.6 for `make test-all`."""
    project = tmp_path / "project"
    if request.param == "real":
        return Here(copy_project(project), store, request.getfixturevalue("built"), 60)
    return Here(tiny(project, Path(store["BUILDCTL_CACHE"])), store, request.getfixturevalue("tiny_layout"), 45)


def digests(layout: Path) -> dict[str, str]:
    there = Layout(layout)
    return {name: str(there.resolve(name).digest) for name in there.names()}


def test_the_layout_holds_an_image_for_another_architecture_and_passes_the_check(built: Path) -> None:
    assert check_layout(built) == []
    assert set(Layout(built).names()) >= {"cpu-2.6", "cpu-2.6-arm64"}


def test_the_layout_holds_both_architectures_and_passes_the_check(everything: Path) -> None:
    assert check_layout(everything) == []
    names = {"cuda-2.6", "cuda-2.6-amd64", "cpu-2.6", "cpu-2.6-arm64", "cpu-2.6-devel"}
    assert set(Layout(everything).names()) >= names


@pytest.mark.parametrize("names", NAMES)
def test_a_second_build_makes_nothing_and_needs_no_network(
    names: list[str], built_store: dict[str, str], layouts: Callable[[str], Path]
) -> None:
    built = layouts(names[-1])
    before = digests(built)
    offline = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    done = buildctl("--layout", built, "build", *names, "--no-load", "--json", env=built_store | offline)
    assert done.returncode == 0, done.stderr
    assert [image["layersMade"] for image in json.loads(done.stdout)["images"]] == [0] * len(names)
    assert digests(built) == before


@pytest.mark.parametrize(
    "names", [pytest.param([NAME], id="tiny"), pytest.param(LARGE, marks=[pytest.mark.big, pytest.mark.images])]
)
def test_digests_do_not_depend_on_path_user_umask_locale_time_or_processes(
    names: list[str], alone: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = tmp_path / "another place" / "x"
    if names == [NAME]:
        built, project = request.getfixturevalue("tiny_layout"), tiny(place, Path(alone["BUILDCTL_CACHE"]))
    else:
        built, project = request.getfixturevalue("everything"), copy_project(place)
    env = alone | {
        "PYTHONHASHSEED": "7",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "HOME": str(tmp_path),
        "USER": "somebody",
    }
    # another user and group as far as the process can tell, a umask that leaves nothing to others
    prefix = ["unshare", "--user", "--map-user=4242", "--map-group=4343", "sh", "-c", 'umask 077; exec "$@"', "sh"]
    done = buildctl("build", *names, "--no-load", "--jobs", "3", cwd=project, env=env, prefix=prefix)
    assert done.returncode == 0, done.stderr
    expected = digests(built)
    found = {n: d for n, d in digests(project / "dist").items() if not n.startswith("base-")}
    assert set(found) > set(names)
    assert found == {name: expected[name] for name in found}


def test_a_killed_build_continues_from_what_is_whole(here: Here) -> None:
    blobs, layers = here.root / "blobs" / "sha256", here.root / "layers"
    process = here.start("--jobs", "1")
    deadline = time.monotonic() + 120
    while not (layers.is_dir() and any(layers.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was to be killed half way"
    whole = {p.name for p in blobs.iterdir()}
    done = here.build("--json")
    assert done.returncode == 0, done.stderr
    image = json.loads(done.stdout)["images"][0]
    assert image["layersReused"] >= 1
    assert whole <= {p.name for p in blobs.iterdir()}
    assert image["digest"] == digests(here.expected)[CELL]
    assert check_layout(here.project / "dist") == []
    assert not list((here.root / "tmp").iterdir()), "what the killed process left is swept away"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupting_a_build_leaves_nothing_half_written(here: Here, number: signal.Signals, status: int) -> None:
    process = here.start(stderr=subprocess.PIPE)
    temporary, layout = here.root / "tmp", here.project / "dist"
    deadline = time.monotonic() + 120
    while not (temporary.is_dir() and any(temporary.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number)  # what Ctrl-C does: the whole group gets it
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    assert not list(temporary.iterdir())
    assert not layout.exists() or check_layout(layout) == []


def test_sixteen_builders_at_once_keep_sixteen_entries(built_store: dict[str, str], tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    text = (project / "matrix.yaml").read_text()
    names = [f"c{n:02}" for n in range(16)]
    more = "".join(f"  {n}: {{arch: [arm64], base: debian13, devices: {{never: [cuda, mps]}}}}\n" for n in names)
    (project / "matrix.yaml").write_text(text.replace("accelerators:\n", f"accelerators:\n{more}"))
    for n in names:
        target = project / f"images/{n}-2.6"
        shutil.copytree(project / "images/cpu-2.6", target)
        path = target / "requirements.arm64.txt"
        path.write_text(path.read_text().replace("cpu-2.6", f"{n}-2.6"))
    for command in ("claims", "render"):
        assert buildctl(command, *(f"{n}-2.6" for n in names), cwd=project).returncode == 0
    argv = [sys.executable, "-m", "buildctl", "build", "--no-load", "--locked"]
    running = [
        subprocess.Popen(
            [*argv, f"{n}-2.6"],
            cwd=project,
            env={**os.environ, **built_store},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for n in names
    ]
    failed = [p.communicate(timeout=300)[1] for p in running]
    assert [p.returncode for p in running] == [0] * 16, failed
    assert set(Layout(project / "dist").names()) >= {f"{n}-2.6-arm64" for n in names} | {f"{n}-2.6" for n in names}
    assert check_layout(project / "dist") == []


def test_a_full_disk_is_one_clear_error_and_the_build_goes_on_later(here: Here, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={here.disk}m", "tmpfs", disk], check=True)
    try:
        (disk / "store").mkdir()
        (disk / "store" / "artifacts").symlink_to(here.root / "artifacts")
        there = replace(here, store={"BUILDCTL_CACHE": str(disk / "store")})
        done = there.build()
        assert done.returncode == 9, done.stderr
        assert "no space left" in done.stderr
        assert "Traceback" not in done.stderr
        for blob in (disk / "store" / "blobs" / "sha256").glob("*"):
            assert (
                subprocess.run(["sha256sum", blob], capture_output=True, text=True, check=True).stdout[:64] == blob.name
            )
        subprocess.run(["mount", "-o", "remount,size=2g", disk], check=True)
        done = there.build()
        assert done.returncode == 0, done.stderr
        assert digests(here.project / "dist")[CELL] == digests(here.expected)[CELL]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_foreign_instruction_is_refused_before_any_download(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    template = (
        '{% extends "image.Dockerfile.j2" %}\n{% block after_wheels %}\nRUN apt-get install -y ffmpeg\n{% endblock %}\n'
    )
    (project / "templates/cpu-2.6.Dockerfile.j2").write_text(template)
    fresh = tmp_path / "store"
    done = buildctl("build", "cpu-2.6", "--no-load", cwd=project, env={"BUILDCTL_CACHE": str(fresh)})
    assert done.returncode == 5
    lines = (project / "images/cpu-2.6/Dockerfile").read_text().splitlines()
    line = lines.index("RUN apt-get install -y ffmpeg") + 1
    assert f"images/cpu-2.6/Dockerfile:{line}: RUN: assemble runs nothing from an image" in done.stderr
    assert "--engine docker" in done.stderr
    assert not fresh.exists(), "nothing was downloaded, nothing was made"


def test_a_gzip_build_has_the_same_trees_and_reads_as_gzip(here: Here) -> None:
    done = here.build("--compression", "gzip")
    assert done.returncode == 0, done.stderr
    assert check_layout(here.project / "dist") == []
    zstd, gzip = Layout(here.expected), Layout(here.project / "dist")
    one, other = (there.resolve(CELL) for there in (zstd, gzip))
    assert gzip.config(other).diff_ids == zstd.config(one).diff_ids
    assert {d.media_type.rpartition("+")[2] for d in gzip.manifest(other).layers} == {"gzip"}


def test_a_vanished_debian_package_renews_its_base_and_says_so_and_locked_refuses(here: Here) -> None:
    """The tiny project's new base has all that Debian calls essential, which its old one had not."""
    lock = here.project / "images/bases/debian13/runtime.arm64.packages"
    text = lock.read_text()
    (version,) = [b for a, b in _pairs(text) if a == "tzdata"]
    gone = text.replace(f"_{_in_file(version)}_", "_2000a-0+deb13u1_").replace(
        f"Version: {version}\n", "Version: 2000a-0+deb13u1\n"
    )
    gone = gone.replace(_sha_of(text, "tzdata"), "0" * 64)
    assert gone != text
    lock.write_text(gone)
    refused = here.build("--locked")
    assert refused.returncode == 4, refused.stderr
    assert "tzdata" in refused.stderr
    assert lock.read_text() == gone, "--locked changes nothing"
    done = here.build()
    assert done.returncode == 0, done.stderr
    assert "tzdata 2000a-0+deb13u1 -> " in done.stderr
    assert "2000a-0" not in lock.read_text()


def _pairs(lock: str) -> list[tuple[str, str]]:
    stanzas = [
        dict(line.split(": ", 1) for line in s.splitlines() if not line.startswith("#")) for s in lock.split("\n\n")
    ]
    return [(s["Package"], s["Version"]) for s in stanzas if "Package" in s]


def _in_file(version: str) -> str:
    return version.partition(":")[2] or version


def _sha_of(lock: str, name: str) -> str:
    stanza = next(s for s in lock.split("\n\n") if s.startswith(f"Package: {name}\n"))
    return stanza.rpartition("SHA256: ")[2].strip()


def test_a_base_can_be_an_image_by_digest_in_a_layout(built: Path, built_store: dict[str, str], tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    (project / "base").symlink_to(built)
    base = Layout(built).resolve("base-debian13")
    text = (project / "matrix.yaml").read_text()
    text = text.replace("flavours: [runtime, devel]", "flavours: [runtime]")
    text = text.replace(
        "bases:\n",
        f"bases:\n  ours:\n    image: example.invalid/base@{base.digest}\n    layout: base\n",
    )
    text = text.replace(
        "  cpu:\n    arch: [amd64, arm64]\n    base: debian13\n", "  cpu:\n    arch: [amd64, arm64]\n    base: ours\n"
    )
    (project / "matrix.yaml").write_text(text)
    done = buildctl("build", "cpu-2.6", "--no-load", cwd=project, env=built_store)
    assert done.returncode == 0, done.stderr
    ours, theirs = Layout(project / "dist"), Layout(built)
    layers = [d.digest for d in ours.manifest(ours.resolve("cpu-2.6-arm64")).layers]
    assert layers == [d.digest for d in theirs.manifest(theirs.resolve("cpu-2.6-arm64")).layers]
    assert check_layout(project / "dist") == []
