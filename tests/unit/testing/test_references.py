"""What `buildctl test` expects of an image that is no cell: its own claims, and NOT RUN for what it does not claim."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from buildctl.lock.claims import claim_labels, read_claims
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, ImageConfig, Manifest, MediaType, Platform
from buildctl.registry.target import Image
from buildctl.runtimes.api import Outcome
from buildctl.testing.probes.expected import Expected
from buildctl.testing.probes.findings import findings_of
from buildctl.testing.probes.known import known_findings
from buildctl.testing.references import PROMISES, expected_of_image
from buildctl.testing.report import Status
from tests.conftest import ROOT

CLAIMS = read_claims(ROOT / "images" / "cuda-2.6" / "claims.amd64.json")
OFFICIAL = {"PYTORCH_VERSION": "2.6.0", "CUDA_VERSION": "12.4.1", "PYTHON_VERSION": "3.11.9"}


def image(*, labels: Mapping[str, str] = {}, env: Mapping[str, str] = {}, title: str = "") -> Image:
    config = ImageConfig(platform=Platform(architecture="amd64"), labels=labels, env=tuple(env.items()))
    descriptor = Descriptor(media_type=MediaType.MANIFEST, digest=Digest("a" * 64), size=1)
    manifest = Manifest(config=dataclasses.replace(descriptor, media_type=MediaType.CONFIG), layers=())
    return Image(name="x", descriptor=descriptor, manifest=manifest, config=config, title=title)


class Silent:
    """A session in which every program ends at once and says nothing."""

    emulated = None
    gpus = False
    gpus_reason = "none here"
    ownership = True
    at_once = 1

    def stop(self) -> None:
        pass

    def run(self, *_: Any, **__: Any) -> Outcome:
        return Outcome(returncode=0, stdout="", stderr="", timed_out=False, seconds=0.1)


def statuses(expected: Expected) -> dict[str, Status]:
    return {f.name: f.status for f in findings_of(Silent(), expected)}


def test_our_image_is_held_to_the_claims_in_its_labels() -> None:
    packages = {"torch": "2.6.0"}
    expected = expected_of_image(image(labels=claim_labels([CLAIMS]), title="cuda-2.6-devel"), packages)
    assert (expected.torch, expected.versions.get("cuda"), expected.cudnn) == ("2.6.0", "12.4", CLAIMS.cudnn)
    assert (expected.gpu_architectures, expected.built, expected.never) == (
        CLAIMS.architectures, CLAIMS.built, CLAIMS.never,
    )  # fmt: skip
    assert (expected.flavour, expected.distributions, expected.unclaimed) == ("devel", packages, {})


def test_without_bill_and_title_two_findings_of_ours_are_not_run() -> None:
    expected = expected_of_image(image(labels=claim_labels([CLAIMS])))
    assert set(expected.unclaimed) == {"distributions", "torch.compile"}
    found = statuses(expected)
    assert {name for name, status in found.items() if status is Status.NOT_RUN} == {
        "distributions", "torch.compile", "works on the gpu",
    }  # fmt: skip
    assert found["torch"] is Status.FAILED, "what is claimed and not answered"


def test_an_image_of_others_is_held_to_what_its_environment_says_and_to_no_promise_of_ours() -> None:
    found = statuses(expected_of_image(image(env=OFFICIAL)))
    asked = {name for name, status in found.items() if status is Status.FAILED}
    assert {"platform", "torch", "python", "cuda version", "backends", "matmul on cpu", "two processes"} <= asked
    assert not asked & {*PROMISES, "torchvision", "gpu architectures", "distributions"}
    assert set(PROMISES) - {"cuda libraries"} <= {n for n, s in found.items() if s is Status.NOT_RUN}


def test_an_image_that_says_nothing_is_asked_only_what_holds_for_all() -> None:
    found = statuses(expected_of_image(image()))
    for name in ("torch", "python", "cuda version", "backends", "devices", "no cuda"):
        assert found[name] is Status.NOT_RUN
    assert found["matmul on cpu"] is Status.FAILED


def test_promises_are_findings_that_there_are() -> None:
    assert set(PROMISES) <= set(known_findings())
