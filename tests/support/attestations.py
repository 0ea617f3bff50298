"""SLSA provenance as GitHub's `actions/attest` signs it, in the shape of its documentation; nobody vouches for it."""

from __future__ import annotations

import base64
import json
from typing import Any

from buildctl.oci.digest import Digest
from buildctl.publish.provenance import PREDICATE, STATEMENT
from buildctl.publish.sign import BUNDLE_KIND, PAYLOAD_KIND, Bundle

COMMIT = "1" * 40
SOURCE = "https://git.example.invalid/some/images"
BUILDER = f"{SOURCE}/.github/workflows/build.yml@refs/heads/main"


def attestation(image: Digest, *, builder: str = BUILDER, commit: str = COMMIT) -> dict[str, Any]:
    """The statement about that image."""
    workflow = {"ref": "refs/heads/main", "repository": SOURCE, "path": ".github/workflows/publish.yml"}
    return {
        "_type": STATEMENT,
        "subject": [{"name": "registry.example/some/images", "digest": {"sha256": image.hex}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": "https://actions.github.io/buildtypes/workflow/v1",
                "externalParameters": {"workflow": workflow},
                "internalParameters": {"github": {"event_name": "push", "runner_environment": "github-hosted"}},
                "resolvedDependencies": [{"uri": f"git+{SOURCE}@refs/heads/main", "digest": {"gitCommit": commit}}],
            },
            "runDetails": {
                "builder": {"id": builder},
                "metadata": {"invocationId": f"{SOURCE}/actions/runs/7/attempts/1"},
            },
        },
    }


def bundle_bytes(statement: dict[str, Any], *, certificate: bool = True) -> bytes:
    """As it is attached."""
    raw = base64.b64encode(b"unsigned").decode()
    material = {"certificate": {"rawBytes": raw}} if certificate else {"publicKey": {"hint": raw}}
    envelope = {
        "payload": base64.b64encode(json.dumps(statement).encode()).decode(),
        "payloadType": PAYLOAD_KIND,
        "signatures": [{"sig": raw}],
    }
    return json.dumps({"mediaType": BUNDLE_KIND, "verificationMaterial": material, "dsseEnvelope": envelope}).encode()


def bundle_of(statement: dict[str, Any], *, certificate: bool = True) -> Bundle:
    return Bundle.parse(bundle_bytes(statement, certificate=certificate))
