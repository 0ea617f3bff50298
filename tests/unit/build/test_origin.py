"""Whether an image in the layout is what the project's files say, and who refuses when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.build.origin import note_origin, note_rebased, outdated
from buildctl.cli.program import cli
from buildctl.ground.errors import BuildctlError
from tests.support.projects import Small, small

CELL = "cpu-2.6-arm64"


@pytest.fixture
def project(tmp_path: Path) -> Small:
    """Its image was built from the files as they are."""
    made = small(tmp_path / "project")
    note_origin(made.project, made.cell(CELL), made.layout.resolve(CELL).digest)
    return made


def why(project: Small) -> str | None:
    return outdated(project.project, project.cell(CELL), project.layout.resolve(CELL).digest)


def change(project: Small, name: str) -> None:
    path = project.project.root / name
    path.write_text(path.read_text() + "\n# changed\n")


def test_what_was_just_built_is_what_the_files_say(project: Small) -> None:
    assert why(project) is None


@pytest.mark.parametrize(
    "name",
    [
        "images/cpu-2.6/Dockerfile",
        "images/cpu-2.6/requirements.arm64.txt",
        "images/common/entrypoint",
        "images/bases/debian13/runtime.arm64.packages",
    ],
)
def test_the_file_that_has_changed_since_is_named(project: Small, name: str) -> None:
    change(project, name)
    assert why(project) == f"it was built before {name} changed"


def test_files_of_other_images_do_not_matter(project: Small) -> None:
    change(project, "images/cuda-2.6/Dockerfile")
    change(project, "images/bases/debian13/runtime.amd64.packages")
    assert why(project) is None


def test_about_another_image_nothing_is_known(project: Small) -> None:
    change(project, "images/cpu-2.6/Dockerfile")
    project.build(CELL)
    assert why(project) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"image": 1, "inputs": []}'])
def test_a_damaged_note_says_nothing(project: Small, text: str) -> None:
    (project.project.layout / "origins" / f"{CELL}.json").write_text(text)
    assert why(project) is None


def test_a_rebased_image_has_the_packages_that_are_locked_now_and_the_rest_as_it_was(project: Small) -> None:
    change(project, "images/bases/debian13/runtime.arm64.packages")
    before = project.layout.resolve(CELL).digest
    after = project.build(CELL).digest
    note_rebased(project.project, project.cell(CELL), before, after)
    assert why(project) is None
    change(project, "images/cpu-2.6/Dockerfile")
    assert why(project) == "it was built before images/cpu-2.6/Dockerfile changed"


def edit(project: Small, old: str, new: str) -> None:
    matrix = project.project.root / "matrix.yaml"
    assert old in matrix.read_text()
    matrix.write_text(matrix.read_text().replace(old, new))


NOWHERE = "127.0.0.1:9/team/pytorch"


def run(project: Small, *command: str) -> BuildctlError:
    with pytest.raises(BuildctlError) as refused:
        cli.main(["--project", str(project.project.root), *command], standalone_mode=False)
    return refused.value


def test_an_image_from_before_a_change_is_not_published(project: Small, capsys: pytest.CaptureFixture[str]) -> None:
    edit(project, "devices: {never: [cuda]}", "devices: {never: [cuda]}, env: {ODD: '1'}")
    drifted = run(project, "publish", "cpu-2.6", "--to", NOWHERE)
    assert drifted.exit_code == 4
    assert drifted.message.endswith(", 1 rendered file would have to change:\n  images/cpu-2.6/Dockerfile")
    where = ["--project", str(project.project.root)]
    cli.main([*where, "render", "cpu-2.6"], standalone_mode=False)
    refused = run(project, "publish", "cpu-2.6", "--to", NOWHERE)
    assert refused.exit_code == 4
    assert refused.message == f"{CELL}: it was built before images/cpu-2.6/Dockerfile changed"
    assert refused.hint == "buildctl build cpu-2.6, then `buildctl test`"
    cli.main([*where, "tags", "cpu-2.6"], standalone_mode=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "built before images/cpu-2.6/Dockerfile changed: run `buildctl build`" in told


def test_what_matrix_yaml_asks_for_and_nobody_locked_is_not_published(project: Small) -> None:
    edit(project, "packages: [numpy]", "packages: [numpy, six]")
    refused = run(project, "publish", "cpu-2.6", "--to", NOWHERE)
    assert refused.exit_code == 4
    assert "images/cpu-2.6/requirements.arm64.txt: the matrix asks for six" in refused.message


def test_an_origin_that_became_a_folder_is_written_again(project: Small) -> None:
    path = project.project.layout / "origins" / f"{CELL}.json"
    path.unlink()
    path.unlink(missing_ok=True)  # the project is shared, and others build it
    (path / "inside").mkdir(parents=True)
    note_origin(project.project, project.cell(CELL), project.images(CELL)[CELL].digest)
    assert path.is_file()
