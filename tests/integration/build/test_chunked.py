"""A whole image with zstd:chunked layers: what other clients see of it, and what is shared with the plain image."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildctl.build.engine import BuildResult
from buildctl.build.images import BuildOptions, build_images
from buildctl.ground.errors import EngineError
from buildctl.lock.locked import load_locked
from buildctl.matrix.project import Project
from buildctl.oci.check import check_layout
from buildctl.oci.compression import compression_of
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from tests.conftest import buildctl, fresh_store
from tests.support.lazy import of_file, podman_layer, sha256
from tests.support.publishing import skopeo
from tests.support.tiny import CELL, NAME, WHEELS, tiny

TORCH = "usr/local/lib/python3.13/dist-packages/torch/"


@dataclass(frozen=True, kw_only=True)
class Both:
    """The same image in two layouts of one project."""

    root: Path
    store: Path
    plain: Layout
    chunked: Layout

    def build(self, compression: str, *, engine: str = "assemble") -> BuildResult:
        layout = self.plain if compression == "zstd" else self.chunked
        project = Project.find(self.root, layout=layout.root)
        options = BuildOptions(engine=engine, compression=compression_of(compression), load=False)
        return build_images(project, load_locked(project, project.matrix.cells), options)

    def layers(self, layout: Layout) -> tuple[Descriptor, ...]:
        return layout.manifest(layout.resolve(CELL)).layers


@pytest.fixture(scope="module")
def both(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder, store = tmp_path_factory.mktemp("chunked"), stores / "chunked"
    fresh_store(store)
    root = tiny(folder / "project", store)
    both = Both(root=root, store=store, plain=Layout(folder / "plain"), chunked=Layout(folder / "chunked"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILDCTL_CACHE", str(store))
        both.build("zstd")
        both.build("zstd:chunked")
        yield both
    shutil.rmtree(store)


def test_every_layer_is_another_one_with_the_same_content(both: Both) -> None:
    """containerd pulls all layers above one that its snapshotter cannot start lazily (core/unpack, `fetch`)."""
    assert (
        both.plain.manifest(both.plain.resolve(CELL)).config == both.chunked.manifest(both.chunked.resolve(CELL)).config
    )
    pairs = list(zip(both.layers(both.plain), both.layers(both.chunked), strict=True))
    assert [plain.digest == chunked.digest for plain, chunked in pairs] == [False] * 3
    assert all(chunked.annotations for _, chunked in pairs)
    assert {chunked.media_type for _, chunked in pairs} == {plain.media_type for plain, _ in pairs}
    plain, chunked = max(pairs, key=lambda pair: pair[0].size)
    assert max(WHEELS.values()) < plain.size < chunked.size < 1.4 * plain.size
    assert check_layout(both.chunked.root) == []
    assert [image.made for image in both.build("zstd:chunked").images] == [0]


def test_a_lazy_client_reads_what_the_plain_client_unpacks(both: Both) -> None:
    layers = [
        podman_layer(of_file(both.chunked.blob_path(layer.digest)), layer.annotations)
        for layer in both.layers(both.chunked)
    ]
    (torch,) = [lazy for lazy in layers if f"{TORCH}m7.py" in lazy.files]
    before = torch.blob.bytes
    assert torch.content(f"{TORCH}m7.py") == b"def f7(x):\n    return x + 7\n"
    assert torch.blob.bytes - before < 100
    diff_ids = both.chunked.config(both.chunked.resolve(CELL)).diff_ids
    assert [sha256(b"".join(lazy.tar())) for lazy in layers] == list(map(str, diff_ids))


def test_the_zstd_program_decompresses_it(both: Both) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("NOT RUN: zstd is not installed (apt-get install zstd)")
    paths = [both.chunked.blob_path(layer.digest) for layer in both.layers(both.chunked)]
    tars = [subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout for path in paths]
    assert list(map(sha256, tars)) == list(map(str, both.chunked.config(both.chunked.resolve(CELL)).diff_ids))


def test_skopeo_decompresses_it(both: Both, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("NOT RUN: skopeo is not installed (apt-get install skopeo)")
    skopeo("copy", "--dest-decompress", f"oci:{both.chunked.root}:{CELL}", f"dir:{tmp_path}/dir")
    found = {sha256(path.read_bytes()) for path in (tmp_path / "dir").iterdir()}
    assert {str(d) for d in both.chunked.config(both.chunked.resolve(CELL)).diff_ids} <= found


def test_buildkit_does_not_make_it_and_says_who_does(both: Both) -> None:
    with pytest.raises(EngineError, match="BuildKit does not make zstd:chunked layers") as caught:
        both.build("zstd:chunked", engine="docker")
    assert caught.value.hint == "--engine assemble does; --compression zstd gives the same diff ids"


def test_matrix_yaml_may_choose(both: Both) -> None:
    matrix = both.root / "matrix.yaml"
    text = matrix.read_text()
    try:
        matrix.write_text(f"{text}compression: gzip\n")
        done = buildctl("plan", NAME, "--json", cwd=both.root, env={"BUILDCTL_CACHE": str(both.store)})
        assert json.loads(done.stdout)["reuse"]["layers"] == 0, done.stderr
    finally:
        matrix.write_text(text)
    done = buildctl("plan", NAME, "--json", cwd=both.root, env={"BUILDCTL_CACHE": str(both.store)})
    assert json.loads(done.stdout)["reuse"]["layers"] == 3
