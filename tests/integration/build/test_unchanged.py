"""A build with nothing to do remembers its answer, and whatever may change the answer makes it look again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildctl.artifacts.sealed import sealed, unsealed
from buildctl.build import unchanged
from buildctl.build.index import write_indexes
from buildctl.build.unchanged import Memory, remembered
from buildctl.console.log import say
from buildctl.matrix.project import Project
from buildctl.oci.image import REF_NAME
from buildctl.oci.layout import Layout
from tests.conftest import ROOT, Ran, fresh_store
from tests.support.command import run_command
from tests.support.tiny import CELL, NAME, tiny

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def root(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project that was built, and whose store the environment names."""
    root, folder = tmp_path_factory.mktemp("unchanged") / "project", stores / f"unchanged-{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch:
        for key, value in fresh_store(folder).items():
            patch.setenv(key, value)
        tiny(root, folder)
        (root / "templates").unlink()
        shutil.copytree(ROOT / "templates", root / "templates")
        (root / "images" / "link").symlink_to("common")
        assert built(root).returncode == 0
        yield root
    shutil.rmtree(folder)


def built(root: Path, *more: str) -> Ran:
    return run_command("build", NAME, "--no-load", *more, cwd=root)


def memory(
    root: Path,
    *,
    names: tuple[str, ...] = (NAME,),
    method: str | None = None,
    locked: bool = False,
    output: Path | None = None,
) -> Memory:
    asked = {"names": names, "arch": None, "compression": (method, None), "locked": locked}
    found = remembered(Project.find(root, layout=output), load=False, **asked)
    assert found is not None
    return found


def kept(root: Path) -> Path:
    return unchanged._place(Layout(root / "dist"))


def knows(root: Path) -> bool:
    return memory(root).recall() is not None


def test_both_answers_end_with_the_name_to_type(root: Path) -> None:
    for more in (("--compression-level", "4"), ()):  # made again, nothing to do
        said = built(root, *more)
        assert f"  buildctl run {NAME}\n" in said.stdout + said.stderr


def test_the_answer_is_the_same_and_nothing_else_is_imported(root: Path) -> None:
    looked = json.loads(built(root, "--json").stdout)
    code = (
        "import sys; from buildctl.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "print({'yaml', 'jinja2', 'requests', 'buildctl.build.plan'} & set(sys.modules), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", code, "build", NAME, "--no-load", "--json"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True)
    assert {**json.loads(done.stdout), "seconds": 0} == {**looked, "seconds": 0}
    assert done.stderr.splitlines()[-1] == "set()"
    assert "1 image in dist, nothing changed, " in built(root).stdout


def appended(path: Path, text: str = "\n") -> Callable[[], None]:
    before = path.read_bytes()
    path.write_bytes(before + text.encode())
    return lambda: void(path.write_bytes(before))


def void(_: object) -> None:
    """For undoing in one expression."""


def mode(path: Path) -> Callable[[], None]:
    before = path.stat().st_mode
    path.chmod(before ^ 0o100)
    return lambda: path.chmod(before)


def added(path: Path) -> Callable[[], None]:
    path.write_text("new")
    return path.unlink


def relinked(path: Path) -> Callable[[], None]:
    before = path.readlink()
    path.unlink()
    path.symlink_to("./common")

    def undo() -> None:
        path.unlink()
        path.symlink_to(before)

    return undo


CHANGES: dict[str, Callable[[Path], Callable[[], None]]] = {
    "matrix.yaml": lambda root: appended(root / "matrix.yaml", "# said\n"),
    "template": lambda root: appended(next((root / "templates").rglob("*.j2"))),
    "lock": lambda root: appended(root / f"images/{NAME}/requirements.arm64.txt"),
    "claims": lambda root: appended(root / f"images/{NAME}/claims.arm64.json"),
    "Dockerfile": lambda root: appended(root / f"images/{NAME}/Dockerfile", "# edited\n"),
    "Debian lock": lambda root: appended(root / "images/bases/debian13/runtime.arm64.packages"),
    "script": lambda root: appended(next((root / "images/common").iterdir())),
    "mode of a script": lambda root: mode(next((root / "images/common").iterdir())),
    "new file": lambda root: added(root / f"images/{NAME}/new"),
    ".dockerignore": lambda root: added(root / "images/.dockerignore"),
    "target of a link": lambda root: relinked(root / "images/link"),
    "index.json": lambda root: appended(root / "dist/index.json", " "),
    "oci-layout": lambda root: appended(root / "dist/oci-layout", " "),
    "origin": lambda root: appended(root / f"dist/origins/{CELL}.json"),
    "memory": lambda root: appended(kept(root), "}"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_anything_is_looked_at(root: Path, what: str) -> None:
    assert knows(root)
    undo = CHANGES[what](root)
    assert not knows(root), what
    undo()
    assert knows(root)


def test_every_file_of_the_project_is_looked_at(root: Path) -> None:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_relative_to(root / "dist")]
    assert {root / "matrix.yaml", root / "docker-bake.json", root / f"images/{NAME}/Dockerfile"} <= set(files)
    for path in files:
        undo = appended(path)
        assert not knows(root), path
        undo()
    assert knows(root)


def test_a_big_file_is_looked_at_by_its_state_and_a_pipe_is_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big, pipe = root / "images/big", root / "images/pipe"
    monkeypatch.setattr(unchanged, "_SETTLED", 0.0)
    big.write_bytes(bytes(2 << 20))
    os.mkfifo(pipe)
    state, first = big.stat(), memory(root).digest
    assert memory(root).digest == first
    big.write_bytes(b"1" + bytes((2 << 20) - 1))
    os.utime(big, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert memory(root).digest != first
    big.unlink()
    pipe.unlink()
    assert knows(root)


def test_another_question_or_environment_or_program_is_looked_at(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert knows(root)
    for other in (memory(root, names=()), memory(root, method="gzip"), memory(root, locked=True)):
        assert other.recall() is None
    with monkeypatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1")
        assert not knows(root)
    with monkeypatch.context() as patch:
        patch.setattr(unchanged, "PACKAGE", tmp_path)
        assert not knows(root)
        (tmp_path / "a.py").write_text("VERSION = 3")
        first = memory(root).digest
        os.utime(tmp_path / "a.py", (0, 0))
        assert memory(root).digest == first
        (tmp_path / "a.py").write_text("VERSION = 4")
        os.utime(tmp_path / "a.py", (0, 0))
        assert memory(root).digest != first
    assert remembered(Project.find(root), load=True, names=(NAME,)) is None
    assert knows(root)


def flipped(*paths: Path) -> None:
    """A file of its own, of the same size and time: only its content says that it is another."""
    for path in paths:
        state, data = path.stat(), bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x10
        path.unlink()
        path.write_bytes(data)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_what_is_damaged_is_built_again(root: Path) -> None:
    layout, store = Layout(root / "dist"), Path(os.environ["BUILDCTL_CACHE"])
    image = layout.resolve(CELL)
    manifest = layout.manifest(image)
    base = layout.resolve("base-debian13-arm64")
    layer = manifest.layers[-1].digest
    damaged: dict[str, Callable[[], None]] = {
        "manifest": lambda: flipped(layout.blob_path(image.digest)),
        "configuration": lambda: flipped(layout.blob_path(manifest.config.digest)),
        "index": lambda: flipped(layout.blob_path(layout.resolve(NAME).digest)),
        "base": lambda: flipped(layout.blob_path(base.digest)),
        "layer of the layout": lambda: layout.blob_path(layer).unlink(),
        "layer of the store": lambda: flipped(store / "blobs" / "sha256" / layer.hex),
        "remembered answer": lambda: flipped(*(store / "remembered").iterdir()),
        "what layers are there": lambda: flipped(*(store / "layers").iterdir()),
    }
    for what, damage in damaged.items():
        assert knows(root), what
        damage()
        assert not knows(root), what
        done = built(root)
        assert done.returncode == 0, done.stderr
        assert layout.resolve(CELL).digest == image.digest
        assert built(root).returncode == 0  # one that had nothing to say
        assert knows(root), what


def test_a_layout_whose_name_is_not_utf8_is_remembered_too(root: Path) -> None:
    output = os.fsdecode(b"caf\xe9")
    for _ in range(2):
        done = built(root, "--output", output)
        assert done.returncode == 0, done.stderr
    assert memory(root, output=root / output).recall() is not None


def test_a_layout_from_elsewhere_cannot_vouch_for_itself(root: Path) -> None:
    layout = Layout(root / "dist")
    image, answer, index = layout.resolve(CELL), kept(root), json.loads(layout.index_path.read_bytes())
    named = {one["annotations"][REF_NAME]: one for one in index["manifests"]}
    named[CELL] |= {key: named["base-debian13-arm64"][key] for key in ("digest", "size")}
    layout.index_path.write_text(json.dumps(index))
    digest = memory(root).digest
    found = unsealed(digest, answer.read_bytes())
    assert found is not None
    forged = sealed(digest, {**found, "small": unchanged._small(layout)})
    for path in sorted((root / "dist/builds").iterdir()):  # all that whoever can write to the layout can write
        path.write_bytes(forged)
    (root / "dist/builds/unchanged.json").write_bytes(forged)
    assert not knows(root)
    assert built(root).returncode == 0
    assert layout.resolve(CELL).digest == image.digest
    assert built(root).returncode == 0
    assert knows(root)


def test_what_people_were_told_they_are_told_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*given: Any) -> None:
        say("a warning")
        write_indexes(*given)

    kept(root).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("buildctl.build.images.write_indexes", warn)
        assert "a warning" in built(root).stderr
        assert not knows(root)
    assert "a warning" not in built(root).stderr
    assert knows(root)
