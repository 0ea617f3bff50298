"""The file that is locked is the one that uv itself would install there, in generated folders of wheels."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
import uv
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from buildctl.lock.refusal.outdated import newer_without_wheel
from buildctl.lock.uv import NoSolutionError, resolve
from tests.support.servers import wheel

MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
TAGS = (
    *("py3-none-any", "py2.py3-none-any", "py313-none-any", "cp313-none-any", "cp39-abi3-{m}", "cp313-abi3-{m}"),
    *("cp313-cp313-{m}", "py3-none-{m}", "cp312-cp312-{m}", "cp312-abi3-{m}"),
)
PLATFORMS = (
    *("manylinux2014_{m}", "manylinux_2_17_{m}", "manylinux_2_27_{m}", "manylinux_2_28_{m}", "manylinux_2_36_{m}"),
    *("manylinux_2_38_{m}", "linux_{m}", "manylinux_2_17_{m}.manylinux2014_{m}", "musllinux_1_2_{m}"),
)
GLIBCS = ((2, 17), (2, 28), (2, 36), (2, 41))


@st.composite
def packages(draw: st.DrawFn) -> tuple[str, tuple[int, int], dict[str, list[str]]]:
    """A platform, its glibc, and the wheels of some packages by name."""
    platform = draw(st.sampled_from(sorted(MACHINES)))
    found = {}
    for number in range(draw(st.integers(4, 12))):
        name = f"pkg{number}"
        versions = draw(st.lists(st.sampled_from(["1.0", "2.0", "2.1.dev1"]), min_size=1, max_size=2, unique=True))
        kinds = st.tuples(
            st.sampled_from(versions), st.sampled_from(["", "-1", "-2", "-10", "-2b"]), st.sampled_from(TAGS)
        )
        files = draw(st.lists(kinds, min_size=1, max_size=6, unique=True))
        where = [draw(st.sampled_from(PLATFORMS)) for _ in files]
        found[name] = [
            f"{name}-{version}{build}-{tag}.whl".replace("{m}", place).replace("{m}", MACHINES[platform])
            for (version, build, tag), place in zip(files, where, strict=True)
        ]
    return platform, draw(st.sampled_from(GLIBCS)), found


# a counterexample is not made smaller: each try starts uv a dozen times
@settings(max_examples=6, deadline=None, phases=[Phase.generate], derandomize=True)
@given(packages())
def test_the_locked_file_is_the_one_that_uv_installs(case: tuple[str, tuple[int, int], dict[str, list[str]]]) -> None:
    platform, glibc, found = case
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        links(root, patch, [filename for files in found.values() for filename in files])
        ours = {name: locked(name, platform, glibc) for name in found}
        there = [name for name, filename in ours.items() if filename is not None]
        assert ours == dict.fromkeys(found) | installed(root, there, platform, glibc)


def links(root: Path, patch: pytest.MonkeyPatch, files: list[str]) -> None:
    """A folder of wheels as uv's only source; each says in a file which it is."""
    (root / "links").mkdir()
    for filename in files:
        module = filename.partition("-")[0]
        (root / "links" / filename).write_bytes(wheel(filename, more={f"{module}/which": filename}))
    (root / "uv.toml").write_text(f'no-index = true\nfind-links = ["{root / "links"}"]\n')
    patch.setenv("UV_CONFIG_FILE", str(root / "uv.toml"))
    patch.setenv("UV_CACHE_DIR", str(root / "cache"))


def locked(name: str, platform: str, glibc: tuple[int, int]) -> str | None:
    try:
        (found,) = resolve([name], python="3.13", platform=platform, glibc=glibc)
    except NoSolutionError:
        return None
    return found.filename


def installed(root: Path, names: list[str], platform: str, glibc: tuple[int, int]) -> dict[str, str]:
    """By uv, which is told the platform in the same words; nothing if it refuses."""
    if not names:
        return {}
    target = Path(tempfile.mkdtemp(dir=root))
    minor = min(glibc[1], 40)
    argv = [uv.find_uv_bin(), "pip", "install", "-q", "--target", str(target), "--python-version", "3.13"]
    argv += ["--python-platform", f"{MACHINES[platform]}-manylinux_2_{minor}", "--only-binary", ":all:", *names]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in {0, 1}, done.stderr
    return {path.parent.name: path.read_text() for path in target.glob("*/which")}


def test_newer_versions_without_a_wheel_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links(tmp_path, monkeypatch, ["old-1.0-py3-none-any.whl", "new-2.0-cp312-cp312-linux_x86_64.whl"])
    (tmp_path / "links" / "old-3.0.tar.gz").write_bytes(b"")
    (tmp_path / "links" / "new-1.0-py3-none-any.whl").write_bytes(wheel("new-1.0-py3-none-any.whl"))
    for name, expected in (("old", True), ("new", True)):
        assert newer_without_wheel(name, "1.0", "3.13", "linux/amd64") is expected
    assert not newer_without_wheel("old", "3.0", "3.13", "linux/amd64")
    newer_without_wheel.cache_clear()
