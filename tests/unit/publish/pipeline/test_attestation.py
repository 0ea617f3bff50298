"""What an attestation says, as GitHub's action writes it. In a registry: tests/integration/publish/test_handover.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from buildctl.oci.digest import Digest
from buildctl.publish.pipeline.attestation import Origin, attested
from tests.support.attestations import BUILDER, COMMIT, attestation, bundle_of

IMAGE = Digest("a" * 64)


def test_a_workflow_and_its_commit_are_read() -> None:
    found = attested([bundle_of(attestation(IMAGE))], IMAGE)
    assert found == {Origin(builder=BUILDER, commit=COMMIT)}


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another image": lambda v: v["subject"][0]["digest"].update(sha256="b" * 64),
    "another predicate": lambda v: v.update(predicateType="https://sigstore.dev/cosign/sign/v1"),
    "no predicate": lambda v: v.update(predicate=None),
    "no builder": lambda v: v["predicate"]["runDetails"].clear(),
    "no subject": lambda v: v.pop("subject"),
    "a list": lambda v: v["predicate"].update(buildDefinition=[]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_anything_else_is_left_out(change: Callable[[dict[str, Any]], object]) -> None:
    value = attestation(IMAGE)
    change(value)
    assert attested([bundle_of(value)], IMAGE) == frozenset()


def test_a_bundle_of_a_key_is_no_attestation_of_a_workflow() -> None:
    assert attested([bundle_of(attestation(IMAGE), certificate=False)], IMAGE) == frozenset()


def test_without_a_commit_it_names_the_builder_alone() -> None:
    value = attestation(IMAGE)
    value["predicate"]["buildDefinition"]["resolvedDependencies"] = []
    assert attested([bundle_of(value)], IMAGE) == {Origin(builder=BUILDER, commit="")}
