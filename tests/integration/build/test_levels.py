"""One image at several levels of compression: other layers with the same content, which everything here reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, MediaType
from buildctl.oci.layout import Layout
from tests.conftest import buildctl, fresh_store
from tests.support.tiny import CELL, NAME, tiny

LEVELS = {
    "1": ("--compression-level", "1"),
    "9": ("--compression-level", "9"),
    "none": ("--compression-level", "none"),
    "gzip": ("--compression", "gzip", "--compression-level", "1"),
}


class Built:
    """The layouts, by the names in LEVELS."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root, self.env = root, {"BUILDCTL_CACHE": str(store)}
        for name, options in LEVELS.items():
            self.do(name, "build", NAME, "--no-load", *options)

    def do(self, name: str, *argv: str) -> str:
        done = buildctl("--layout", str(self.root / name), *argv, cwd=self.root, env=self.env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def layers(self, name: str) -> tuple[Descriptor, ...]:
        layout = Layout(self.root / name)
        return layout.manifest(layout.resolve(CELL)).layers

    def diff_ids(self, name: str) -> tuple[Digest, ...]:
        layout = Layout(self.root / name)
        return layout.config(layout.resolve(CELL)).diff_ids


@pytest.fixture(scope="module")
def built(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    store = stores / "levels"
    fresh_store(store)
    yield Built(tiny(tmp_path_factory.mktemp("levels") / "project", store), store)
    shutil.rmtree(store)


def test_only_the_compression_differs(built: Built) -> None:
    assert {built.diff_ids(name) for name in LEVELS} == {built.diff_ids("9")}
    sizes = {name: sum(layer.size for layer in built.layers(name)) for name in LEVELS}
    assert sizes["none"] > sizes["gzip"] > sizes["9"]
    assert sizes["1"] > sizes["9"]
    kinds = {name: {layer.media_type for layer in built.layers(name)} for name in ("9", "none", "gzip")}
    assert kinds == {"9": {MediaType.LAYER_ZSTD}, "none": {MediaType.LAYER_TAR}, "gzip": {MediaType.LAYER_GZIP}}
    assert [str(layer.digest) for layer in built.layers("none")] == list(map(str, built.diff_ids("none")))


@pytest.mark.parametrize("name", ["none", "gzip"])
def test_fsck_and_inspect_read_it(built: Built, name: str) -> None:
    built.do(name, "fsck")
    (image,) = json.loads(built.do(name, "inspect", NAME, "--json"))["images"]
    assert image["compressions"] == [{"none": "uncompressed"}.get(name, name)]


def test_matrix_yaml_may_say_the_level(built: Built) -> None:
    matrix = built.root / "matrix.yaml"
    text = matrix.read_text()
    try:
        for level, made in (("9", 0), ("10", 3)):
            matrix.write_text(f'{text}compression-level: "{level}"\n')
            assert len(json.loads(built.do("plan", "plan", NAME, "--json"))["make"]) == made
    finally:
        matrix.write_text(text)


def test_rebase_keeps_what_matrix_yaml_says(built: Built) -> None:
    matrix = built.root / "matrix.yaml"
    text = matrix.read_text()
    try:
        matrix.write_text(f"{text}compression-level: none\n")
        assert "0 of 1 images moved" in built.do("none", "rebase", NAME, "--locked")
    finally:
        matrix.write_text(text)


def test_an_uncompressed_image_is_exported(built: Built, tmp_path: Path) -> None:
    built.do("none", "export", NAME, "--format", "docker-archive", "--output", str(tmp_path / "image.tar"))
    assert (tmp_path / "image.tar").stat().st_size > sum(layer.size for layer in built.layers("none"))


def test_an_uncompressed_image_runs_in_the_sandbox(built: Built) -> None:
    argv = ("run", NAME, "/usr/bin/python3.13", "-c", "print(6 * 7)")
    done = buildctl("--layout", str(built.root / "none"), *argv, cwd=built.root, env=built.env)
    if done.returncode == RuntimeUnavailableError.exit_code:
        pytest.skip(f"NOT RUN: {done.stderr}")
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
