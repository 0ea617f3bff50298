"""In which order wheels are downloaded, and when a layer or an image has what it needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from buildctl.artifacts.wheels.layer import estimated_work
from buildctl.artifacts.wheels.wheel import Site
from buildctl.build.assemble import Recipe
from buildctl.build.recipes import WheelsSource
from buildctl.build.supply import Supply, in_order
from buildctl.ground.errors import FetchError
from buildctl.lock.wheels import LockedWheel
from buildctl.oci.compression import ZSTD
from buildctl.oci.digest import Digest

MB = 1_000_000
LIBRARY, PURE = "-1-cp313-cp313-manylinux_2_28_x86_64.whl", "-1-py3-none-any.whl"


def wheel(name: str, size: int) -> LockedWheel:
    package = name.partition("-")[0]
    return LockedWheel(name=package, version="1", filename=name, size=size, digest=Digest.of(name.encode()))


def recipe(*wheels: LockedWheel) -> Recipe:
    source = WheelsSource(wheels=wheels, site=Site(), compiling=cast("Any", None))
    weight = estimated_work((w.filename, w.size) for w in wheels)
    return Recipe(key=wheels[0].name, label=wheels[0].name, weight=weight, source=source, compression=ZSTD)


TORCH, CUDNN, NVTX = (wheel(f"{n}{LIBRARY}", s * MB) for n, s in (("torch", 770), ("cudnn", 660), ("nvtx", 1)))
SYMPY, NUMPY = wheel(f"sympy{PURE}", 6 * MB), wheel(f"numpy{LIBRARY}", 16 * MB)


def test_much_work_for_few_bytes_comes_first_then_the_most_work() -> None:
    recipes = [recipe(NVTX), recipe(CUDNN), recipe(SYMPY, NUMPY), recipe(TORCH)]
    assert [one.label for one in in_order(recipes)] == ["sympy", "torch", "cudnn", "nvtx"]


@dataclass
class Arriving:
    """Downloads that arrive when the test says so."""

    coming: set[Digest]
    failure: Exception | None = None

    def still_coming(self) -> frozenset[Digest]:
        if self.failure:
            raise self.failure
        return frozenset(self.coming)


@dataclass
class Session:
    """Notes what is hashed."""

    hashed: list[str] = field(default_factory=list)

    def hash_inputs(self, recipes: list[Recipe]) -> None:
        self.hashed += [one.label for one in recipes]


@dataclass
class Image:
    """As much of a planned image as is looked at."""

    layers: tuple[Recipe, ...]

    @property
    def recipe(self) -> Image:
        return self


def test_a_layer_is_ready_and_an_image_is_checked_when_the_last_wheel_is_here() -> None:
    small, big = recipe(SYMPY, NUMPY), recipe(TORCH)
    arriving, session, checked = Arriving({SYMPY.digest, NUMPY.digest, TORCH.digest}), Session(), list[Any]()
    whole, half = Image((small, big)), Image((small,))
    supply = Supply(
        session=cast("Any", session),
        downloads=cast("Any", arriving),
        coming=arriving.still_coming(),
        unchecked=cast("Any", [whole, half]),
        check=checked.append,
    )
    assert not supply.ready(small)
    arriving.coming -= {SYMPY.digest}
    supply.look()
    assert not supply.ready(small)
    arriving.coming -= {NUMPY.digest}
    supply.look()
    assert supply.ready(small)
    assert not supply.ready(big)
    assert (checked, session.hashed) == ([half], ["sympy"])
    arriving.coming.clear()
    supply.look()
    supply.look()
    assert supply.ready(big)
    assert (checked, session.hashed) == ([half, whole], ["sympy", "torch"])
    supply.unchecked = cast("Any", [half])
    arriving.coming = {SYMPY.digest}  # of no use: another process has made the layer
    supply.finish()
    assert checked == [half, whole, half]
    arriving.failure = FetchError("gone")
    with pytest.raises(FetchError, match="gone"):
        supply.look()
