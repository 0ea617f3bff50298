from __future__ import annotations

from pathlib import Path

from buildctl.lock.debian import write_base_lock
from buildctl.matrix.project import Project
from tests.support.projects import base_lock, small


def test_a_base_is_known_by_the_python_that_it_names_else_by_its_lock(tmp_path: Path) -> None:
    project = Project.find(small(tmp_path / "project").project.root)
    path = project.root / "matrix.yaml"
    path.write_text(
        path.read_text()
        .replace('python: "3.13"', 'python: ["3.13", "3.11"]')
        .replace("  debian13:", "  debian12: {debian: bookworm, packages: [python3]}\n  debian13:")
        .replace("base: debian13", "base: [debian13, debian12]")
    )

    def bases() -> dict[str, str]:
        return {c.python: c.base.name for c in Project.find(project.root).matrix.cells if c.accelerator.name == "cpu"}

    assert bases() == {"3.13": "debian13", "3.11": "debian12"}  # it may have 3.11
    name = "bases/debian12/runtime.arm64.packages"
    write_base_lock(project.images / name, base_lock(project, "arm64", python="3.13", name="debian12"))
    (project.images / "bases/debian13/runtime.arm64.packages").unlink()
    (project.images / "bases/debian13/runtime.amd64.packages").unlink(missing_ok=True)
    assert bases() == {"3.13": "debian12", "3.11": "debian13"}
    path.write_text(path.read_text().replace("packages: [python3]}", "packages: [python3.11]}", 1))
    assert bases()["3.11"] == "debian12"
