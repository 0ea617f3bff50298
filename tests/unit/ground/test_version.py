from __future__ import annotations

from pathlib import Path

from buildctl import __version__
from buildctl.ground.version import COMMIT, commit, described, source


def test_it_says_which_of_the_two_buildctls_it_is() -> None:
    assert described().startswith(f"buildctl {__version__} for PyTorch images")


def test_a_wheel_knows_its_commit(tmp_path: Path) -> None:
    (tmp_path / COMMIT).write_text("0123456789ab\n")
    assert commit(tmp_path) == "0123456789ab"


def test_without_a_repository_the_commit_is_not_known(tmp_path: Path) -> None:
    assert commit(tmp_path / "buildctl") is None


def test_what_installs_it_again_is_its_release() -> None:
    assert source() == f"buildctl=={__version__}"
