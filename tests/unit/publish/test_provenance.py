"""Provenance, by in-toto's own definition of a statement and of SLSA's predicate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict, ParseError  # type: ignore[import-untyped]
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]

from buildctl.ground.errors import UsageError
from buildctl.lock.debian import read_base_lock
from buildctl.lock.locked import load_locked
from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, MediaType
from buildctl.publish.provenance import PREDICATE, CiRun, provenance_document, statement
from tests.conftest import ROOT

IMAGE = Descriptor(media_type=MediaType.MANIFEST, digest=Digest("a" * 64), size=1)
BUILDER = "https://ci.example.invalid/workflow"
CELLS = ("cuda-2.6-amd64", "cpu-2.6-devel-arm64")


def cell_of(project: Project, cell_id: str) -> Cell:
    return next(c for c in project.matrix.cells if c.id == cell_id)


def made(project: Project, cell_id: str) -> dict[str, Any]:
    (locked,) = load_locked(project, [cell_of(project, cell_id)])
    return statement(project, locked, IMAGE, run=CiRun(builder=BUILDER))


@pytest.mark.parametrize("cell_id", CELLS)
def test_it_is_an_in_toto_statement_with_a_slsa_predicate(cell_id: str, project: Project) -> None:
    value = made(project, cell_id)
    Statement.copy_from_pb(ParseDict(value, statement_pb2.Statement())).validate()
    assert value["predicateType"] == PREDICATE == "https://slsa.dev/provenance/v1"
    predicate = ParseDict(value["predicate"], Provenance())  # refuses fields that SLSA does not have
    assert predicate.build_definition.build_type.partition(":")[0] in {"urn", "https"}
    assert predicate.run_details.builder.id == BUILDER
    assert predicate.build_definition.external_parameters["image"] == cell_of(project, cell_id).image


def test_a_field_that_slsa_does_not_have_would_be_seen(project: Project) -> None:
    predicate = made(project, CELLS[0])["predicate"]
    with pytest.raises(ParseError, match="materials"):
        ParseDict(predicate | {"materials": []}, Provenance())


@pytest.mark.parametrize("cell_id", CELLS)
def test_every_input_is_there_with_its_hash(cell_id: str, project: Project) -> None:
    cell, value = cell_of(project, cell_id), made(project, cell_id)
    inputs = value["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert all(set(i["digest"]) == {"sha256"} for i in inputs)
    digests = {i["digest"]["sha256"] for i in inputs}
    wheels = read_wheel_lock(project.wheel_lock(cell.name, cell.arch)).wheels
    packages = [p for path in project.debian_locks(cell) for p in read_base_lock(path).packages]
    files = [project.dockerfile(cell.name), project.wheel_lock(cell.name, cell.arch), *project.debian_locks(cell)]
    expected = (
        {w.digest.hex for w in wheels} | {p.digest.hex for p in packages} | {Digest.of_file(path).hex for path in files}
    )
    assert digests == expected
    assert f"pkg:pypi/torch@{cell.torch}".replace("+", "%2B") in {i.get("uri") for i in inputs}


def test_it_names_the_image_by_digest_and_no_host(project: Project) -> None:
    value = made(project, CELLS[0])
    assert value["subject"] == [{"name": CELLS[0], "digest": {"sha256": IMAGE.digest.hex}}]
    without = json.dumps(value).replace(BUILDER, "")
    for known in (value["_type"], PREDICATE):
        without = without.replace(known, "")
    assert "://" not in without
    assert str(ROOT) not in without


def test_the_same_inputs_give_the_same_bytes(project: Project) -> None:
    (locked,) = load_locked(project, [cell_of(project, CELLS[0])])
    first, second = (provenance_document(project, locked, IMAGE, run=CiRun(builder=BUILDER)) for _ in range(2))
    assert first == second
    assert first.annotations == {"in-toto.io/predicate-type": PREDICATE}


def test_a_run_of_a_workflow_is_named_with_repository_and_commit(project: Project) -> None:
    run = CiRun.parse(builder=BUILDER, source=f"git+https://git.example.invalid/a/b@{'1' * 40}", invocation="urn:run:7")
    (locked,) = load_locked(project, [cell_of(project, CELLS[0])])
    value = statement(project, locked, IMAGE, run=run)["predicate"]
    ParseDict(value, Provenance())
    source = value["buildDefinition"]["resolvedDependencies"][0]
    assert source == {"uri": "git+https://git.example.invalid/a/b", "digest": {"gitCommit": "1" * 40}}
    assert value["runDetails"]["metadata"] == {"invocationId": "urn:run:7"}


@pytest.mark.parametrize("source", ["main", "git+https://x/y", "git+https://x/y@main", "@" + "1" * 40, "x@123"])
def test_a_source_without_a_whole_commit_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="is not REPOSITORY@COMMIT"):
        CiRun.parse(builder=None, source=source, invocation=None)
