from __future__ import annotations

import pytest

from buildctl.host.requirement import asked_cuda, cuda_of, unmet

OFFICIAL = "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=tesla,driver>=535,driver<536"


@pytest.mark.parametrize(
    ("text", "driver", "reason"),
    [
        ("cuda>=12.4", "550.54.15", ""),
        ("cuda>=12.4", "545.23", "it requires CUDA 12.4, driver 545.23 has CUDA 12.3"),
        ("cuda>=12.0", "525.60", ""),
        ("cuda>=99.0", "999.1", ""),  # newer than anything known here
        (OFFICIAL, "560.35", ""),
        (OFFICIAL, "535.161", "has CUDA 12.2, unless the GPU's brand is tesla"),
        (OFFICIAL, "545.23", "has CUDA 12.3"),
        ("driver>=470,driver<471", "470.1", ""),
        ("driver>=470,driver<471", "471.0", "it requires driver>=470,driver<471"),
        ("cuda>=11.0", "390.1", "has CUDA before 11"),
        ("", "390.1", ""),
        ("nonsense cuda>=x", "550.1", "it requires nonsense or cuda>=x"),
    ],
)
def test_what_a_driver_lacks_is_said(text: str, driver: str, reason: str) -> None:
    assert reason in unmet(text, driver)
    assert bool(reason) == bool(unmet(text, driver))


def test_an_exception_for_another_driver_is_not_mentioned() -> None:
    assert "brand" not in unmet(OFFICIAL, "545.23")


def test_versions() -> None:
    assert (cuda_of("449.1"), cuda_of("536.0"), asked_cuda(OFFICIAL), asked_cuda("driver>=5")) == (
        None,
        "12.2",
        "12.4",
        None,
    )
