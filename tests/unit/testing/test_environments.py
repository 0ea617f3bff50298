"""`buildctl test env:PATH`: a Python is found, its torch is read without importing it, and bad paths say one thing."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.runtimes.interpreter import find_interpreter
from buildctl.runtimes.native import NativeRuntime, no_gpus
from buildctl.testing import probes
from buildctl.testing.environments import expected_of_environment
from buildctl.testing.installed import Installed, read_installed
from buildctl.testing.probes import judging_environment
from buildctl.testing.report import Status
from tests.support.command import run_command
from tests.support.environments import distribution, put_torch, site

PASSED, FAILED, NOT_RUN = Status.PASSED, Status.FAILED, Status.NOT_RUN
OLD = {
    "version": [3, 7, 9], "prefix": "/p", "system": "Linux", "machine": "m", "path": [], "torch": None,
    "user_base": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("env") / "empty"
    venv.create(target, with_pip=False)
    return target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "environment"
    venv.create(target, with_pip=False)
    return target


def read(folder: Path) -> tuple[Installed, probes.Expected]:
    interpreter = find_interpreter(str(folder))
    installed = read_installed(interpreter)
    return installed, expected_of_environment(interpreter, installed)


# which Python


def test_a_python_and_the_folder_of_an_environment_are_the_same(empty: Path) -> None:
    for named in (empty, empty / "bin", empty / "bin" / "python"):
        found = find_interpreter(str(named))
        assert (found.prefix.resolve(), found.torch) == (empty.resolve(), None)
        assert found.version == sys.version_info[:3]
        assert site(empty) in found.path


def test_pythonpath_is_not_the_environments(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert find_interpreter(str(empty)).torch is None


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho hello\n", "is not a working Python: hello"),
        ("#!/bin/sh\nexit 3\n", "is not a working Python: exit code 3"),
        ("no program", "is not a working Python|cannot be started"),
        (f"#!/bin/sh\necho 'BUILDCTL {json.dumps(OLD)}'\n", "is Python 3.7.9; the probes need 3.9"),
    ],
)
def test_what_is_no_python_is_one_error(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=words) as caught:
        find_interpreter(str(script(tmp_path / "python", text)))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("nothing", "does not exist"),
        ("folder", r"no Python in .* \(no bin/python"),
        ("file", "is not an executable file"),
        ("empty", "has no torch"),
        ("broken", r"does not import: ImportError: libcudart\.so\.12: no such file"),
        ("nonsense", "is not an installed torch: torch/version.py has no __version__"),
    ],
)
def test_each_bad_path_is_one_line_and_a_hint(folder: Path, empty: Path, tmp_path: Path, make: str, words: str) -> None:
    target = tmp_path / "target"
    if make == "folder":
        target.mkdir()
    elif make == "file":
        target.write_text("x")
    elif make == "empty":
        target = empty
    elif make == "broken":
        put_torch(folder, body="raise ImportError('libcudart.so.12: no such file')")
        target = folder
    elif make == "nonsense":
        (site(folder) / "torch").mkdir()
        (site(folder) / "torch" / "__init__.py").write_text("")
        target = folder
    done = run_command("test", f"env:{target}")
    assert done.returncode == RuntimeUnavailableError.exit_code
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[:1], done.stderr
    assert re.search(words, lines[0]), lines[0]
    assert lines[1].startswith("hint: ")
    assert done.stdout == ""


@pytest.mark.parametrize("option", [("--arch", "amd64"), ("--context", "x"), ("--runtime", "docker"), ("--attach",)])
def test_options_of_images_are_refused(empty: Path, option: tuple[str, ...]) -> None:
    done = run_command("test", f"env:{empty}", *option)
    assert done.returncode == 2
    assert "error: " in done.stderr


# what its torch claims


def test_a_cuda_build_claims_what_its_files_say(folder: Path) -> None:
    put_torch(folder, cuda="13.0")
    distribution(folder, "nvidia_cudnn_cu13", "9.15.1.9")
    installed, expected = read(folder)
    assert (installed.torch, installed.unread) == ("2.13.0", "")
    assert installed.distributions == {"torch": "2.13.0", "nvidia-cudnn-cu13": "9.15.1.9"}
    assert (expected.accelerator, expected.versions.get("cuda"), expected.build) == ("cuda", "13.0", "2.13.0+cu130")
    assert expected.gpu_architectures == ("sm_80", "sm_90", "compute_90")
    assert (expected.cudnn, expected.nccl, expected.glibc) == ("9.15.1.9", None, "2.28")
    assert (expected.python, expected.arch) == (f"3.{sys.version_info[1]}", "amd64")
    assert "no distribution nvidia-nccl with a version" in expected.unclaimed["nccl version"]
    assert "works on the gpu" in probes.names_of(expected)


@pytest.mark.parametrize(
    ("build", "accelerator", "built", "never"),
    [
        ({}, "cpu", (), ("cuda",)),
        ({"hip": "6.4"}, "rocm", ("cuda", "rocm"), ()),
    ],
)
def test_other_builds(
    folder: Path, build: Mapping[str, str], accelerator: str, built: tuple[str, ...], never: tuple[str, ...]
) -> None:
    put_torch(folder, **build)  # type: ignore[arg-type]
    _, expected = read(folder)
    assert (expected.accelerator, expected.built, expected.never) == (accelerator, built, never)
    assert ("works on the gpu" in probes.names_of(expected)) == (accelerator != "cpu")
    assert not [name for name in probes.names_of(expected) if "mps" in name]


def test_a_list_of_architectures_that_cannot_be_read_is_not_claimed(folder: Path) -> None:
    put_torch(folder, cuda="13.0", library=b"\x7fELF\0nothing\0")
    installed, expected = read(folder)
    assert installed.facts is None
    assert "0 lists of GPU architectures" in expected.unclaimed["gpu architectures"]


def test_condas_libraries_are_in_the_lib_of_the_environment(folder: Path) -> None:
    put_torch(folder, cuda="13.0")
    library = site(folder) / "torch" / "lib" / "libtorch_python.so"
    library.rename(folder / "lib" / library.name)
    installed, expected = read(folder)
    assert (installed.unread, expected.gpu_architectures) == ("", ("sm_80", "sm_90", "compute_90"))


def test_a_mac_whose_torch_does_not_say_whether_it_is_built_for_mps_is_not_judged_by_it(folder: Path) -> None:
    put_torch(folder)
    (site(folder) / "torch" / "lib" / "libtorch_python.so").unlink()
    interpreter = dataclasses.replace(find_interpreter(str(folder)), system="Darwin")
    unclaimed = expected_of_environment(interpreter, read_installed(interpreter)).unclaimed
    assert {name for name, why in unclaimed.items() if "has no libtorch_python" in why} == {
        "gpu architectures",
        "backends",
        "devices",
    }


def test_the_digest_changes_with_what_is_installed(folder: Path) -> None:
    put_torch(folder)
    before, again = read(folder)[0].digest, read(folder)[0].digest
    distribution(folder, "numpy", "2.4.6")
    assert before == again != read(folder)[0].digest


# what is asked, and how it is judged


def test_nothing_is_asked_that_only_an_image_has(folder: Path) -> None:
    put_torch(folder, cuda="13.0")
    names = set(probes.names_of(read(folder)[1]))
    of_images = {"labels", "any uid", "any uid's files", "entrypoint", "home and workdir", "bytecode", "pip install"}
    assert not names & (of_images | {"cuda libraries", "no cuda", "certificates", "locale", "console scripts"})
    assert {"gpu architectures", "libraries", "distributions", "pip check", "torch.compile", "torchrun"} <= names


@pytest.mark.parametrize(
    ("environ", "nodes", "reason"),
    [
        ({}, ["nvidia0", "nvidiactl"], ""),
        ({}, ["dxg"], ""),
        ({}, ["nvidiactl"], "no NVIDIA device on this host"),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["nvidia0"], "CUDA_VISIBLE_DEVICES= hides every GPU"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ["nvidia0"], "CUDA_VISIBLE_DEVICES=-1 hides every GPU"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, ["nvidia0"], ""),
    ],
)
def test_a_gpu_is_there_unless_its_user_hides_it(
    tmp_path: Path, environ: Mapping[str, str], nodes: list[str], reason: str
) -> None:
    for name in nodes:
        (tmp_path / name).touch()
    assert no_gpus(environ, tmp_path) == reason


def test_its_commands_have_what_a_cluster_tells_and_what_is_installed_for_the_user(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LD_LIBRARY_PATH": "/drivers", "CUDA_VISIBLE_DEVICES": "3", "SECRET": "x"}.items():
        monkeypatch.setenv(name, value)
    found = dataclasses.replace(find_interpreter(str(empty)), user_base=tmp_path)
    with NativeRuntime().enter(found) as session:
        done = session.run(["python", "-c", "import json, os; print(json.dumps(dict(os.environ)))"], timeout=20)
    env = json.loads(done.stdout)
    assert (env["LD_LIBRARY_PATH"], env["CUDA_VISIBLE_DEVICES"]) == ("/drivers", "3")
    assert env["PYTHONUSERBASE"] == str(tmp_path)
    assert env["PATH"].split(os.pathsep)[:2] == [f"{empty}/bin", f"{tmp_path}/bin"]
    assert "SECRET" not in env


EXPECTED = probes.Expected(
    torch="2.13.0", python="3.11", arch="amd64", accelerator="cpu", native=True, environment=True,
    distributions={"torch": "2.13.0", "numpy": "2.4.6"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        ([["torch", "2.13.0", "/s"], ["numpy", "2.4.6", "/s"], ["?", "?", "/s"]], PASSED, "2 distributions"),
        # an environment on top of the system's packages: the first counts
        ([["torch", "2.13.0", "/s"], ["numpy", "1.26", "/usr"], ["numpy", "2.4.6", "/s"]], PASSED, "2 distributions"),
        ([["torch", "2.13.0", "/s"], ["numpy", "2.4.6", "/s"], ["numpy", "1.26", "/s"]], FAILED, "installed 2 times"),
        ([["torch", "2.12.0", "/s"], ["numpy", "2.4.6", "/s"]], FAILED, "folders have 2.13.0, its Python reports 2.12"),
        ([["torch", "2.13.0", "/s"]], FAILED, "numpy: its folders have 2.4.6, its Python reports none"),
    ],
)
def test_distributions(value: list[list[str]], status: Status, words: str) -> None:
    found = judging_environment.distributions(EXPECTED, value)
    assert found[0] is status
    assert words in found[1]


def complaint(text: str, **tags: list[str]) -> dict[str, object]:
    return {"check": {"code": 1, "text": text, "tags": tags}}


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        ({"rest": {"text": "No module named pip"}}, NOT_RUN, "no pip"),
        ({"check": {"code": 0, "text": "No broken requirements found.", "tags": {}}}, PASSED, "No broken"),
        (complaint("foo 1 requires bar, which is not installed."), PASSED, "1 complaints about other packages"),
        (complaint("torch 2.13.0 requires sympy, which is not installed."), FAILED, "sympy"),
        (complaint("nvidia-nccl-cu13 1 is not supported on this platform"), FAILED, "nccl"),
        (
            complaint("nvidia-x 1 is not supported on this platform", **{"nvidia-x": ["py3-none-manylinux2014_sbsa"]}),
            PASSED,
            "nothing that torch needs",
        ),
    ],
)
def test_pip_check_counts_what_is_about_torch(value: object, status: Status, words: str) -> None:
    found = judging_environment.pip_check(EXPECTED, value)
    assert found[0] is status
    assert words in found[1]


def test_an_environment_promises_no_compiler() -> None:
    found = judging_environment.compiled(EXPECTED, {"compiler": None, "compiled": {"error": 1, "graphs": 0}})
    assert found[0] is NOT_RUN
    good = judging_environment.compiled(EXPECTED, {"compiler": "/usr/bin/g++", "compiled": {"error": 0, "graphs": 1}})
    assert good[0] is PASSED


def test_a_torch_that_answers_wrongly_fails_by_name(folder: Path) -> None:
    put_torch(folder, body="__version__ = '2.0'\nclass version:\n    cuda = hip = git_version = None\n")
    done = run_command("test", f"env:{folder}", "--json", "--junit", folder / "junit.xml")
    assert done.returncode == 1, done.stderr
    (report,) = json.loads(done.stdout)["reports"]
    found = {finding["name"]: finding for finding in report["findings"]}
    assert report["cell"] == f"env:{folder}"
    assert (report["runtime"], report["gpus"]) == ("native", no_gpus(os.environ) == "")
    assert found["torch"]["detail"] == "expected torch 2.13.0, image reports 2.0"
    assert found["python"]["status"] == found["distributions"]["status"] == "PASSED"
    assert found["numpy"]["detail"] == "not installed in this environment"
    assert found["pip check"]["detail"] == "this environment has no pip"
    assert "failure" in (folder / "junit.xml").read_text()
