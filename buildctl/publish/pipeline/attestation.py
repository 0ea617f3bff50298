"""What GitHub's `actions/attest` says of an image: which workflow built it, of which commit, in which run.

It is SLSA provenance in a Sigstore bundle, attached as cosign's signatures are. Its certificate is not checked here, so
it is compared with our own provenance and counts as a second claim; `gh attestation verify` checks it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from buildctl.oci.digest import Digest
from buildctl.publish.provenance import PREDICATE
from buildctl.publish.sign import Bundle


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Origin:
    """Who built an image of which commit, as SLSA provenance says it; empty where it does not."""

    builder: str
    commit: str

    @classmethod
    def of(cls, predicate: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or AttributeError for what is not SLSA provenance."""
        inputs = predicate["buildDefinition"].get("resolvedDependencies", ())
        commits = [one["digest"]["gitCommit"] for one in inputs if "gitCommit" in one.get("digest", {})]
        return cls(builder=str(predicate["runDetails"]["builder"]["id"]), commit=str(commits[0]) if commits else "")


def attested(found: Iterable[Bundle], image: Digest) -> frozenset[Origin]:
    """What bundles with a certificate say about that image; anything else in them is left out."""
    return frozenset(
        origin for bundle in found if bundle.certificate and (origin := _origin(bundle, image)) is not None
    )


def _origin(bundle: Bundle, image: Digest) -> Origin | None:
    try:
        value = json.loads(bundle.payload)
        subjects = {one["digest"].get("sha256") for one in value["subject"]}
        if value["predicateType"] != PREDICATE or image.hex not in subjects:
            return None
        return Origin.of(value["predicate"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
