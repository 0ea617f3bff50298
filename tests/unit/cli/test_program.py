"""What the command line refuses by itself, and that what goes wrong is a message and never a traceback."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import requests

from buildctl.cli.program import main
from buildctl.console.progress import Silent
from buildctl.ground.errors import BuildctlError, ExitCode, LayoutError, ProblemsError
from buildctl.ground.net import Patience
from buildctl.host.check import check_images
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.files import write_whole
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.publish.verify import verify
from buildctl.registry.client import Fetched, Repository
from buildctl.registry.problems import AgainError, UnavailableError
from buildctl.registry.reference import Reference
from buildctl.registry.transport import Transport, Tries
from buildctl.testing.images import image_ref, with_labels
from buildctl.testing.kept import keep
from buildctl.testing.overview import overview
from buildctl.testing.probes.expected import Expected
from buildctl.testing.report import Finding, Report, Status
from tests.conftest import ROOT
from tests.support.projects import Small, small

CELL = "cuda-2.6-amd64"


@pytest.fixture
def project(tmp_path: Path) -> Small:
    return small(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["buildctl", "--project", str(ROOT), *args])
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["tags", "cpu-2.6", "--revision", "a b"], "'a b' cannot end a tag"),
        (["publish", "--to", "127.0.0.1:1/x", "--revision", "a/b"], "'a/b' cannot end a tag"),
        (["promote", "--to", "127.0.0.1:1/x", "--revision", ""], "'' cannot end a tag"),
        (["verify", "127.0.0.1:1/x:y", "--require", "reports"], "no check 'reports' (did you mean 'report'?)"),
        (["tags", "--allow-not-run", "torch.compil"], "no finding 'torch.compil' (did you mean 'torch.compile'?)"),
        (["lock", "--check", "--upgrade"], "--check changes nothing"),
        (["lock", "--check", "--upgrade-bases"], "--check changes nothing"),
        (["verify", "cpu-2.6"], "cpu-2.6 names no registry"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_any_work(
    args: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *args) == 2
    assert says in capsys.readouterr().err


def test_the_known_findings_and_revisions_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = ["--layout", str(ROOT / "no-layout-here")]  # tags are shown before anything is built
    assert run(monkeypatch, *nothing, "tags", "cpu-2.6", "--allow-not-run", "entrypoint", "--revision", "1.1-a_b") == 0


@pytest.mark.usefixtures("without_docker")
def test_a_folder_that_is_not_there_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "nowhere" / "host.json"
    assert run(monkeypatch, "check", "--save", str(place)) == ExitCode.FILE
    assert f"error: cannot write {place}: No such file or directory" in capsys.readouterr().err


def test_an_error_of_a_file_that_nobody_foresaw_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("buildctl.testing.overview.overview", broken)
    assert run(monkeypatch, "matrix") == ExitCode.FILE
    assert capsys.readouterr().err == "error: /some/file: Permission denied\n"


def test_what_is_no_file_of_facts_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "facts").write_text("hi")
    with pytest.raises(BuildctlError, match="is not a host facts file") as problem:
        check_images(ROOT, None, [], host_file=tmp_path / "facts", save=None)
    assert problem.value.hint == "`buildctl check --save FILE` writes one"


def test_a_clean_up_that_fails_does_not_hide_the_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "not there" / "file", b"")


def test_a_report_that_cannot_be_kept_is_an_error_with_its_place(
    project: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = project_report(project, torch=Status.PASSED)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("buildctl.testing.kept.keep_whole", read_only)
    with pytest.raises(LayoutError, match=f"cannot write .*{CELL}.json"):
        keep(project.project, project.cell(CELL), report, at="2026-11-22T00:00:00Z")


def test_several_problems_keep_their_hint_across_processes() -> None:
    error = pickle.loads(pickle.dumps(ProblemsError("matrix.yaml", ["a", "b"], hint="do this")))
    assert (error.message, error.hint) == ("matrix.yaml: 2 problems\n  a\n  b", "do this")


def project_report(project: Small, **statuses: Status) -> Report:
    found = tuple(Finding(name=n, status=s, detail="no daemon answers") for n, s in statuses.items())
    digest = project.layout.resolve(CELL).digest
    return Report(cell=CELL, digest=digest, arch="amd64", runtime="r", emulated=None, gpus=False, findings=found)


def test_a_run_that_could_ask_nothing_does_not_lose_what_the_labels_said(project: Small) -> None:
    cell, image = project.cell(CELL), image_ref(project.layout, project.cell(CELL))
    expected = Expected(torch="2.6.0", python="3.13", arch="amd64", accelerator="cuda", labels={"torch": "2.6.0"})
    asked = with_labels(project_report(project, torch=Status.PASSED), image, expected)
    assert asked.findings[-1].status is Status.PASSED
    keep(project.project, cell, asked, at="2026-11-22T00:00:00Z")
    nothing = with_labels(project_report(project, torch=Status.NOT_RUN), image, expected)
    assert (nothing.verdict, nothing.findings[-1].detail) == (Status.NOT_RUN, "no daemon answers")
    keep(project.project, cell, nothing, at="2026-11-23T00:00:00Z")
    kept = json.loads(project.project.report(cell).read_text())
    assert {f["name"]: f["status"] for f in kept["findings"]} == {"torch": "PASSED", "labels": "PASSED"}


def test_attempts_that_fail_are_said_while_they_are_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    tries = Tries(Patience(attempts=3, backoff=0), "registry.example: a:b")
    tries.failed(AgainError("Connection refused"))
    assert capsys.readouterr().err == ""
    tries.failed(AgainError("Connection refused"))
    assert capsys.readouterr().err == "registry.example: a:b: Connection refused; trying again\n"
    with pytest.raises(UnavailableError, match="3 times in a row"):
        tries.failed(AgainError("Connection refused"))


def test_where_nobody_has_ever_answered_is_given_up_soon() -> None:
    tries = Tries(Patience(attempts=6, backoff=0), "registry.example: a:b")
    for _ in range(2):
        tries.failed(AgainError("Connection refused", unreached=True))
    with pytest.raises(UnavailableError, match=r"a:b: Connection refused$"):
        tries.failed(AgainError("Connection refused", unreached=True))


def test_a_registry_that_has_answered_may_be_starting_again() -> None:
    transport, refused = Transport("registry.example"), requests.ConnectionError()
    refused.__context__ = ConnectionRefusedError(111, "Connection refused")
    first = transport._broken(refused, "https://registry.example/v2/")
    transport._answered.add("registry.example")
    later = transport._broken(refused, "https://registry.example/v2/")
    elsewhere = transport._broken(refused, "https://token.example/")
    assert isinstance(first, AgainError)
    assert isinstance(later, AgainError)
    assert isinstance(elsewhere, AgainError)
    assert (first.unreached, later.unreached, elsewhere.unreached) == (True, False, True)


def test_publish_asks_which_registry_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "publish", "--to", "pytorch") == ExitCode.USAGE
    told = capsys.readouterr().err
    assert "'pytorch' names no registry" in told
    assert "docker.io/USER/pytorch" in told


@pytest.mark.parametrize(
    ("added", "change", "states"),
    [
        ("", "", {"cpu-2.6-arm64": "yes", "cpu-2.10-arm64": "yes"}),
        ('images: {"cpu-2.6": {packages: [six]}}\n', "", {"cpu-2.6-arm64": "stale", "cpu-2.10-arm64": "yes"}),
        ('images: {"cpu-2.6": {apt: [git]}}\n', "", {"cpu-2.6-arm64": "no", "cpu-2.10-arm64": "yes"}),
        ("", "      - tini\n", {"cpu-2.6-arm64": "stale", "mps-2.6-arm64": "yes"}),
    ],
)
def test_locked_is_about_debian_packages_too(added: str, change: str, states: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "images", tmp_path / "images")
    text = (ROOT / "matrix.yaml").read_text()
    assert change in text
    (tmp_path / "matrix.yaml").write_text((text.replace(change, "") if change else text) + added)
    found = {state.cell.id: state.locked for state in overview(Project.find(tmp_path), [], None).cells}
    assert {cell: found[cell] for cell in states} == states


@dataclass
class Served:
    """A repository with one image; whoever asks for a layer gets an AttributeError or an unexpected blob."""

    layout: Layout
    image: Descriptor
    reference: Reference = field(default_factory=lambda: Reference.parse("registry.example/a:x"))
    asked: list[Digest] = field(default_factory=list)

    def manifest(self, _: str) -> Fetched:
        return Fetched(descriptor=self.image, data=self.layout.blob_path(self.image.digest).read_bytes())

    def blob(self, descriptor: Descriptor) -> bytes:
        self.asked.append(descriptor.digest)
        return self.layout.blob_path(descriptor.digest).read_bytes()


def test_verify_refuses_an_image_of_another_architecture_before_it_pulls_it(project: Small) -> None:
    served = Served(project.layout, project.layout.resolve("cpu-2.6-arm64"))
    with pytest.raises(LayoutError, match=r"registry\.example/a:x has no image for amd64"):
        verify(cast("Repository", served), arch="amd64", scratch=None, progress=Silent())
    assert served.asked == [project.layout.manifest(served.image).config.digest]


@pytest.mark.parametrize("full", [("stdout",), ("stdout", "stderr")])
def test_a_full_stdout_is_an_error_and_not_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], full: tuple[str, ...]
) -> None:
    with contextlib.ExitStack() as files:
        for name in full:
            # the last flush, of what could not be written, fails too
            files.enter_context(contextlib.suppress(OSError))
            monkeypatch.setattr(sys, name, files.enter_context(Path("/dev/full").open("w")))
        assert run(monkeypatch, "matrix", "--json") == ExitCode.FILE
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert full != ("stdout",) or said.startswith("error: No space left on device\nhint: ")


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOMEM])
def test_an_error_of_the_system_without_a_file_is_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Project, "find", fail)
    assert run(monkeypatch, "matrix") == ExitCode.FILE
    assert capsys.readouterr().err.startswith(f"error: {os.strerror(number)}\nhint: ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_one_wherever_it_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "new"))

    monkeypatch.setattr(Project, "find", fail)
    assert run(monkeypatch, "matrix") == ExitCode.ENGINE
    said = capsys.readouterr().err
    assert said.startswith(f"error: the disk is full: cannot write {tmp_path}/new\nhint: free some space and run")


def test_an_error_of_the_system_with_a_file_gives_advice_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/some/file")

    monkeypatch.setattr(Project, "find", fail)
    assert run(monkeypatch, "matrix") == ExitCode.FILE
    assert capsys.readouterr().err.startswith("error: /some/file: Input/output error\nhint: the disk or network file")


def test_control_characters_of_an_image_do_not_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    labels = {"org.opencontainers.image.version": "1\x1b[2J\x1b]0;mine\x07", "dev.buildctl.torch": "2.6.0\x9b1A\r"}
    project = small(tmp_path / "p")
    project.build("cpu-2.6-arm64", labels=labels)
    for more in ((), ("--json",)):
        assert run(monkeypatch, "inspect", f"{project.layout.root}:cpu-2.6-arm64", *more) == ExitCode.OK
        said = capsys.readouterr()
        assert not set(said.out + said.err) & {"\x1b", "\x07", "\x9b", "\r"}


@pytest.mark.parametrize(("had", "has"), [(0o000, 0o022), (0o002, 0o022), (0o077, 0o077)])
def test_what_is_written_is_the_user_s_own_whatever_the_umask(
    monkeypatch: pytest.MonkeyPatch, had: int, has: int
) -> None:
    before = os.umask(had)
    try:
        run(monkeypatch, "--version")
        assert os.umask(0o022) == has
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("name", "text", "command", "said"),
    [
        ("matrix.yaml", "python: " + "9" * 5000, ["matrix"], "is a number"),
        ("images/cpu-2.6/claims.arm64.json", "[" * 100_000, ["render", "--check"], "claims.arm64.json"),
    ],
)
def test_a_file_of_the_project_with_anything_in_it_is_one_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    name: str,
    text: str,
    command: list[str],
    said: str,
) -> None:
    small(tmp_path / "p")
    (tmp_path / "p" / name).write_text(text)
    assert run(monkeypatch, "--project", str(tmp_path / "p"), *command) not in {ExitCode.OK, ExitCode.BUG}
    told = capsys.readouterr().err
    assert said in told
    assert len(told) < 2000


def test_a_copy_that_fails_is_one_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise shutil.Error([("/a", "/b", "[Errno 2] No such file or directory: '/a'"), ("/c", "/d", "other")])

    monkeypatch.setattr(Project, "find", fail)
    assert run(monkeypatch, "matrix") == ExitCode.FILE
    assert capsys.readouterr().err == "error: cannot copy /a: [Errno 2] No such file or directory: '/a'\n"
