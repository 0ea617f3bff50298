"""Claims from locks and from torch's wheel, as file and as labels; every lie is refused or told."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildctl.ground.errors import ArtifactError, LockError
from buildctl.lock.claim_files import differences
from buildctl.lock.claims import (
    Claims,
    claim_labels,
    claims_of,
    claims_path,
    format_claims,
    glibc_floor,
    label_values,
    macos_floor,
    parse_claims,
    read_claims,
    read_labels,
)
from buildctl.lock.locked import load_locked
from buildctl.lock.torch_wheel import assignments, facts_from_file, links_to_metal
from buildctl.lock.wheels import LockedWheel, read_wheel_lock
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.testing.probes.asking import Answers
from buildctl.testing.probes.checks import CHECKS
from buildctl.testing.probes.expected import expected_of
from buildctl.testing.probes.findings import finding_of
from buildctl.testing.probes.judging import labels as judge_labels
from buildctl.testing.report import Status
from tests.conftest import ROOT
from tests.support.wheels import make_wheel

FILES = sorted((ROOT / "images").glob("*/claims.*.json"))
VERSION = """from typing import Optional
__version__ = '2.6.0+cu124'
cuda: Optional[str] = '12.4'
hip: Optional[str] = None
"""
LIBRARY = b"\x7fELF junk\0compute_at\0sm_50 sm_86 compute_90\0more\0"


def cell_of(project: Project, name: str, arch: str) -> Cell:
    return next(c for c in project.matrix.cells if (c.name, c.arch) == (name, arch))


def torch_wheel(folder: Path, files: Mapping[str, bytes]) -> tuple[LockedWheel, Path]:
    made = make_wheel(folder, dict(files), name="torch", version="2.6.0")
    digest = Digest(made.path.name)
    wheel = LockedWheel(
        name="torch",
        version="2.6.0",
        filename="torch-2.6.0-py3-none-any.whl",
        size=made.path.stat().st_size,
        digest=digest,
    )
    return wheel, made.path


# from the wheel


def test_facts_come_from_the_wheel_without_importing_it(tmp_path: Path) -> None:
    files = {"torch/version.py": VERSION.encode(), "torch/lib/libtorch_python.so": LIBRARY}
    wheel, path = torch_wheel(tmp_path, files)
    facts = facts_from_file(wheel, path)
    assert (facts.torch, facts.said["cuda"], facts.mps) == ("2.6.0+cu124", "12.4", False)
    assert (facts.gpu_architectures, facts.ptx) == (("sm_50", "sm_86"), ("compute_90",))
    assert facts.wheel == str(wheel.digest)


def test_a_cuda_wheel_that_names_no_architecture_is_refused(tmp_path: Path) -> None:
    files = {"torch/version.py": VERSION.encode(), "torch/lib/libtorch_python.so": b"\x7fELF\0nothing\0"}
    with pytest.raises(ArtifactError, match="0 lists of GPU architectures"):
        facts_from_file(*torch_wheel(tmp_path, files))


def test_a_wheel_without_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no torch/version\.py"):
        facts_from_file(*torch_wheel(tmp_path, {"torch/__init__.py": b""}))


def test_assignments_are_read_not_run() -> None:
    text = b"__version__ = '1'\ncuda: Optional[str] = None\ndebug = False\nraise SystemExit\nhip = \"6.1\"\n"
    assert assignments(text, "x") == {"__version__": "1", "cuda": None, "hip": "6.1"}


def test_an_assignment_is_what_python_takes_for_one() -> None:
    text = (
        b"'''\ncuda = '11.8'\n'''\ncuda: Optional[str] = (\n    '12.4'\n)  # the build's own\nif x:\n  cuda = '9.0'\n"
    )
    assert assignments(text, "x") == {"cuda": "12.4"}


@pytest.mark.parametrize(
    "source", [b"cuda = = 1", b"\0", b"\xff", b"(" * 10_000], ids=["syntax", "NUL", "bytes", "deep"]
)
def test_what_is_not_python_is_refused(source: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^torch/version\.py is not Python"):
        assignments(source, "torch/version.py")


def mach_o(*libraries: str, magic: bytes = b"\xcf\xfa\xed\xfe") -> bytes:
    commands = b""
    for name in libraries:
        data = name.encode() + b"\0"
        data += bytes(-len(data) % 8)
        commands += struct.pack("<6I", 0xC, 24 + len(data), 24, 0, 0, 0) + data
    return magic + struct.pack("<7I", 0x0100000C, 0, 6, len(libraries), len(commands), 0, 0) + commands


def test_metal_is_told_by_the_load_commands() -> None:
    metal = "/System/Library/Frameworks/Metal.framework/Versions/A/Metal"
    assert links_to_metal(mach_o("/usr/lib/libSystem.B.dylib", metal))
    assert not links_to_metal(mach_o("/usr/lib/libSystem.B.dylib"))
    assert not links_to_metal(mach_o("/usr/lib/libSystem.B.dylib") + metal.encode())  # in the text, not a command
    assert not links_to_metal(mach_o("/opt/old" + metal))  # another library of that name
    assert not links_to_metal(mach_o(metal, magic=b"\x7fELF"))


# from the lock


def test_floors_come_from_the_tags() -> None:
    names = [
        "a-1-py3-none-any.whl",
        "b-1-py3-none-manylinux_2_27_x86_64.whl",
        "c-1-cp313-cp313-manylinux2014_x86_64.manylinux_2_28_x86_64.whl",
        "d-1-py3-none-manylinux1_x86_64.whl",
    ]
    assert glibc_floor(names) == "2.27"
    assert glibc_floor(names[:1]) is None
    assert macos_floor(["a-1-py3-none-macosx_11_0_arm64.whl", "b-1-py3-none-macosx_14_0_arm64.whl"]) == "14.0"


def test_every_committed_file_is_about_its_lock(project: Project) -> None:
    assert FILES
    for path in FILES:
        claims = read_claims(path)
        cell = cell_of(project, claims.name, claims.arch)
        lock = read_wheel_lock(project.wheel_lock(cell.name, cell.arch))
        assert path == claims_path(project.images, cell.name, cell.arch)
        assert claims.facts is not None
        assert claims_of(cell, lock, claims.facts) == claims


def test_every_cell_has_a_file(project: Project) -> None:
    wanted = {claims_path(project.images, c.name, c.arch) for c in project.matrix.cells}
    assert wanted == set(FILES)


def test_the_known_architectures_of_the_default_images(project: Project) -> None:
    """Read from the wheels by hand, see the table of facts: sm_120 is what tells 2.6 from 2.10."""
    read = {p.parent.name + "." + p.name.split(".")[1]: read_claims(p).gpu_architectures for p in FILES}
    assert read["cuda-2.6.amd64"] == ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
    assert read["cuda-2.15.arm64"] == ("sm_80", "sm_90", "sm_100", "sm_110", "sm_120")
    assert read["cpu-2.6.arm64"] == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"torch": "2.6.1+cu124"}, r"torch 2\.6\.1\+cu124 inside, the lock has 2\.6\.0"),
        (
            {"said": {"cuda": "12.5"}},
            r"built for CUDA 12\.5 \(torch/version\.py .*, the lock says built for CUDA 12\.4",
        ),
        ({"said": {}}, r"claims CUDA, .* which is a CPU build"),
        ({"said": {"rocm": "6.2.41133-dd7f"}}, r"claims CUDA, .* which is built for ROCm 6\.2 .*, not a CUDA build"),
        ({"gpu_architectures": ()}, "without a list of GPU architectures"),
        ({"mps": True}, "links to Metal, the matrix has mps under never"),
    ],
)
def test_a_wheel_that_is_not_what_the_lock_says_is_refused(
    project: Project, change: dict[str, object], words: str
) -> None:
    claims = read_claims(ROOT / "images" / "cuda-2.6" / "claims.amd64.json")
    assert claims.facts is not None
    cell = cell_of(project, "cuda-2.6", "amd64")
    lock = read_wheel_lock(project.wheel_lock(cell.name, cell.arch))
    with pytest.raises(LockError, match=words):
        claims_of(cell, lock, dataclasses.replace(claims.facts, **change))  # type: ignore[arg-type]


# the file


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_a_file_is_what_would_be_written(path: Path) -> None:
    assert format_claims(read_claims(path)) == path.read_bytes()


def test_a_kind_that_is_added_to_the_code_leaves_files_as_they_are() -> None:
    code = """
import dataclasses, pathlib, sys
from buildctl.matrix import accelerators
accelerators.VERSIONED += (dataclasses.replace(accelerators.CUDA, name="npu", attribute="npu"),)
from buildctl.lock.claims import format_claims, read_claims
for path in map(pathlib.Path, sys.argv[1:]):
    assert format_claims(read_claims(path)) == path.read_bytes(), path
"""
    subprocess.run([sys.executable, "-c", code, *FILES], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("schema", 2, "schema 2, not 1"),
        ("torch", None, "torch: None"),
        ("mps", "yes", "mps: 'yes'"),
        ("gpu_architectures", "sm_90", "gpuArchitectures: 'sm_90'"),
        ("wheel", None, "wheel without a value"),
        ("cuda", "x", "malformed"),
        ("driver_floor", "526", "driverFloor is 526, CUDA 12.4 asks for 525"),
        ("surprise", 1, "missing or unknown: surprise"),
    ],
)
def test_a_malformed_file_is_refused_with_its_name(key: str, value: object, words: str) -> None:
    given = json.loads((ROOT / "images" / "cuda-2.6" / "claims.amd64.json").read_bytes())
    with pytest.raises(LockError, match=words) as caught:
        parse_claims({**given, key: value}, "claims.json")
    assert caught.value.message.startswith("claims.json")


def test_a_missing_field_is_refused() -> None:
    given = json.loads((ROOT / "images" / "cuda-2.6" / "claims.amd64.json").read_bytes())
    del given["nccl"]
    with pytest.raises(LockError, match="missing or unknown: nccl"):
        parse_claims(given, "claims.json")


def with_file(tmp_path: Path, project: Project, **changes: object) -> Project:
    """A project whose file of claims about cuda-2.6 lies."""
    copy = Project(tmp_path, tmp_path / "dist")
    folder = tmp_path / "images" / "cuda-2.6"
    folder.mkdir(parents=True)
    given = json.loads(claims_path(project.images, "cuda-2.6", "amd64").read_bytes())
    (folder / "claims.amd64.json").write_text(json.dumps({**given, **changes}))
    return copy


@pytest.mark.parametrize("key", ["lock", "wheel"])
def test_claims_about_other_wheels_are_stale_and_both_digests_are_named(
    tmp_path: Path, project: Project, key: str
) -> None:
    cell = cell_of(project, "cuda-2.6", "amd64")
    given = json.loads(claims_path(project.images, "cuda-2.6", "amd64").read_bytes())[key]
    altered = given[:-1] + ("0" if given[-1] != "0" else "1")
    with pytest.raises(LockError) as caught:
        load_locked(lying(tmp_path, project, **{key: altered}), [cell])
    assert given in caught.value.message
    assert altered in caught.value.message


def test_without_a_file_the_lock_speaks(tmp_path: Path, project: Project) -> None:
    cell = cell_of(project, "cuda-2.6", "amd64")
    copy = lying(tmp_path, project)
    claims_path(copy.images, cell.name, cell.arch).unlink()
    (locked,) = load_locked(copy, [cell])
    claims = locked.claims
    assert (claims.versions["cuda"], claims.cudnn, claims.nccl, claims.gpu_architectures) == (
        "12.4",
        "9.1.0.70",
        "2.21.5",
        None,
    )


def test_differences_name_both_values() -> None:
    claims = read_claims(ROOT / "images" / "cuda-2.6" / "claims.amd64.json")
    lie = dataclasses.replace(claims, cudnn="9.1.1.70")
    assert differences(claims, lie) == ["cudnn: the wheels have 9.1.0.70, the file has 9.1.1.70"]


# labels


def test_architectures_share_labels_where_they_agree() -> None:
    both = [read_claims(ROOT / "images" / "cuda-2.15" / f"claims.{arch}.json") for arch in ("amd64", "arm64")]
    labels = claim_labels(both)
    assert labels["dev.buildctl.cuda"] == "13.2"
    assert labels["dev.buildctl.gpu-architectures.arm64"] == "sm_80 sm_90 sm_100 sm_110 sm_120"
    assert "dev.buildctl.gpu-architectures" not in labels
    for claims in both:
        assert read_labels(labels, claims.arch) == label_values(claims)


def test_a_claim_of_one_architecture_only_is_not_read_for_the_other() -> None:
    one = Claims(torch="1", python="3", arch="amd64", accelerator="cuda", nccl="2.1")
    other = Claims(torch="1", python="3", arch="arm64", accelerator="cuda")
    labels = claim_labels([one, other])
    assert labels["dev.buildctl.nccl.amd64"] == "2.1"
    assert read_labels(labels, "amd64")["nccl"] == "2.1"
    assert "nccl" not in read_labels(labels, "arm64")


# a claim altered by one digit

# What cuda-2.6 on amd64 answers, less what the claims are not about.
TRUTH = Answers(
    values={
        "python": {"system": "Linux", "machine": "x86_64", "bits": 64, "version": "3.13.5", "executable": "python"},
        "torch": {"version": "2.6.0+cu124", "cuda": "12.4", "hip": None},
        "torchvision": {"version": "0.21.0+cu124", "pillow": "13.0.0", "tried": 15, "wrong": []},
        "torchaudio": "2.6.0+cu124",
        "gpu_architectures": ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"],
        "libraries": {"cudnn": [9, 1, 0], "nccl": [2, 21, 5], "libc": ["glibc", "2.41"]},
    }
)
JUDGED = {
    "platform", "python", "torch", "torch build", "torchvision", "torchaudio", "cuda version", "gpu architectures",
    "cudnn version", "nccl version", "glibc",
}  # fmt: skip


def judged(project: Project) -> dict[str, tuple[Status, str]]:
    (locked,) = load_locked(project, [cell_of(Project.find(ROOT), "cuda-2.6", "amd64")])
    expected = expected_of(locked)
    found = [finding_of(check, TRUTH, expected) for check in CHECKS if check.name in JUDGED and check.run == "torch"]
    return {f.name: (f.status, f.detail) for f in found}


def lying(tmp_path: Path, project: Project, **changes: object) -> Project:
    copy = with_file(tmp_path, project, **changes)
    lock = project.wheel_lock("cuda-2.6", "amd64")
    (tmp_path / "images" / "cuda-2.6" / lock.name).write_bytes(lock.read_bytes())
    shutil.copytree(project.images / "bases", copy.images / "bases")
    shutil.copy(project.root / "matrix.yaml", tmp_path)
    return copy


def test_the_truth_passes(tmp_path: Path, project: Project) -> None:
    found = judged(lying(tmp_path, project))
    assert set(found) == JUDGED
    assert {status for status, _ in found.values()} == {Status.PASSED}


@pytest.mark.parametrize(
    ("claim", "lie", "finding", "both"),
    [
        ("torch", "2.6.1", "torch", ("2.6.1", "2.6.0+cu124")),
        ("build", "2.6.0+cu125", "torch build", ("2.6.0+cu125", "2.6.0+cu124")),
        ("torchvision", "0.22.0", "torchvision", ("0.22.0", "0.21.0+cu124")),
        ("torchaudio", "2.5.0", "torchaudio", ("2.5.0", "2.6.0+cu124")),
        ("python", "3.14", "python", ("3.14", "3.13.5")),
        ("arch", "arm64", "platform", ("aarch64", "x86_64")),
        ("cuda", "12.5", "cuda version", ("12.5", "12.4")),
        ("cudnn", "9.2.0.70", "cudnn version", ("9.2.0", "9.1.0")),
        ("nccl", "2.21.6", "nccl version", ("2.21.6", "2.21.5")),
        ("glibc", "2.47", "glibc", ("2.47", "2.41")),
        ("gpu_architectures", ["sm_51", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"], "gpu architectures",
         ("sm_51", "sm_50")),
        ("ptx", ["compute_90"], "gpu architectures", ("compute_90", "sm_90")),
    ],
)  # fmt: skip
def test_one_digit_makes_a_finding_fail_that_names_both_values(
    tmp_path: Path, project: Project, claim: str, lie: object, finding: str, both: tuple[str, str]
) -> None:
    found = judged(lying(tmp_path, project, **{claim: lie}))
    status, detail = found[finding]
    assert status is Status.FAILED
    assert both[0] in detail
    assert both[1] in detail
    assert {name for name, (status, _) in found.items() if status is Status.FAILED} == {finding}


def test_a_label_that_lies_is_named_with_the_claim(tmp_path: Path, project: Project) -> None:
    (locked,) = load_locked(lying(tmp_path, project), [cell_of(project, "cuda-2.6", "amd64")])
    expected = expected_of(locked)
    true = dict(expected.labels)
    assert judge_labels(expected, true)[0] is Status.PASSED
    status, detail = judge_labels(expected, {**true, "driver-floor": "526", "colour": "red"})
    assert status is Status.FAILED
    assert "driver-floor: expected 525, the label has 526" in detail
    assert "colour: expected no such claim, the label has red" in detail
    del true["gpu-architectures"]
    status, detail = judge_labels(expected, true)
    assert (status, "gpu-architectures" in detail) == (Status.NOT_RUN, True)
