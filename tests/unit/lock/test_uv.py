"""What uv is given and how its answers are read. uv itself: tests/integration/lock/test_lock_index.py."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from buildctl.ground.errors import LockError, ResolverError, SettingsError
from buildctl.ground.run import Completed
from buildctl.lock.index import local_sources
from buildctl.lock.uv import (
    FAMILY,
    Found,
    IndexFailedError,
    NoSolutionError,
    _failure,
    _pylock,
    _pyproject,
    _refuse_local,
    _uv_platform,
    _wheels,
    best,
    index_of,
)
from buildctl.matrix.read import parse_matrix
from buildctl.oci.digest import Digest

SHA = "a" * 64
MATRIX = """\
python: "3.13"
versions: {"2.6": 2.6.0}
packages: [numpy]
flavours: [runtime]
bases: {debian13: {debian: trixie, packages: [python3]}}
accelerators:
  cpu: {arch: [amd64], base: debian13, devices: {never: [cuda]}, index: "https://me:pw@torch.example/cpu"}
"""


def said(stderr: str, *, timed_out: bool = False) -> LockError:
    return _failure(Completed(argv=("uv",), returncode=2, stdout="", stderr=stderr, timed_out=timed_out))


@pytest.mark.parametrize(
    ("stderr", "kind", "hint"),
    [
        ("  x No solution found when resolving", NoSolutionError, None),
        ("torch was not found in the package registry", NoSolutionError, None),
        ("error: Failed to fetch: `https://a.example/torch/`", IndexFailedError, "is the package index reachable?"),
        ("dns error: no such host", IndexFailedError, "is the package index reachable?"),
        ("status 401 Unauthorized for https://a.example/torch/", IndexFailedError, "needs credentials"),
        ("panicked", ResolverError, None),
    ],
)
def test_what_uv_says_is_one_of_three_failures(stderr: str, kind: type[LockError], hint: str | None) -> None:
    error = said(stderr)
    assert type(error) is kind
    assert stderr.strip() in error.message
    assert (hint or "") in (error.hint or "")


def test_the_url_that_failed_is_known_and_its_password_is_not_shown() -> None:
    error = said("error: Failed to fetch: `https://me:secret@a.example/torch/`")
    assert isinstance(error, IndexFailedError)
    assert error.url == "https://a.example/torch/"
    assert "secret" not in error.message


def test_a_deadline_is_the_fault_of_the_index() -> None:
    assert isinstance(said("", timed_out=True), IndexFailedError)


def test_an_index_that_fails_is_named_by_the_line_that_chose_it() -> None:
    accelerator = parse_matrix(MATRIX, Path("matrix.yaml")).cells[0].accelerator
    with pytest.raises(IndexFailedError) as caught, index_of(accelerator):
        raise IndexFailedError("no answer", hint="wait", url="https://torch.example/cpu/torch/")
    assert "the index https://torch.example/cpu from" in caught.value.message
    assert "pw" not in caught.value.message
    assert str(caught.value.hint).startswith("correct ")
    with pytest.raises(IndexFailedError, match=r"^no answer$"), index_of(accelerator):
        raise IndexFailedError("no answer", url="https://other.example/numpy/")


def test_the_index_of_an_accelerator_serves_torch_and_its_companions_alone() -> None:
    value = tomllib.loads(_pyproject(["torch==2.6.0", 'x; python_version<"4"'], "3.13", "https://a.example/cpu"))
    assert value["project"]["dependencies"] == ["torch==2.6.0", 'x; python_version<"4"']
    assert value["project"]["requires-python"] == ">=3.13"
    (index,) = value["tool"]["uv"]["index"]
    assert (index["url"], index["explicit"]) == ("https://a.example/cpu", True)
    assert value["tool"]["uv"]["sources"] == {name: {"index": index["name"]} for name in FAMILY}
    assert tomllib.loads(_pyproject([], "3.13", None))["tool"] == {"uv": {}}


def test_what_is_to_be_kept_is_a_lock_that_uv_reads() -> None:
    kept = tomllib.loads(_pylock([("torch", "2.6.0"), ("numpy", "2.5.5")], "3.13"))["packages"]
    assert kept == [{"name": "torch", "version": "2.6.0"}, {"name": "numpy", "version": "2.5.5"}]
    assert tomllib.loads(_pylock([], "3.13"))["packages"] == []


def test_a_wheel_has_its_name_and_place_from_url_or_path(tmp_path: Path) -> None:
    package = {
        "name": "Typing_Extensions",
        "version": "4.16.0",
        "wheels": [
            {"url": "https://a.example/x/typing_extensions-4.16.0%2Bcpu-py3-none-any.whl", "hashes": {"sha256": SHA}},
            {"path": "wheels/t-1-py3-none-any.whl", "size": 7, "hashes": {"md5": "x"}},
        ],
    }
    one, other = _wheels(package, tmp_path)
    assert (one.name, one.filename) == ("typing-extensions", "typing_extensions-4.16.0+cpu-py3-none-any.whl")
    assert (one.size, one.digest) == (None, Digest(SHA))
    assert (other.size, other.digest) == (7, None)
    assert other.url == (tmp_path / "wheels" / "t-1-py3-none-any.whl").as_uri()
    with pytest.raises(LockError, match=r"x==1: the index has no wheel for it"):
        _wheels({"name": "x", "version": "1"}, tmp_path)


@pytest.mark.parametrize(
    ("filename", "words"),
    [
        ("torch.zip", "the index lists a file that is not a wheel"),
        ("torchvision-2.6.0-py3-none-any.whl", "of another package or version"),
        ("torch-2.7.0-py3-none-any.whl", "of another package or version"),
        ("torch-2.6.0-cp312-cp312-linux_x86_64.whl", r"no wheel for Python 3\.13 on linux/amd64"),
    ],
)
def test_what_the_index_gives_is_what_was_asked_for(filename: str, words: str) -> None:
    found = Found(name="torch", version="2.6.0", filename=filename, url="u", size=None, digest=None)
    with pytest.raises(LockError, match=rf"torch==2\.6\.0: .*{words}"):
        best([found], python="3.13", platform="linux/amd64")


def chosen(*filenames: str, glibc: tuple[int, int] | None = None) -> str:
    found = [Found(name="a", version="1", filename=name, url="u", size=None, digest=None) for name in filenames]
    return best(found, python="3.13", platform="linux/amd64", glibc=glibc).filename


def test_of_equal_wheels_the_highest_build_is_chosen_as_a_number() -> None:
    wheels = [f"a-1{build}-cp313-cp313-linux_x86_64.whl" for build in ("", "-2", "-10", "-9")]
    assert chosen(*wheels) == wheels[2]
    assert chosen("a-1-99-py3-none-any.whl", *wheels[:1]) == wheels[0]  # the tag counts before


@pytest.mark.parametrize(
    ("glibc", "minor"), [((2, 17), 17), ((2, 36), 36), ((2, 41), 40), ((2, 30), 28), ((2, 12), 17), (None, 40)]
)
def test_wheels_are_for_the_glibc_below_them(glibc: tuple[int, int] | None, minor: int) -> None:
    wheels = [f"a-1-py3-none-manylinux_2_{n}_x86_64.whl" for n in (17, 28, 36, 40, 41)]
    assert chosen(*wheels, glibc=glibc) == f"a-1-py3-none-manylinux_2_{minor}_x86_64.whl"
    assert _uv_platform("linux/amd64", glibc) == f"x86_64-manylinux_2_{minor}"


def test_only_a_folder_that_the_user_named_leads_to_files_of_this_machine(tmp_path: Path) -> None:
    wheel = {"url": (tmp_path / "w/torch-2.6.0-py3-none-any.whl").as_uri(), "hashes": {"sha256": SHA}}
    found = [_wheels({"name": "torch", "version": "2.6.0", "wheels": [wheel]}, tmp_path)]
    clean = {"UV_NO_CONFIG": "1", "PIP_CONFIG_FILE": os.devnull}
    with pytest.raises(SettingsError, match=r"torch==2\.6\.0: the index names a file on this machine: file://"):
        _refuse_local(found, local_sources({**clean, "UV_DEFAULT_INDEX": "https://index.example/simple"}, None))
    other = local_sources({**clean, "UV_FIND_LINKS": f"{tmp_path}/other https://x.example/y"}, None)
    assert other == [tmp_path / "other"]
    with pytest.raises(SettingsError):
        _refuse_local(found, other)
    _refuse_local(found, local_sources({**clean, "UV_FIND_LINKS": str(tmp_path / "w")}, None))
    _refuse_local(found, local_sources(clean, tmp_path.as_uri()))
