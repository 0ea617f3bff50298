"""What is said of an image that is too large: what grew, by layer and package."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from buildctl.artifacts.contents import Package
from buildctl.matrix.policy import Limit
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, History, ImageConfig, MediaType, Platform
from buildctl.publish.diff import Side, difference
from buildctl.publish.pipeline.growth import by_content, grown, too_large

LIMIT = Limit(glob="cpu-*", where='line 9: publish.max-size["cpu-*"]', most=300_000_000)
BASE = "buildctl: 100 Debian packages (trixie, runtime)"
TORCH = 'RUN --mount=type=secret,id=ca ["install-wheels", "torch==2.6.0"]'


def side(name: str, layers: Mapping[str, int], **packages: str) -> Side:
    found = tuple(
        Descriptor(media_type=MediaType.LAYER_ZSTD, digest=Digest.of(f"{step} {size}".encode()), size=size)
        for step, size in layers.items()
    )
    return Side(
        name=name,
        descriptor=Descriptor(media_type=MediaType.MANIFEST, digest=Digest.of(name.encode()), size=1),
        config=ImageConfig(
            platform=Platform(architecture="arm64"), history=tuple(History(created_by=step) for step in layers)
        ),
        layers=found,
        packages=tuple(Package(kind="pypi", name=n, version=v) for n, v in packages.items()),
    )


BEFORE = side(
    "r.example/a/b:cpu-2.6", {BASE: 40_000_000, TORCH: 95_000_000, "COPY a /": 1_000}, torch="2.6.0", numpy="2.2.6"
)
NOW = side(
    "cpu-2.6-arm64",
    {
        "buildctl: 101 Debian packages (trixie, runtime)": 41_000_000,
        TORCH.replace("2.6.0", "2.6.1"): 205_000_000,
        'RUN ["install-wheels", "a==1", "b==2"]': 60_000_000,
        "COPY --link a /": 1_000,
    },
    torch="2.6.1",
    scipy="1.15.0",
)


def test_a_layer_is_known_by_what_is_in_it_whatever_the_version() -> None:
    assert by_content(NOW) == {
        "Debian packages": 41_000_000,
        "torch": 205_000_000,
        "wheels that share layers": 60_000_000,
        "COPY a /": 1_000,
    }


def test_what_grew_is_named_the_largest_first() -> None:
    said = too_large(NOW, LIMIT, difference(BEFORE, NOW))
    assert said == (
        '306 MB, more than 300 MB (line 9: publish.max-size["cpu-*"]); the tag cpu-2.6 has 135 MB: '
        "torch +110 MB, wheels that share layers +60.0 MB, Debian packages +1.00 MB; "
        "+ pypi scipy 1.15.0, ~ pypi torch 2.6.0 -> 2.6.1, - pypi numpy 2.2.6"
    )


@pytest.mark.parametrize("change", [None, difference(NOW, NOW)], ids=["no tag", "the tag has it"])
def test_without_anything_to_compare_with_the_largest_layers_are_named(change: None) -> None:
    assert grown(NOW, change) == (
        "its largest layers: torch 205 MB, wheels that share layers 60.0 MB, Debian packages 41.0 MB, COPY a / 1.00 kB"
    )


def test_up_to_the_limit_it_may_be() -> None:
    exact = Limit(glob="*", where="x", most=NOW.size)
    assert too_large(NOW, exact) == too_large(NOW, None) == ""
