"""Two builders, a registry on loopback, a promoting job; and between them somebody who may push."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.console.progress import Silent
from buildctl.ground.errors import BuildctlError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Index, MediaType, Platform, canonical_json
from buildctl.publish.move import TagOutcome
from buildctl.publish.pipeline.handover import Handover, UnexpectedError, handed_on, read_handover
from buildctl.publish.provenance import PROVENANCE_KIND
from buildctl.publish.publish import PublishOptions, promote
from buildctl.publish.result import Published
from buildctl.publish.sign import BUNDLE_KIND, KeySigner
from buildctl.publish.verify import verify
from buildctl.registry.client import Repository
from buildctl.registry.keys import PrivateKey
from buildctl.registry.referrers import Document, attach, fallback_tag, referrers
from buildctl.testing.attached import attach_report
from buildctl.testing.merge import REPORT_KIND, read_report
from buildctl.testing.report import Finding, Report, Status
from tests.conftest import buildctl
from tests.support.attestations import BUILDER, COMMIT, attestation, bundle_bytes
from tests.support.projects import Small
from tests.support.publishing import platforms, push, repository
from tests.support.registry import Proxy

CUDA, CPU = "cuda-2.6-amd64", "cpu-2.6-arm64"
TAG = {CUDA: "2.6.0-cuda12.4-py3.13-amd64-r1", CPU: "2.6.0-cpu-py3.13-arm64-r1"}
PROVENANCE = Document(kind=PROVENANCE_KIND, data=b'{"builder": "ours"}')


@pytest.fixture
def to(front: Proxy, request: pytest.FixtureRequest) -> Repository:
    return repository(front, request)


def built(project: Small, to: Repository, *ids: str) -> Handover:
    """One build job for each architecture, as in CI; then the registry is open to others."""
    images: dict[str, object] = {}
    for cell in ids or (CUDA, CPU):
        image = project.layout.resolve(cell)
        result = push(project, to, cell, tags="immutable", revision="r1")
        attach(to, image, PROVENANCE)
        handed = handed_on(to, result.images).images[cell]
        own = dict.fromkeys(handed.there, PROVENANCE_KIND)
        images[cell] = replace(handed, documents={**handed.documents, **own}, there=frozenset())
    return Handover(images=images)  # type: ignore[arg-type]


def promoted(project: Small, to: Repository, expect: Handover, *reports: Report, **more: object) -> Published:
    options = replace(PublishOptions(revision="r1", expect=expect, reports=reports), **more)  # type: ignore[arg-type]
    return promote(project.project, project.pinned, project.cells(), to, options)


def test_what_nobody_touched_is_promoted(project: Small, to: Repository) -> None:
    expect = built(project, to)
    result = promoted(project, to, expect)
    assert {t.outcome for t in result.tags} <= {TagOutcome.CREATED, TagOutcome.UNCHANGED}
    digests = {cell: project.layout.resolve(cell).digest for cell in (CUDA, CPU)}
    assert platforms(to, "2.6") == {"linux/amd64": digests[CUDA], "linux/arm64": digests[CPU]}
    assert {t.outcome for t in promoted(project, to, expect).tags} == {TagOutcome.UNCHANGED}, "a second try"


# what somebody does who may push, and what `promote` says to it


def re_tagged(project: Small, to: Repository) -> str:
    theirs = project.build(CUDA)
    push(project, to, CUDA, tags="none")
    to.put_manifest(to.manifest(str(theirs.digest)).data, theirs.media_type, TAG[CUDA])
    return f"cuda-2.6-amd64: .*:{TAG[CUDA]} points at {theirs.digest}, the build job pushed sha256:"


def forged_report(project: Small, to: Repository) -> str:
    image = project.layout.resolve(CUDA)
    forged = project.report(CUDA, digest=None, **{"works on the gpu": Status.PASSED})
    theirs = attach_report(to, image, forged).referrer.descriptor.digest
    return f"cuda-2.6-amd64: a report {theirs} was attached after the build job"


def swapped_provenance(project: Small, to: Repository) -> str:
    """The list of what is attached, with theirs in place of ours, as anyone can write it."""
    image = project.layout.resolve(CPU)
    ours = next(r for r in referrers(to, image.digest, PROVENANCE_KIND))
    attach(to, image, Document(kind=PROVENANCE_KIND, data=b'{"builder": "theirs"}'))
    left = [r.to_json() for r in referrers(to, image.digest) if r.descriptor.digest != ours.descriptor.digest]
    listed = {"schemaVersion": 2, "mediaType": str(MediaType.INDEX), "manifests": left}
    to.put_manifest(canonical_json(listed), MediaType.INDEX, fallback_tag(image.digest))
    return (
        f"cpu-2.6-arm64: its provenance {ours.descriptor.digest} is not attached any more; "
        "cpu-2.6-arm64: provenance sha256:.* was attached after the build job"
    )


def attached_thing(project: Small, to: Repository) -> str:
    attach(to, project.layout.resolve(CPU), Document(kind="application/x-theirs", data=b"1"))
    return "cpu-2.6-arm64: a document of type application/x-theirs sha256:.* was attached after the build job"


ATTACKS = (re_tagged, forged_report, swapped_provenance, attached_thing)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.__name__)
def test_what_somebody_changed_between_the_jobs_is_refused_by_name(
    attack: Callable[[Small, Repository], str], project: Small, to: Repository, front: Proxy
) -> None:
    expect = built(project, to)
    said = attack(project, to)
    front.seen.clear()
    with pytest.raises(UnexpectedError, match=said) as refused:
        promoted(project, to, expect, signer=KeySigner(PrivateKey.load(str(key(project)))))
    assert refused.value.exit_code == 1
    assert front.writes() == [], "nothing is attached, signed or moved"


def key(project: Small) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    path = project.project.root / "key.pem"
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    made = generate_private_key(SECP256R1())
    path.write_bytes(made.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    return path


def test_a_removed_tag_is_refused(project: Small, to: Repository) -> None:
    expect = built(project, to, CUDA)
    both = Handover(images={**expect.images, CPU: expect.images[CUDA]})
    with pytest.raises(UnexpectedError, match=rf"cpu-2.6-arm64: .*:{TAG[CPU]} does not exist, the build job pushed"):
        promoted(project, to, both)


def test_an_index_that_somebody_widened_does_not_move(project: Small, to: Repository) -> None:
    """A tag with a platform that no builder brought stays where it is, and says which."""
    expect = built(project, to)
    promoted(project, to, expect)
    there = Index.from_json(to.manifest("2.6").json())
    foreign = replace(there.manifests[0], platform=Platform(architecture="s390x"))
    data = canonical_json(replace(there, manifests=(*there.manifests, foreign)).to_json())
    to.put_manifest(data, MediaType.INDEX, "2.6")
    states = {t.name: t for t in promoted(project, to, expect).tags}
    assert states["2.6"].outcome is TagOutcome.REFUSED
    assert "linux/s390x" in states["2.6"].reason
    assert to.manifest("2.6").descriptor.digest == Digest.of(data)


def test_an_architecture_that_no_builder_brought_is_not_kept(project: Small, to: Repository) -> None:
    """Without --expect a tag keeps what it has for arm64; anyone may have put it there."""
    expect = built(project, to)
    promoted(project, to, expect)
    only = Handover(images={CUDA: expect.images[CUDA]})
    options = PublishOptions(revision="r1", expect=only)
    states = {t.name: t for t in promote(project.project, project.pinned, project.cells(CUDA), to, options).tags}
    assert states["2.6"].outcome is TagOutcome.REFUSED
    assert states["2.6"].reason == (
        "its linux/arm64 is not in this run, and no build job handed on what the tag has for it"
    )
    assert states["cuda-2.6"].outcome is TagOutcome.UNCHANGED


def test_a_cell_that_no_job_handed_on_is_refused(project: Small, to: Repository) -> None:
    expect = built(project, to)
    with pytest.raises(UnexpectedError, match=r"cpu-2\.6-arm64: no build job handed it on"):
        promoted(project, to, Handover(images={CUDA: expect.images[CUDA]}))


def test_what_was_there_before_is_neither_refused_nor_believed(project: Small, to: Repository) -> None:
    """The same digest was published last week, with reports of that day: the builder names them as not its own."""
    project.report(CUDA, digest=None, **{"works on the gpu": Status.NOT_RUN})
    image = project.layout.resolve(CUDA)
    push(project, to, CUDA, tags="none")
    earlier = read_report(project.project.report(project.cell(CUDA)))
    assert earlier is not None
    ran = Finding(name="works on the gpu", status=Status.PASSED, detail="", seconds=1)
    attach_report(to, image, replace(earlier, findings=(ran,)))
    expect = handed_on(to, push(project, to, CUDA, CPU, tags="immutable", revision="r1").images)
    assert len(expect.images[CUDA].there) == 1
    states = {t.name: t for t in promoted(project, to, expect).tags}
    assert states["cuda-2.6"].outcome is TagOutcome.REFUSED
    assert "NOT RUN without permission: works on the gpu" in states["cuda-2.6"].reason
    assert states["cpu-2.6"].outcome is TagOutcome.CREATED


def test_the_report_of_a_machine_without_a_token_is_attached_by_promote(project: Small, to: Repository) -> None:
    project.report(CUDA, digest=None, **{"works on the gpu": Status.NOT_RUN})
    own = read_report(project.project.report(project.cell(CUDA)))
    assert own is not None
    expect = built(project, to)
    ran = replace(own, findings=(Finding(name="works on the gpu", status=Status.PASSED, detail="", seconds=1),))
    for _ in range(2):  # a job that is started again finds its own report there
        result = promoted(project, to, expect, ran)
        assert {t.outcome for t in result.tags} <= {TagOutcome.CREATED, TagOutcome.UNCHANGED}
    assert len(referrers(to, own.digest, REPORT_KIND)) == 2
    other = replace(ran, digest=Digest("a" * 64))
    with pytest.raises(UnexpectedError, match=f"cuda-2.6-amd64: a report is about sha256:{'a' * 64}, the build job"):
        promoted(project, to, expect, other)
    with pytest.raises(UnexpectedError, match="a report is about cpu-3-arm64, which is not promoted here"):
        promoted(project, to, expect, replace(ran, cell="cpu-3-arm64"))


def test_the_signature_covers_what_was_handed_on(project: Small, to: Repository) -> None:
    signer = KeySigner(PrivateKey.load(str(key(project))))
    expect = built(project, to)
    promoted(project, to, expect, signer=signer)
    for cell, handed in expect.images.items():
        assert signer.covered(to, handed.digest) == frozenset(handed.documents), cell


def test_the_command_line_writes_and_reads_it(project: Small, to: Repository, tmp_path: Path) -> None:
    root, place, file = project.project.root, str(to.reference.name), tmp_path / "out" / "handed.json"
    common = ["--to", place, "--revision", "r1"]
    done = buildctl("--project", root, "publish", *common, "--no-sbom", "--tags", "immutable", "--hand-on", file)
    assert done.returncode == 0, done.stderr
    assert file.read_text().count("\n") == 1
    assert read_handover([file]).images.keys() == {CUDA, CPU}
    said = forged_report(project, to)
    done = buildctl("--project", root, "promote", *common, "--expect", file)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": {"x": {}}}', '{"images": {"x": {"digest": "y"}}}'])
def test_a_file_that_is_no_handover_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BuildctlError, match="does not hold digests of images"):
        read_handover([path])


def test_two_files_that_contradict_are_refused(tmp_path: Path) -> None:
    for name, hexed in (("a", "1"), ("b", "2")):
        value = {"digest": f"sha256:{hexed * 64}", "documents": {}, "there": []}
        (tmp_path / name).write_text(json.dumps({"images": {CUDA: value}}))
    assert read_handover([tmp_path / "a", tmp_path / "a"]).images.keys() == {CUDA}
    with pytest.raises(UnexpectedError, match=r"b: cuda-2\.6-amd64 was handed on before, with other digests"):
        read_handover([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(BuildctlError, match="No such file"):
        read_handover([tmp_path / "c"])


# what a CI service attests, next to what we say


@pytest.mark.parametrize(
    ("commit", "status", "detail"),
    [
        (COMMIT, Status.PASSED, "attested, which `gh attestation verify` checks)"),
        ("2" * 40, Status.FAILED, f"of commit {'1' * 12}, what is attested is {BUILDER} of commit {'2' * 12}"),
        ("", Status.PASSED, f"built by {BUILDER} (unsigned, so only a claim)"),
    ],
    ids=["the same commit", "another commit", "none"],
)
def test_an_attestation_is_compared_with_the_provenance(
    commit: str, status: Status, detail: str, project: Small, to: Repository, tmp_path: Path
) -> None:
    """A provenance that somebody swaps does not fit what the workflow has attested."""
    image = project.layout.resolve(CPU)
    push(project, to, CPU, tags="none")
    statement = attestation(image.digest)
    attach(to, image, Document(kind=PROVENANCE_KIND, data=json.dumps(statement).encode()))
    if commit:
        theirs = bundle_bytes(attestation(image.digest, commit=commit))
        attach(to, image, Document(kind=BUNDLE_KIND, data=theirs))
    at = replace(to, reference=replace(to.reference, digest=image.digest))
    (found,) = verify(at, arch="arm64", scratch=tmp_path, progress=Silent())
    finding = next(f for f in found.findings if f.name == "provenance")
    assert finding.status is status, finding.detail
    assert finding.detail.endswith(detail), finding.detail


# findings that another machine still asks


def test_tags_wait_for_a_finding_that_another_job_asks(project: Small, to: Repository) -> None:
    """A GPU that is offline holds up its own images, and no others."""
    project.report(CUDA, digest=None, **{"works on the gpu": Status.NOT_RUN})
    expect = built(project, to)
    states = {t.name: t for t in promoted(project, to, expect, awaits=frozenset({"works on the gpu"})).tags}
    assert states["cpu-2.6"].outcome is TagOutcome.CREATED
    for tag in ("cuda-2.6", "2.6"):
        assert states[tag].outcome is TagOutcome.WAITING
        assert states[tag].reason == "for what another machine asks: cuda-2.6-amd64: works on the gpu"
    project.report(CUDA, digest=None, **{"works on the gpu": Status.NOT_RUN, "torch.compile": Status.FAILED})
    expect = built(project, to)
    states = {t.name: t for t in promoted(project, to, expect, awaits=frozenset({"works on the gpu"})).tags}
    assert states["cuda-2.6"].outcome is TagOutcome.REFUSED, "what FAILED does not wait"
