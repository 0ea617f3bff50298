"""The constraints file of an image: what pip and uv read, and what it lets through."""

from __future__ import annotations

from packaging.requirements import Requirement

from buildctl.dockerfile.constraints import render_constraints
from buildctl.lock.wheels import LockedWheel, WheelLock
from buildctl.oci.digest import Digest


def lock(arch: str, **versions: str) -> WheelLock:
    wheels = tuple(
        LockedWheel(name=name, version=version, filename=f"{name}.whl", size=1, digest=Digest.of(name.encode()))
        for name, version in sorted(versions.items())
    )
    return WheelLock(name="x", platform=f"linux/{arch}", python="3.13", inputs=Digest.of(b""), wheels=wheels)


def requirements(*locks: WheelLock) -> list[Requirement]:
    text = render_constraints("cuda-2.6", {each.arch: each for each in locks})
    return [Requirement(line) for line in text.splitlines() if not line.startswith("#")]


def test_what_the_tag_claims_is_kept_and_nothing_else() -> None:
    found = requirements(lock("amd64", torch="2.6.0", numpy="2.2.6", triton="3.2.0", torchvision="0.21.0"))
    assert [r.name for r in found] == ["torch", "torchvision", "triton"]
    assert all(r.marker is None for r in found)


def test_another_local_version_is_another_torch() -> None:
    """PyTorch's own index serves 2.6.0+cu126 as well, which `==2.6.0` would let through."""
    (plain,) = requirements(lock("amd64", torch="2.6.0"))
    versions = ("2.6.0", "2.6.0+cu124", "2.6.0+cu126", "2.6.1", "2.15.0", "2.5.1")
    assert list(plain.specifier.filter(versions)) == ["2.6.0"]
    (local,) = requirements(lock("amd64", torch="2.6.0+cu124"))
    assert list(local.specifier.filter(versions)) == ["2.6.0+cu124"]


def test_where_architectures_differ_lines_have_markers() -> None:
    found = requirements(lock("arm64", torch="2.6.0"), lock("amd64", torch="2.6.0", triton="3.2.0"))
    assert [(r.name, str(r.marker or "")) for r in found] == [
        ("torch", ""),
        ("triton", 'platform_machine == "x86_64"'),
    ]
    local = requirements(lock("arm64", torch="2.6.0+cpu"), lock("amd64", torch="2.6.0+cu124"))
    by_machine = {
        m: [str(r.specifier) for r in local if r.marker and r.marker.evaluate({"platform_machine": m})]
        for m in ("x86_64", "aarch64")
    }
    assert [s.count("+cu124") for s in by_machine["x86_64"]] == [1]
    assert [s.count("+cpu") for s in by_machine["aarch64"]] == [1]


def test_the_file_says_how_to_switch_it_off_and_so_does_every_line_that_pip_prints() -> None:
    text = render_constraints("cuda-2.6", {"amd64": lock("amd64", torch="2.6.0", triton="3.2.0")})
    assert "cuda-2.6 is PyTorch 2.6.0" in text
    assert "#     PIP_CONSTRAINT= pip install" in text
    assert "#     UV_CONSTRAINT= uv pip install" in text
    assert all("empty.PIP_CONSTRAINT" in line for line in text.splitlines() if not line.startswith("#"))
