"""Names that `buildctl check` knows besides those of claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import ImpossibleError
from buildctl.host.catalogue import catalogue
from buildctl.host.facts import read_host
from buildctl.host.verdict import decide
from buildctl.matrix.project import Project
from buildctl.publish.named import subjects_named
from tests.conftest import ROOT

HOSTS = Path(__file__).parents[2] / "support" / "hosts"
NOT_BUILT = ROOT / "no-layout"


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("cuda-2.6-devel", ["cuda-2.6-devel"]),
        ("cuda-2.15-amd64", ["cuda-2.15-amd64"]),
        ("pytorch:cuda-2.6", ["cuda-2.6"]),
        ("cpu-*-devel", ["cpu-2.6-devel", "cpu-2.10-devel"]),
        ("2.6", ["2.6"]),
        ("2.6-cuda12.4-devel", ["2.6-cuda12.4-devel"]),
        ("2.15.0-cuda13.2-py3.13-20261122", ["2.15.0-cuda13.2-py3.13-20261122"]),
    ],
)
def test_flavours_architectures_globs_and_tags_are_known(asked: str, names: list[str]) -> None:
    found = subjects_named(Project.find(ROOT, layout=NOT_BUILT), catalogue(ROOT, NOT_BUILT), asked, "amd64")
    assert [s.name for s in found] == names


def test_a_tag_starts_the_image_that_it_means_on_the_hosts_architecture() -> None:
    project, known = Project.find(ROOT, layout=NOT_BUILT), catalogue(ROOT, NOT_BUILT)
    for host, arch, command in [("h200", "amd64", "pytorch:cuda-2.6"), ("arm64-server", "arm64", "pytorch:cpu-2.6")]:
        (subject,) = subjects_named(project, known, "2.6", arch)
        assert decide(subject, read_host(HOSTS / f"{host}.json"), known).next_step.endswith(command)
    with pytest.raises(ImpossibleError, match="CUDA builds"):
        subjects_named(project, known, "cpu-2.15", "amd64")
