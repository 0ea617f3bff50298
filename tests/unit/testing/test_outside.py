"""What the layers hold: whiteouts, links, several torches; and what is said of a `python` that is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.oci.layout import Layout
from buildctl.testing.outside import Outside, look
from buildctl.testing.probes import judging_outside
from buildctl.testing.probes.expected import Expected
from buildctl.testing.report import Status
from tests.support.images import AMD64_ELF, ARM64_ELF, Member, file, hard_link, symlink, tar
from tests.support.pythons import put_image, python_config

SITE = "opt/venv/lib/python3.13/site-packages"
CPYTHON = AMD64_ELF + b"\0Py_BytesMain\0"
PYTHON = (file("usr/bin/python3.13", CPYTHON, mode=0o755), symlink("usr/bin/python", "/etc/alternatives/python"))
LINK = symlink("etc/alternatives/python", "../../usr/bin/python3.13")
FLAGS = b"\0sm_80 sm_90 compute_90\0"


def distribution(name: str, version: str, *, folder: str = SITE, kind: str = "dist-info/METADATA") -> Member:
    return file(f"{folder}/{name}-{version}.{kind}", f"Name: {name}\nVersion: {version}\n\nVersion: 9\n".encode())


def torch(version: str = "2.6.0+cu124", *, folder: str = SITE, flags: bytes = FLAGS) -> tuple[Member, ...]:
    said = f"__version__ = {version!r}\ncuda: str | None = '12.4'\nhip: str | None = None\n".encode()
    return (file(f"{folder}/torch/version.py", said), file(f"{folder}/torch/lib/libtorch_python.so", flags))


def outside(root: Path, *layers: bytes, arch: str = "amd64") -> Outside:
    image = put_image(root, *layers, config=python_config(arch))
    found = look(Layout(image.layout), image.descriptor)
    assert isinstance(found, Outside), found
    return found


def test_whiteouts_links_and_later_layers_count(tmp_path: Path) -> None:
    first = tar(*PYTHON, LINK, distribution("Torch.Vision", "0.1"), distribution("six", "1.0"), *torch("2.5.0"))
    gone = [file(f"{SITE}/.wh.six-1.0.dist-info", b""), file(f"{SITE}/.wh.torch", b"")]
    second = tar(
        *gone,
        symlink("opt/link", "venv"),
        distribution("six", "2.0", folder="opt/link/lib/python3.13/site-packages"),
        distribution("old", "3", kind="egg-info"),
        distribution("older", "4", kind="egg-info/PKG-INFO"),
        *torch(folder="opt/src"),
    )
    found = outside(tmp_path, first, second)
    assert found.distributions == {
        ("torch-vision", "0.1", SITE), ("six", "2.0", SITE), ("old", "3", SITE), ("older", "4", SITE),
    }  # fmt: skip
    (there,) = found.torches().items()
    assert there[0] == "opt/src/torch"
    assert (there[1].version, there[1].architectures) == ("2.6.0+cu124", ("sm_80", "sm_90", "compute_90"))
    assert (found.interpreter, found.problem) == ("usr/bin/python3.13", "")
    assert found.real("/opt/link/lib") == "opt/venv/lib"


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ((file("usr/bin/python3", CPYTHON, mode=0o755),), "no python on its PATH (/usr/bin:/bin)"),
        ((file("usr/bin/python", b"#!/bin/sh\necho PASSED\n", mode=0o755),), "/usr/bin/python, a script (#!/bin/sh)"),
        ((file("usr/bin/python", b"", mode=0o755),), "not a program"),
        ((file("usr/bin/python", CPYTHON),), "not a program"),  # nobody may execute it
        ((file("usr/bin/python", ARM64_ELF + b"Py_RunMain\0", mode=0o755),), "not a program for amd64"),
        ((file("usr/bin/python", AMD64_ELF, mode=0o755),), "a program, but not CPython"),
        (
            (file("bin/true", AMD64_ELF, mode=0o755), symlink("usr/bin/python", "/bin/true")),
            "/bin/true, a program, but",
        ),
        ((symlink("usr/bin/python", "python"),), "no python on its PATH"),
        ((symlink("usr/bin/python", "../gone"),), "no python on its PATH"),
    ],
)
def test_what_is_no_python_is_told(tmp_path: Path, members: tuple[Member, ...], says: str) -> None:
    found = outside(tmp_path, tar(*members))
    assert says in found.problem
    assert judging_outside.python(found)[0] is Status.FAILED


def test_the_entry_is_found_across_a_hard_link_and_between_two_reads(tmp_path: Path) -> None:
    for size in (1 << 20) - 5, 64 - 5:
        body = AMD64_ELF.ljust(size, b"\0") + b"Py_BytesMain\0"
        members = (file("opt/python3.13", body, mode=0o755), hard_link("usr/bin/python", "opt/python3.13"))
        assert outside(tmp_path / str(size), tar(*members)).problem == ""


def test_a_device_hides_nothing_and_a_broken_layer_is_told(tmp_path: Path) -> None:
    assert outside(tmp_path / "a", tar(*PYTHON, LINK, Member(name="dev/null", kind=b"3"))).problem == ""
    image = put_image(tmp_path / "b", tar(*PYTHON), config=python_config("amd64"))
    layout = Layout(image.layout)
    blob = layout.blob_path(layout.manifest(image.descriptor).layers[0].digest)
    blob.write_bytes(blob.read_bytes()[:-9])
    assert isinstance(look(layout, image.descriptor), str)


@pytest.fixture
def good(tmp_path: Path) -> Expected:
    layer = tar(*PYTHON, LINK, distribution("torch", "2.6.0"), distribution("numpy", "2.0.0"), *torch())
    return Expected(
        torch="2.6.0",
        python="3.13",
        arch="amd64",
        accelerator="cuda",
        versions={"cuda": "12.4"},
        outside=outside(tmp_path, layer),
    )


ANSWERED = {
    "python": {"version": "3.13.5", "executable": "/usr/bin/python"},
    "torch": {"version": "2.6.0+cu124", "cuda": "12.4", "hip": None, "path": f"/{SITE}/torch"},
    "gpu_architectures": ["sm_90", "sm_80", "compute_90"],
}


@pytest.mark.parametrize(
    ("part", "other", "says"),
    [
        ("python", {}, ""),
        ("python", {"version": "3.12.1"}, "reports 3.12.1, `python` is /usr/bin/python3.13"),
        ("python", {"version": "3.1"}, "reports 3.1,"),
        ("python", {"executable": "/opt/python"}, "reports /opt/python"),
        ("torch", {"version": "2.6.0"}, "reports 2.6.0, its file says 2.6.0+cu124"),
        ("torch", {"cuda": None}, "torch.version.cuda: the image reports None, its file says 12.4"),
        ("torch", {"path": "/opt/torch"}, "no torch/version.py is at /opt/torch"),
    ],
)
def test_a_torch_that_answers_otherwise_than_its_files_fails(
    good: Expected, part: str, other: dict[str, object], says: str
) -> None:
    status, detail = judging_outside.torch(good, {**ANSWERED, part: {**ANSWERED[part], **other}})  # type: ignore[dict-item]
    assert (status is Status.PASSED) == (not says), detail
    assert says in detail


def test_kernels_that_libtorch_does_not_have_fail(good: Expected) -> None:
    status, detail = judging_outside.torch(good, {**ANSWERED, "gpu_architectures": ["sm_120"]})
    assert (status, "reports sm_120, libtorch has sm_80" in detail) == (Status.FAILED, True)


@pytest.mark.parametrize(
    ("reported", "says"),
    [
        ([("torch", "2.6.0"), ("numpy", "2.0.0")], ""),
        ([("torch", "2.6.0")], "numpy 2.0.0: in /opt/venv"),
        ([("torch", "2.6.1"), ("numpy", "2.0.0")], "torch 2.6.1: reported, but not"),
        ([], "the image reports none"),
    ],
)
def test_the_list_of_distributions_is_that_of_the_layers(
    good: Expected, reported: list[tuple[str, str]], says: str
) -> None:
    status, detail = judging_outside.distributions(good, [[n, v, f"/{SITE}/"] for n, v in reported])
    assert (status is Status.PASSED) == (not says), detail
    assert says in detail


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({}, ""),
        ({"torch": "2.7.0"}, "torch 2.7.0 is claimed, the layers have 2.6.0+cu124"),
        ({"torchvision": "0.21.0"}, "torchvision 0.21.0 is claimed, the layers have none"),
        ({"versions": {"cuda": "12.6"}}, "cuda 12.6 is claimed, the torch in the layers is for 12.4"),
    ],
)
def test_claims_are_held_against_the_layers(good: Expected, claims: dict[str, object], says: str) -> None:
    assert good.outside is not None
    status, detail = judging_outside.claims(replace(good, **claims), good.outside)  # type: ignore[arg-type]
    assert (status is Status.PASSED) == (not says), detail
    assert says in detail
    nothing = replace(good, torch="", versions={})
    assert judging_outside.claims(nothing, good.outside)[0] is Status.NOT_RUN
