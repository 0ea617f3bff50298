from __future__ import annotations

from pathlib import Path

from buildctl.matrix.cells import Cell
from buildctl.matrix.read import parse_matrix
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, MediaType
from buildctl.publish.move import TagOutcome, TagState
from buildctl.publish.result import Candidate, Published, Pushed
from buildctl.publish.tags import TagKind
from buildctl.testing.report import Finding, Report, Status
from tests.unit.publish.test_tags import MATRIX

CUDA, CPU, *_ = [
    cell for cell in parse_matrix(MATRIX.format(cuda="amd64"), Path("m")).cells if cell.flavour == "runtime"
]
DIGEST = Digest("a" * 64)


def candidate(cell: Cell, *not_run: str, objection: str | None = None) -> Candidate:
    findings = [Finding(name="torch", status=Status.PASSED, detail="", seconds=0.1)]
    findings += [Finding(name=name, status=Status.NOT_RUN, detail="", seconds=0.1) for name in not_run]
    report = Report(
        cell=cell.id, digest=DIGEST, arch=cell.arch, runtime="r", emulated=None, gpus=False, findings=tuple(findings)
    )
    descriptor = Descriptor(media_type=MediaType.MANIFEST, digest=DIGEST, size=1)
    return Candidate(cell=cell, descriptor=descriptor, report=report, objection=objection)


def tag(outcome: TagOutcome) -> TagState:
    return TagState(
        name="2.6", kind=TagKind.UNIVERSAL, outcome=outcome, digest=DIGEST, platforms={"linux/amd64": CUDA.id}
    )


def result(*candidates: Candidate, outcome: TagOutcome = TagOutcome.CREATED, dry_run: bool = False) -> Published:
    images = tuple(Pushed(candidate=c, sent=1_500_000, new=2, there=1, mounted=3) for c in candidates)
    return Published(
        repository="r.example/a",
        images=images,
        tags=(tag(outcome),),
        dry_run=dry_run,
        signed=True,
        candidates=candidates,
    )


def test_only_a_tag_that_was_refused_fails() -> None:
    assert [result(outcome=outcome).exit_code for outcome in TagOutcome] == [
        int(outcome is TagOutcome.REFUSED) for outcome in TagOutcome
    ]


def test_what_was_sent_is_a_table_with_its_sum() -> None:
    lines = result(candidate(CUDA), candidate(CPU)).text().splitlines()
    assert lines[0].split() == ["CELL", "SENT", "BLOBS", "THERE", "DIGEST"]
    assert lines[1].split() == [CUDA.id, "1.50", "MB", "2", "4", f"sha256:{DIGEST.short}"]
    assert lines[-1] == "r.example/a: 3.00 MB sent, images and indexes are signed"
    assert f"2.6  new  {CUDA.id}" in lines


def test_a_dry_run_does_not_say_that_it_sent() -> None:
    text = result(candidate(CUDA), dry_run=True).text()
    assert "TO SEND" in text
    assert "1.50 MB would be sent" in text


def test_what_did_not_run_is_listed_once_with_its_cells_unless_it_was_objected_to() -> None:
    both = result(candidate(CUDA, "gpu"), candidate(CPU, "gpu", "compile"))
    assert "NOT RUN, but allowed:" in both.text()
    assert f"  gpu: {CUDA.id}, {CPU.id}" in both.text().splitlines()
    assert both.to_json()["notRun"] == {CUDA.id: ["gpu"], CPU.id: ["gpu", "compile"]}
    assert "NOT RUN" not in result(candidate(CUDA, "gpu", objection="NOT RUN: gpu".lower())).text()


def test_an_image_says_in_json_whether_it_passed() -> None:
    (passed,) = result(candidate(CUDA)).to_json()["images"]
    (failed,) = result(candidate(CUDA, objection="it was not tested")).to_json()["images"]
    assert (passed["passed"], passed["objection"], passed["bytesSent"]) == (True, None, 1_500_000)
    assert (failed["passed"], failed["objection"]) == (False, "it was not tested")
