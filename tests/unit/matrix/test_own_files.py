"""A team's own code in an image: wheels, files, user, env and labels under `images` of matrix.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import ProblemsError
from buildctl.matrix.cells import Cell
from buildctl.matrix.read import parse_matrix
from tests.support.projects import MATRIX

NAMES = ("ours-1.0-py3-none-any.whl", "ours-1.10-py3-none-any.whl", "a.b-2-cp313-cp313-linux_x86_64.whl")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*(f"images/wheels/{name}" for name in NAMES), "images/app/main.py", "outside/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def parse(root: Path, more: str) -> Cell:
    text = MATRIX.format(cuda_arm="", more="") + f"  mps: {{native: macos, arch: [arm64]}}\nimages:\n{more}"
    return next(c for c in parse_matrix(text, root / "matrix.yaml").cells if c.id == "cpu-2.6-arm64")


def test_all_that_matches_adds_up_and_the_last_word_counts(root: Path) -> None:
    found = parse(
        root,
        '  "*": {wheels: [wheels], env: {A: "1", B: "2"}, labels: {org.example.team: ml}, user: "0"}\n'
        "  cpu-2.6: {wheels: [wheels/ours-1.10-py3-none-any.whl], files: {app: /app, app/main.py: /opt/run.py},\n"
        '            user: "1234:5", env: {B: "3"}}\n',
    )
    assert found.wheels == (f"wheels/{NAMES[2]}", f"wheels/{NAMES[1]}")
    assert found.requirements == ("torch==2.6.0", "numpy", "a-b==2", "ours==1.10")
    assert found.files == (("app/", "/app/"), ("app/main.py", "/opt/run.py"))
    assert (found.user, dict(found.env), found.labels) == (
        "1234:5",
        {"A": "1", "B": "3"},
        (("org.example.team", "ml"),),
    )


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("wheels: [nothing]", "wheels[0]: images/nothing is neither a wheel nor a folder of wheels"),
        ("wheels: [app]", "wheels[0]: no wheel in images/app"),
        ("wheels: [app/main.py]", "wheels[0]: images/app/main.py is neither a wheel nor a folder of wheels"),
        ("wheels: [../outside]", "wheels[0]: '../outside' is not a relative path inside the project, of letters"),
        ("wheels: [links]", "wheels[0]: images/links/a-1-py3-none-any.whl is a link to nothing"),
        ("wheels: [tree/b-1-py3-none-any.whl]", "images/tree/b-1-py3-none-any.whl leads out of images/"),
        ("wheels: [odd]", "wheels[0]: Invalid wheel filename"),
        ("files: {nothing: /app}", "files.nothing: no such file or folder: images/nothing"),
        ("files: {out: /app}", "files.out: images/out leads out of images/, which is all that a build sees"),
        ("files: {app: app}", "files.app: 'app' is not an absolute path of letters, digits and . _ + -, without '..'"),
        ("files: {app: /a b}", "files.app: '/a b' is not an absolute path of letters, digits and . _ + -, without"),
        ("files: {app: /workspace/app}", "files.app: /workspace/app is in a folder that every user may write to"),
        ("files: {app: /home/torch}", "files.app: /home/torch is in a folder that every user may write to"),
        ("files: {app: /tmp/app}", "files.app: /tmp/app is in a folder that every user may write to"),
        ("files: {app: /run/app}", "files.app: /run/app is hidden in a container"),
        ("files: {app/main.py: /bin/}", 'files["app/main.py"]: /bin/main.py is a link in the image (use /usr/bin)'),
        ("files: {app/main.py: /root/x}", "/root/x is root's own folder"),
        ("files: {tree: /var}", "files.tree: /var/tmp is in a folder that every user may write to"),
        ("files: {tree/empty: /app}", 'files["tree/empty"]: the folder is empty'),
        ('labels: {org.opencontainers.image.title: "9"}', "this label is buildctl's own claim about the image"),
        ("user: app", "user: 'app' is not a quoted UID or UID:GID in numbers"),
        ('labels: {dev.buildctl.torch: "9"}', "this label is buildctl's own claim about the image"),
        ("env: {A: '$B'}", "env.A: '$B' is not a value of printable ASCII characters"),
    ],
)
def test_what_cannot_be_is_told_with_key_and_line(root: Path, entry: str, problem: str) -> None:
    (root / "images/odd").mkdir()
    (root / "images/odd/x.whl").write_text("x")
    for folder in ("tree/tmp", "tree/empty"):
        (root / "images" / folder).mkdir(parents=True)
    (root / "images/links").mkdir()
    (root / "images/links/a-1-py3-none-any.whl").symlink_to("gone")
    (root / "images/tree/b-1-py3-none-any.whl").symlink_to(root / "outside/x")
    (root / "images/out").symlink_to(root / "outside")
    with pytest.raises(ProblemsError) as caught:
        parse(root, f"  cpu-2.6: {{{entry}}}\n")
    (found,) = caught.value.problems
    assert found.startswith("line ")
    assert problem in found


def test_a_file_goes_into_a_place_with_a_slash_at_the_end(root: Path) -> None:
    assert parse(root, "  cpu-2.6: {files: {app/main.py: /opt/}}\n").files == (("app/main.py", "/opt/main.py"),)


def test_a_native_environment_is_no_image(root: Path) -> None:
    with pytest.raises(ProblemsError, match=r"files: mps-2.6: a native environment is no image, and has no files"):
        parse(root, "  mps-2.6: {files: {app: /app}}\n")
