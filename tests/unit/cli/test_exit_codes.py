"""Each row of the table of exit codes, provoked through the real command line, and errors as JSON."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildctl.cli.program import main
from buildctl.ground import interrupts
from buildctl.ground.errors import BuildctlError, ExitCode
from buildctl.oci.digest import Digest
from tests.conftest import ROOT

Prepare = Callable[[Path], tuple[str, ...]]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project, to be spoilt."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("matrix.yaml", "docker-bake.json"):
        shutil.copy(ROOT / name, root)
    for name in ("images", "templates"):
        shutil.copytree(ROOT / name, root / name)
    return root


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, (path, old)
    path.write_text(text.replace(old, new, 1))


def stale(root: Path) -> tuple[str, ...]:
    edited(root / "images/cpu-2.6/requirements.arm64.txt", "sha256:", "sha256:0")
    return "lock", "--check", "cpu-2.6"


def drifted(root: Path) -> tuple[str, ...]:
    edited(root / "images/cpu-2.6/Dockerfile", "FROM ", "# edited by hand\nFROM ")
    return "render", "--check", "cpu-2.6"


def damaged(root: Path) -> tuple[str, ...]:
    (root / "dist").mkdir()
    (root / "dist/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (root / "dist/index.json").write_text("{}")
    return ("fsck",)


def no_matrix(root: Path) -> tuple[str, ...]:
    edited(root / "matrix.yaml", "versions:", "verions:")
    return ("matrix",)


def no_report(root: Path) -> tuple[str, ...]:
    (root / "report.json").write_text("[]")
    return "report", str(root / "report.json")


def no_key(root: Path) -> tuple[str, ...]:
    (root / "key").write_text("hello")
    return "sign", "127.0.0.1:1/a:b", "--sign-key", str(root / "key")


def foreign_step(root: Path) -> tuple[str, ...]:
    step = "RUN apt-get install -y ffmpeg"
    extended = '{% extends "image.Dockerfile.j2" %}'
    block = "{% block after_wheels %}"
    (root / "templates/cpu-2.6.Dockerfile.j2").write_text(f"{extended}\n{block}\n{step}\n{{% endblock %}}\n")
    return "build", "cpu-2.6", "--no-load"


def no_wheel(root: Path) -> tuple[str, ...]:
    """What is locked as torch's wheel is not one, and no claims say what is in it."""
    (root / "images/cpu-2.6/claims.arm64.json").unlink()
    lock, digest = root / "images/cpu-2.6/requirements.arm64.txt", Digest.of(b"not a wheel").hex
    before, torch = lock.read_text().split("torch==", 1)
    lock.write_text(before + "torch==" + torch.replace(torch.split("sha256:", 1)[1][:64], digest, 1))
    place = root.parent / "store/artifacts" / digest[:2] / digest
    place.parent.mkdir(parents=True)
    place.write_bytes(b"not a wheel")
    return "claims", "cpu-2.6"


def no_store(root: Path) -> tuple[str, ...]:
    (root.parent / "store").write_text("a file")
    return "bases", "cpu-2.6"


def fixed(*argv: str) -> Prepare:
    return lambda _: argv


ROWS: list[tuple[ExitCode, Prepare]] = [
    (ExitCode.OK, fixed("matrix")),
    (ExitCode.FAILED, fixed("check", "mps-2.6", "--host", str(ROOT / "tests/support/hosts/gh200.json"))),
    (ExitCode.USAGE, fixed("build", "nosuch")),
    (ExitCode.USAGE, fixed("build", "--nosuch")),
    (ExitCode.USAGE, fixed("nosuch")),
    (ExitCode.USAGE, fixed("verify", "a b/c:d")),
    (ExitCode.NOT_RUN, fixed("portability", "cuda-2.6", "cpu-2.6")),
    (ExitCode.DOCKERFILE, foreign_step),
    (ExitCode.ARTIFACT, no_wheel),
    (ExitCode.ENGINE, no_store),
    (ExitCode.TOOL, fixed("sign", "127.0.0.1:1/a:b", "--sign-keyless")),
    (ExitCode.STALE, stale),
    (ExitCode.STALE, drifted),
    (ExitCode.LAYOUT, damaged),
    (ExitCode.LAYOUT, fixed("sbom", "cpu-2.6")),
    (ExitCode.RUNTIME, fixed("test", "env:/no/such/environment")),
    (ExitCode.KEY, no_key),
    (ExitCode.IMPOSSIBLE, fixed("build", "cpu-2.15")),
    (ExitCode.SETTINGS, no_matrix),
    (ExitCode.FILE, no_report),
    (ExitCode.FILE, fixed("check", "--save", "/no/such/folder/host.json")),
]


def in_process(monkeypatch: pytest.MonkeyPatch, *argv: str, root: Path = ROOT) -> int:
    monkeypatch.setattr(sys, "argv", ["buildctl", "--project", str(root), *argv])
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.usefixtures("without_docker")
@pytest.mark.parametrize(("code", "prepare"), ROWS, ids=[f"{row[0].name}-{n}" for n, row in enumerate(ROWS)])
def test_each_code(
    copy: Path,
    code: ExitCode,
    prepare: Prepare,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BUILDCTL_CACHE", str(copy.parent / "store"))
    assert in_process(monkeypatch, *prepare(copy), root=copy) == code, capfd.readouterr().err
    stderr = capfd.readouterr().err
    assert "Traceback" not in stderr
    assert ("error: " in stderr) or code in (ExitCode.OK, ExitCode.FAILED, ExitCode.NOT_RUN, ExitCode.LAYOUT)


@pytest.fixture
def unignored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The signals as a program finds them at its start, and as they were afterwards."""
    monkeypatch.setattr(interrupts, "_received", signal.SIGINT)
    before = {number: signal.getsignal(number) for number in interrupts.ENDING}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("unignored")
@pytest.mark.parametrize("code", [ExitCode.HUNG_UP, ExitCode.INTERRUPTED, ExitCode.TERMINATED])
def test_signals(code: ExitCode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """That a process ends so, and nothing of it is left: tests/integration/build/test_interrupts.py."""
    monkeypatch.setattr("buildctl.testing.overview.overview", lambda *_: os.kill(os.getpid(), code - 128))
    assert in_process(monkeypatch, "matrix", "--json") == code
    assert json.loads(capsys.readouterr().out)["error"]["exitCode"] == code


def test_a_bug_is_not_taken_for_a_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("buildctl.testing.overview.overview", broken)
    assert in_process(monkeypatch, "matrix", "--json") == ExitCode.BUG
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["exitCode"] == ExitCode.BUG
    assert "Traceback" in told.err
    assert "please report it" in told.err


def test_every_row_is_provoked() -> None:
    networked = {
        ExitCode.UNREACHABLE,
        ExitCode.REGISTRY,
        ExitCode.UNSOLVABLE,
    }  # in tests/integration/lock
    others = networked | {ExitCode.HUNG_UP, ExitCode.INTERRUPTED, ExitCode.TERMINATED, ExitCode.BUG}
    assert {code for code, _ in ROWS} | others == set(ExitCode)


def test_no_error_class_has_a_number_of_its_own() -> None:
    todo = [BuildctlError]
    for kind in todo:
        assert isinstance(kind.exit_code, ExitCode), kind
        todo += kind.__subclasses__()
    assert len(todo) > 15


WRONG: list[tuple[tuple[str, ...], str, int]] = [
    (("build", "nosuch"), "unknown image name 'nosuch'", 2),
    (("build", "cpu-2.15"), "cpu-2.15 in a container on amd64: ", 14),
    (("build", "--arhc", "arm64"), "no option --arhc (did you mean '--arch'?)", 2),
    (("buil",), "no command 'buil' (did you mean 'build'?)", 2),
    (
        ("build", "--compression", "gzi"),
        "--compression: 'gzi' is not one of 'zstd', 'gzip', 'zstd:chunked' (did you mean 'gzip'?)",
        2,
    ),
    (("build", "--compression-level", "20"), "--compression-level: zstd has no level '20'", 2),
    (("publish",), "missing option --to", 2),
    (("diff", "a"), "missing argument B", 2),
    (("doctor", "x"), "got unexpected extra argument (x)", 2),
    (("-q", "matrix", "-v"), "--verbose and --quiet exclude each other", 2),
]


@pytest.mark.parametrize(("argv", "message", "code"), WRONG, ids=[" ".join(argv) for argv, _, _ in WRONG])
def test_errors_are_json_on_stdout_and_words_on_stderr(
    argv: tuple[str, ...],
    message: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert in_process(monkeypatch, *argv, "--json") == code
    told = capsys.readouterr()
    value = json.loads(told.out)
    assert value.keys() == {"error"}
    assert value["error"].keys() == {"message", "hint", "exitCode"}
    assert value["error"]["message"].startswith(message)
    assert value["error"]["exitCode"] == code
    assert told.err == f"error: {value['error']['message']}\nhint: {value['error']['hint']}\n"
    assert in_process(monkeypatch, *argv) == code
    again = capsys.readouterr()
    assert (again.out, again.err) == ("", told.err)


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from value
        for item in value.values():
            yield from keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


ASKED = [("matrix",), ("check",), ("doctor",), ("inspect", "mps-2.6"), ("tags", "cpu-2.6")]


@pytest.mark.usefixtures("without_docker")
@pytest.mark.parametrize("argv", ASKED, ids=" ".join)
def test_keys_are_camel_case(
    argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_process(monkeypatch, *argv, "--json")
    wrong = [key for key in keys_of(json.loads(capsys.readouterr().out)) if "_" in key]
    assert wrong == []
