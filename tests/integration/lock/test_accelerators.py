"""Accelerators of every kind and name, locked from fixture wheels on loopback: what is inside torch's wheel decides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from buildctl.dockerfile.files import render_images
from buildctl.ground.errors import LockError
from buildctl.lock.claims import Claims, read_claims
from buildctl.lock.inside.base_image import write_image_lock
from buildctl.lock.locked import load_locked
from buildctl.lock.update import lock_cells
from buildctl.matrix.cells import Flavour, ImageBase
from buildctl.matrix.project import Project
from buildctl.publish.tags import tags_of
from tests.conftest import ROOT
from tests.support.elf import library
from tests.support.projects import image_lock
from tests.support.servers import Site, site, torch_wheel, wheel

MATRIX = """\
python: "3.13"
versions: {{"2.10": 2.10.0}}
packages: []
flavours: [runtime]
bases: {{own: {{image: "a/b@sha256:{zeros}"}}}}
accelerators:
{accelerators}
"""
RUNTIME = {"12.6": "nvidia_cuda_runtime_cu12-12.6.77", "12.8": "nvidia_cuda_runtime_cu12-12.8.90"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """Nothing of this machine's pip, uv and store, and an index of nothing as the default."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name.lower() in {"http_proxy", "https_proxy", "all_proxy"}:
            monkeypatch.delenv(name)
    for name, folder in (("HOME", "home"), ("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "xdg"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("BUILDCTL_CACHE", str(tmp_path / "store"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with site() as server:
        runtimes = [f"{stem}-py3-none-manylinux2014_x86_64.whl" for stem in RUNTIME.values()]
        default = server.publish("default", {name: wheel(name) for name in runtimes})
        monkeypatch.setenv("UV_DEFAULT_INDEX", default)
        yield server


def torch_index(server: Site, name: str, *, local: str = "", needs: str = "", **inside: str) -> str:
    """An index that serves nothing but a torch; `needs` is a version of CUDA whose runtime it requires."""
    filename = f"torch-2.10.0{f'+{local}' if local else ''}-cp313-cp313-manylinux_2_28_x86_64.whl"
    requires = ["==".join(RUNTIME[needs].replace("_", "-").rsplit("-", 1))] if needs else []
    cuda, hip, xpu = (inside.get(key) for key in ("cuda", "hip", "xpu"))
    return server.publish(name, {filename: torch_wheel(filename, requires=requires, cuda=cuda, hip=hip, xpu=xpu)})


def project(root: Path, *accelerators: str) -> Project:
    """`accelerators` are NAME: REST, to which what every one needs is added."""
    lines = [re.sub(r"^(\S+): \{", r"  \1: {arch: [amd64], base: own, ", text) for text in accelerators]
    (root / "matrix.yaml").write_text(MATRIX.format(zeros="0" * 64, accelerators="\n".join(lines)))
    (root / "templates").symlink_to(ROOT / "templates")
    found = Project.find(root)
    (base,) = found.matrix.bases
    assert isinstance(base, ImageBase)
    # what `lock` would find in a base from a registry
    write_image_lock(found.image_lock(base, Flavour.RUNTIME, "amd64"), image_lock(found, "amd64", name="own"))
    return found


def written(found: Project) -> list[Path]:
    """What `lock` left, other than the base's lock, which was there."""
    return [p for p in found.images.rglob("*") if p.is_file() and p.suffix != ".image"]


def lock(found: Project, names: Sequence[str] = ()) -> dict[str, Claims]:
    """The claims by image name of what was locked."""
    cells = found.matrix.select(names)
    list(lock_cells(found, cells, upgrade=False))
    return {cell.name: read_claims(found.images / cell.name / "claims.amd64.json") for cell in cells}


def dockerfile(found: Project, name: str) -> str:
    list(render_images(found, load_locked(found, found.matrix.select([name]))))
    return found.dockerfile(name).read_text()


def test_two_cuda_versions_of_one_torch_live_side_by_side(server: Site, tmp_path: Path) -> None:
    first = torch_index(server, "cu126", local="cu126", needs="12.6", cuda="12.6")
    second = torch_index(server, "cu128", local="cu128", needs="12.8", cuda="12.8")
    found = project(tmp_path, f"cu126: {{index: {first}}}", f"cu128: {{index: {second}}}")
    claims = lock(found)
    assert {name: c.versions["cuda"] for name, c in claims.items()} == {"cu126-2.10": "12.6", "cu128-2.10": "12.8"}
    tags = tags_of(found.matrix.cells, {cell.id: claims[cell.name] for cell in found.matrix.cells})
    assert {tag.stem for tag in tags} >= {"cu126-2.10", "cu128-2.10", "2.10-cuda12.6", "2.10-cuda12.8"}


@pytest.mark.parametrize("name", ["cu126", "cuda12", "cuda12.6", "cuda-12.6", "cuda", "bleeding-edge"])
def test_every_cuda_build_gets_what_cuda_needs_whatever_it_is_called(server: Site, tmp_path: Path, name: str) -> None:
    index = torch_index(server, "a", local="cu126", needs="12.6", cuda="12.6")
    found = project(tmp_path, f"{name}: {{index: {index}}}")
    claims = lock(found)[f"{name}-2.10"]
    assert (claims.kind.name, claims.versions.get("cuda"), claims.driver_floor) == ("cuda", "12.6", "525")
    assert (claims.built, claims.never, claims.gpu_architectures) == (("cuda",), ("mps",), ("sm_80", "sm_90"))
    text = dockerfile(found, f"{name}-2.10")
    for line in (
        'ENV NVIDIA_VISIBLE_DEVICES="all"',
        'ENV NVIDIA_DRIVER_CAPABILITIES="compute,utility"',
        'ENV NVIDIA_REQUIRE_CUDA="cuda>=12.0"',
        'LABEL dev.buildctl.cuda="12.6"',
        'LABEL dev.buildctl.driver-floor="525"',
        f'LABEL org.opencontainers.image.description="{name}-2.10: PyTorch 2.10.0, CUDA 12.6, Python 3.13"',
    ):
        assert f"{line}\n" in text


@pytest.mark.parametrize(
    ("accelerator", "words"),
    [
        ("cu126: {", "the name cu126 in accelerators.cu126 (matrix.yaml line 7) claims CUDA 12.6"),
        ("cuda13: {", "the name cuda13 in accelerators.cuda13 (matrix.yaml line 7) claims CUDA 13"),
        ("cuda-12.6: {", 'accelerators["cuda-12.6"] (matrix.yaml line 7) claims CUDA 12.6'),
        ('cuda: {cuda: "12.6", ', "accelerators.cuda.cuda (matrix.yaml line 7) claims CUDA 12.6"),
        ('new: {cuda: "12.6", ', "accelerators.new.cuda (matrix.yaml line 7) claims CUDA 12.6"),
    ],
)
@pytest.mark.parametrize("how", ["local", "runtime", "inside"])
def test_another_cuda_than_claimed_is_refused_with_both_and_the_line(
    server: Site, tmp_path: Path, accelerator: str, words: str, how: str
) -> None:
    """Told by the local version, by the runtime that torch needs, or only by what is inside its wheel."""
    said = {"local": {"local": "cu128"}, "runtime": {"needs": "12.8"}, "inside": {}}[how]
    index = torch_index(server, "a", cuda="12.8", **said)
    found = project(tmp_path, f"{accelerator}index: {index}}}")
    with pytest.raises(LockError) as caught:
        lock(found)
    assert words in caught.value.message
    assert "built for CUDA 12.8" in caught.value.message
    assert ".index" in str(caught.value.hint)
    assert not written(found)


CUDA = {"local": "cu126", "needs": "12.6", "cuda": "12.6"}
ROCM = {"local": "rocm6.2.4", "hip": "6.2.41134-65d174c3e"}
XPU = {"local": "xpu", "xpu": "20250101"}
CPU = {"local": "cpu"}


@pytest.mark.parametrize(
    ("accelerator", "torch", "words"),
    [
        ("cpu", CUDA, "claims CPU, the index serves torch 2.10.0+cu126, which is built for CUDA 12.6"),
        ("cpu-small", CUDA, "not a CPU build"),
        ("rocm62", CUDA, "claims ROCm, the index serves torch 2.10.0+cu126"),
        ("xpu", CUDA, "not an XPU build"),
        ("cuda", CPU, "claims CUDA, the index serves torch 2.10.0+cpu, which is a CPU build"),
        ("cu126", CPU, "not a CUDA build"),
        ("cuda", {}, "not a CUDA build"),  # no local version: only the wheel says it
        ("rocm", CPU, "not a ROCm build"),
        ("cuda", ROCM, "which is built for ROCm 6.2"),
        ("cu126", {"hip": "6.2.41134-65d174c3e"}, "torch/version.py has 6.2.41134-65d174c3e"),
        ("rocm", XPU, "not a ROCm build"),
        ("cpu", {"hip": "6.2.4"}, "not a CPU build"),
        ("cpu", {"xpu": "20250101"}, "not a CPU build"),
        ("rocm6.4", ROCM, "claims ROCm 6.4, the index serves torch 2.10.0+rocm6.2.4"),
        ("rocm63", {"hip": "6.2.4"}, "claims ROCm 6.3"),
    ],
)
def test_a_build_of_another_kind_is_refused_under_every_name(
    server: Site, tmp_path: Path, accelerator: str, torch: dict[str, str], words: str
) -> None:
    found = project(tmp_path, f"{accelerator}: {{index: {torch_index(server, 'a', **torch)}}}")
    with pytest.raises(LockError) as caught:
        lock(found)
    assert words in caught.value.message
    assert not written(found)


@pytest.mark.parametrize("name", ["rocm", "rocm62", "rocm6.2", "amd"])
def test_a_rocm_build(server: Site, tmp_path: Path, name: str) -> None:
    found = project(tmp_path, f"{name}: {{index: {torch_index(server, 'a', **ROCM)}}}")
    claims = lock(found)[f"{name}-2.10"]
    assert (claims.kind.name, claims.versions, claims.driver_floor) == ("rocm", {"rocm": "6.2"}, None)
    assert (claims.built, claims.gpu_architectures) == (("rocm",), ())
    text = dockerfile(found, f"{name}-2.10")
    assert 'LABEL dev.buildctl.rocm="6.2"\n' in text
    assert f"{name}-2.10: PyTorch 2.10.0, ROCm 6.2, Python 3.13" in text
    assert "NVIDIA" not in text
    assert "2.10-rocm6.2" in {tag.stem for tag in tags_of(found.matrix.cells, {f"{name}-2.10-amd64": claims})}


@pytest.mark.parametrize("name", ["xpu", "arc"])
def test_an_xpu_build(server: Site, tmp_path: Path, name: str) -> None:
    found = project(tmp_path, f"{name}: {{index: {torch_index(server, 'a', **XPU)}}}")
    claims = lock(found)[f"{name}-2.10"]
    assert (claims.kind.name, claims.versions, claims.built) == ("xpu", {"xpu": "2025.1"}, ("xpu",))
    text = dockerfile(found, f"{name}-2.10")
    assert 'LABEL dev.buildctl.xpu="2025.1"\n' in text
    assert f"{name}-2.10: PyTorch 2.10.0, XPU 2025.1 (Intel GPUs), Python 3.13" in text
    assert "2.10-xpu" in {tag.stem for tag in tags_of(found.matrix.cells, {f"{name}-2.10-amd64": claims})}


def test_a_cpu_torch_next_to_a_cuda_runtime_is_told_as_that(server: Site, tmp_path: Path) -> None:
    index = torch_index(server, "a", local="cpu", needs="12.6")
    found = project(tmp_path, f"plain: {{kind: cpu, index: {index}}}")
    with pytest.raises(LockError, match=r"is a CPU build, but other packages bring nvidia-cuda-runtime-cu12"):
        lock(found)


def test_wheels_that_contradict_themselves_are_refused(server: Site, tmp_path: Path) -> None:
    found = project(tmp_path, f"cuda: {{index: {torch_index(server, 'a', local='cu126', cuda='12.8')}}}")
    with pytest.raises(LockError, match=r"wheel is built for CUDA 12\.8 .*, the lock says built for CUDA 12\.6"):
        lock(found)


def test_an_index_that_does_not_answer_is_named_with_its_key_and_line(server: Site, tmp_path: Path) -> None:
    gone = "http://127.0.0.1:1/simple/"
    found = project(tmp_path, f"cu126: {{index: {gone}}}")
    with pytest.raises(LockError) as caught:
        lock(found)
    assert f"the index {gone} from accelerators.cu126.index (matrix.yaml line 7) failed" in caught.value.message
    assert "accelerators.cu126.index" in str(caught.value.hint)


def test_an_index_without_torch_is_among_what_was_asked(server: Site, tmp_path: Path) -> None:
    found = project(tmp_path, f"cu126: {{index: {server.publish('empty', {})}}}")
    with pytest.raises(
        LockError, match=r"torch 2\.10\.0 .* is not on accelerators\.cu126\.index \(matrix\.yaml line 7\)"
    ):
        lock(found)


def test_a_torch_that_is_a_pre_release_is_not_blamed(
    server: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = "torch-2.10.0rc1-cp313-cp313-manylinux_2_28_x86_64.whl"
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish("rc", {torch: torch_wheel(torch)}))
    made = project(tmp_path, "plain: {kind: cpu}")
    matrix = tmp_path / "matrix.yaml"
    text = matrix.read_text().replace("2.10.0", "2.10.0rc1").replace("packages: []", "packages: [missing]")
    matrix.write_text(text)
    with pytest.raises(LockError, match=r"missing \(packages\) is not on the package index"):
        lock(Project.find(made.root))


@pytest.mark.parametrize("own", [False, True], ids=["from the index", "own wheel"])
def test_an_extension_built_for_another_torch_is_not_locked(
    server: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    torch, ext = (f"{stem}-cp313-cp313-manylinux_2_28_x86_64.whl" for stem in ("torch-2.10.0", "ext-1.0"))
    c10 = library(exports=["_ZN3c103oldEv"], soname="libc10.so", needed=["libc.so.6"])
    served = {torch: torch_wheel(torch, files={"torch/lib/libc10.so": c10})}

    def planted(symbol: str) -> Project:
        module = library(exports=["PyInit__C"], wants=[symbol], needed=["libc10.so"])
        files = {"ext/_C.cpython-313-x86_64-linux-gnu.so": module}
        added = {ext: wheel(ext, files=files)}
        monkeypatch.setenv("UV_DEFAULT_INDEX", server.publish(symbol, served | ({} if own else added)))
        (tmp_path / symbol).mkdir()
        made = project(tmp_path / symbol, "plain: {kind: cpu}")
        matrix = tmp_path / symbol / "matrix.yaml"
        if own:
            (made.images / "wheels").mkdir(parents=True)
            (made.images / "wheels" / ext).write_bytes(added[ext])
            matrix.write_text(matrix.read_text() + 'images: {"*": {wheels: [wheels]}}\n')
        else:
            matrix.write_text(matrix.read_text().replace("packages: []", "packages: [ext]"))
        return Project.find(made.root)

    with pytest.raises(LockError) as caught:
        lock(planted("_ZN3c106newestEv"))
    assert f"{ext}: ext/_C.cpython-313-x86_64-linux-gnu.so would not load" in caught.value.message
    assert "undefined symbol: _ZN3c106newestEv. torch 2.10.0 does not have it" in caught.value.message
    assert not list((tmp_path / "_ZN3c106newestEv" / "images").rglob("requirements*"))
    assert lock(planted("_ZN3c103oldEv"))["plain-2.10"].torch == "2.10.0"
