"""References to a real registry: what may be published, what others found out, what images there say of themselves."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.bill import SBOM_KIND
from buildctl.build.index import write_indexes
from buildctl.console.progress import Silent
from buildctl.host.check import check_images
from buildctl.host.verdict import VerdictKind
from buildctl.matrix.project import Project
from buildctl.oci.image import Index
from buildctl.oci.layout import Layout
from buildctl.publish.inspect import inspect_images
from buildctl.publish.publish import PublishOptions, planned_tags, promote, publish
from buildctl.publish.result import Published
from buildctl.registry.client import Repository
from buildctl.registry.referrers import Document, attach
from buildctl.runtimes.image import PULLED
from buildctl.testing.attached import attach_report, attached_reports
from buildctl.testing.merge import read_report
from buildctl.testing.report import Status
from tests.conftest import ROOT, buildctl
from tests.support.projects import Small, small
from tests.support.publishing import outcomes, push, repository
from tests.support.registry import Proxy

HOSTS = ROOT / "tests" / "support" / "hosts"
LABELS = {
    "dev.buildctl.torch": "2.6.0",
    "dev.buildctl.python": "3.13",
    "dev.buildctl.gpu-architectures.amd64": "sm_80 sm_90",
    "dev.buildctl.gpu-architectures.arm64": "sm_90",
}
CUDA = {**LABELS, "dev.buildctl.cuda": "12.4", "dev.buildctl.accelerator": "cuda"}
POLICY = """\
publish:
  allow-not-run: {"*": [torch.compile], "cuda-*": [works on the gpu]}
  require: {"cpu-*": [torchrun]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Small:
    found = small(tmp_path / "project", cuda_on_arm=True)
    for cell in found.cells():
        found.build(cell.id, labels=CUDA if cell.accelerator.name == "cuda" else LABELS)
        found.report(cell.id)
    return found


@pytest.fixture
def to(front: Proxy, request: pytest.FixtureRequest) -> Repository:
    return repository(front, request)


def reasons(result: Published) -> dict[str, str]:
    return {tag.name: tag.reason for tag in result.tags}


def with_policy(project: Small) -> Small:
    path = project.project.root / "matrix.yaml"
    path.write_text(path.read_text() + POLICY)
    return replace(project, project=Project.find(project.project.root))


# what the matrix allows and requires


def test_what_the_matrix_allows_is_published_and_said(project: Small, to: Repository) -> None:
    project = with_policy(project)
    compiler, gpu = {"torch.compile": Status.NOT_RUN}, {"works on the gpu": Status.NOT_RUN}
    project.report("cuda-2.6-amd64", digest=None, **gpu, **compiler)
    project.report("cuda-2.6-arm64", digest=None, **compiler)
    result = push(project, to, "cuda-2.6-amd64", "cuda-2.6-arm64")
    assert outcomes(result)["cuda-2.6"] == "CREATED"
    said = result.text().split("NOT RUN, but allowed:\n")[1].split("\n\n")[0]
    assert said.splitlines() == [
        "  works on the gpu: cuda-2.6-amd64",
        "  torch.compile: cuda-2.6-amd64, cuda-2.6-arm64",
    ]
    assert result.to_json()["notRun"]["cuda-2.6-arm64"] == ["torch.compile"]
    rows = {
        row[0]: row[2]
        for row in (t.row() for t in planned_tags(project.project, project.pinned, project.cells(), PublishOptions()))
    }
    assert rows["cuda-2.6"] == "ready, with works on the gpu, torch.compile NOT RUN: cuda-2.6-amd64, cuda-2.6-arm64"


def test_what_the_matrix_requires_holds_back_the_tag(project: Small, to: Repository) -> None:
    project = with_policy(project)
    project.report("cpu-2.6-arm64", torchrun=Status.NOT_RUN)
    result = publish(project.project, project.pinned, project.cells("cpu-2.6-arm64"), to,
        PublishOptions(allow_not_run=frozenset({"torchrun"})), progress=Silent(),
    )  # fmt: skip
    assert result.exit_code == 1
    assert reasons(result)["cpu-2.6"] == "cpu-2.6-arm64: required and NOT RUN: torchrun"
    project.report("cpu-2.6-arm64", torchrun=Status.PASSED)
    assert outcomes(push(project, to, "cpu-2.6-arm64"))["cpu-2.6"] == "CREATED"


# how large an image may be


def test_an_image_above_its_limit_holds_back_the_tag_and_says_what_grew(project: Small, to: Repository) -> None:
    """For publish, for promote by what the registry has, and in `tags`, which asks no registry."""
    id_ = "cpu-2.6-arm64"
    assert outcomes(push(project, to, id_))["cpu-2.6"] == "CREATED"
    path = project.project.root / "matrix.yaml"
    path.write_text(path.read_text() + 'publish: {max-size: {"cpu-*": 300kB}}\n')
    project = replace(project, project=Project.find(project.project.root))
    assert outcomes(push(project, to, id_))["cpu-2.6"] == "UNCHANGED", "below the limit"
    project.build(id_, os.urandom(150_000), labels=LABELS)
    project.report(id_)
    result = push(project, to, id_)
    why = reasons(result)["cpu-2.6"]
    assert re.fullmatch(
        r'cpu-2\.6-arm64: 351 kB, more than 300 kB \(line 10: publish\.max-size\["cpu-\*"\]\); '
        r"the tag cpu-2\.6 has 251 kB: layer 1 \+10[01] kB",
        why,
    )
    assert result.exit_code == 1
    revision = project.layout.resolve(id_).digest.short
    moved = promote(project.project, project.pinned, project.cells(id_), to, PublishOptions(revision=revision))
    assert reasons(moved)["cpu-2.6"] == why
    rows = {t.name: t for t in planned_tags(project.project, project.pinned, project.cells(id_), PublishOptions())}
    assert "more than 300 kB" in rows["cpu-2.6"].against
    assert rows["cpu-2.6"].against.endswith("its largest layers: layer 0 201 kB, layer 1 151 kB")


def test_a_forged_bill_of_what_the_tag_has_stops_nothing(project: Small, to: Repository) -> None:
    id_ = "cpu-2.6-arm64"
    push(project, to, id_)
    attach(to, project.layout.resolve(id_), Document(kind=SBOM_KIND, data=b'{"components": ["x"]}'))
    project.build(id_, labels=LABELS)
    project.report(id_)
    wanted = PublishOptions(compare=True)
    result = publish(project.project, project.pinned, project.cells(id_), to, wanted, progress=Silent())
    assert outcomes(result)["cpu-2.6"] == "MOVED"
    assert result.candidates[0].change is None


def test_the_page_of_a_run_shows_what_changed_against_the_tag(
    project: Small, to: Repository, tmp_path: Path, store: dict[str, str]
) -> None:
    page, id_ = tmp_path / "page.md", "cpu-2.6-arm64"
    push(project, to, id_)
    project.build(id_, os.urandom(150_000), labels=LABELS)
    project.report(id_, gpu=Status.NOT_RUN)
    argv = ("publish", "cpu-2.6", "--to", str(to.reference), "--no-sbom", "--allow-not-run", "works on the gpu")
    done = buildctl("--project", project.project.root, *argv, env={**store, "GITHUB_STEP_SUMMARY": str(page)})
    lines = page.read_text().splitlines()
    assert lines[0] == f"### Published: {to.reference}"
    row = next(line for line in lines if line.startswith("| cpu-2.6-arm64 |")).strip("| ").split(" | ")
    assert row[1:5] == ["NOT RUN without permission: gpu", "gpu", "351 kB", row[4]]
    assert re.fullmatch(r"\+10[01] kB, packages unknown", row[4])
    assert re.search(r"^    \+10[01] kB layer 1$", page.read_text(), re.MULTILINE)
    assert any(line.startswith("| cpu-2.6 | moving | refused |") for line in lines)
    assert done.returncode == 1, done.stderr


# what other machines found out


def test_a_report_that_a_gpu_server_attached_counts_for_publish_and_promote(
    project: Small, to: Repository, tmp_path: Path
) -> None:
    cell = project.cell("cuda-2.6-arm64")
    here = project.report(cell.id, gpu=Status.NOT_RUN)
    assert outcomes(push(project, to, cell.id, "cuda-2.6-amd64"))["cuda-2.6"] == "REFUSED"
    image = project.layout.resolve(cell.id)
    ran = replace(here, findings=tuple(replace(f, status=Status.PASSED) for f in here.findings))
    assert attach_report(to, image, ran).fresh
    assert not attach_report(to, image, replace(ran, made="2026-11-22T10:00:00Z")).fresh, (
        "a time makes no other document"
    )
    result = push(project, to, cell.id, "cuda-2.6-amd64")
    assert outcomes(result)["cuda-2.6"] == "CREATED"
    elsewhere = small(tmp_path / "elsewhere", cuda_on_arm=True)
    short = {c.id: project.layout.resolve(c.id).digest.short for c in project.cells()}
    options = PublishOptions(revision=short[cell.id])
    moved = promote(elsewhere.project, elsewhere.pinned, [elsewhere.cell(cell.id)], to, options)
    assert outcomes(moved)["cuda-2.6"] == "UNCHANGED"


def test_what_failed_elsewhere_holds_back_what_was_not_asked_here(project: Small, to: Repository) -> None:
    cell = project.cell("cpu-2.6-arm64")
    here = project.report(cell.id, gpu=Status.NOT_RUN)
    push(project, to, cell.id)
    attach_report(
        to, project.layout.resolve(cell.id), replace(here, findings=(replace(here.findings[1], status=Status.FAILED),))
    )
    assert reasons(push(project, to, cell.id))["cpu-2.6"] == "cpu-2.6-arm64: FAILED: gpu"


def test_attached_reports_are_brought_into_the_project(project: Small, to: Repository) -> None:
    cell = project.cell("cpu-2.6-arm64")
    here = project.report(cell.id, gpu=Status.NOT_RUN)
    push(project, to, cell.id)
    ran = replace(here, findings=(replace(here.findings[1], status=Status.PASSED),))
    attach_report(to, project.layout.resolve(cell.id), ran)
    image = f"{to.reference}@{project.layout.resolve(cell.id).digest}"
    done = buildctl("--project", project.project.root, "report", image)
    assert done.returncode == 0, done.stderr
    kept = read_report(project.project.report(cell))
    assert kept is not None
    assert {f.name: f.status for f in kept.findings} == {"torch": Status.PASSED, "gpu": Status.PASSED}


# claims in indexes


def test_the_published_index_is_the_layouts_to_the_byte(project: Small, to: Repository) -> None:
    write_indexes(project.project, project.images(), project.layout)
    push(project, to)
    for name in ("cuda-2.6", "cpu-2.6"):
        published = to.manifest(name)
        assert published.descriptor.digest == project.layout.resolve(name).digest
    index = Index.from_json(to.manifest("cuda-2.6").json())
    assert index.annotations["dev.buildctl.cuda"] == "12.4"
    assert {str(m.platform): m.annotations for m in index.manifests} == {
        "linux/amd64": {"dev.buildctl.gpu-architectures": "sm_80 sm_90"},
        "linux/arm64": {"dev.buildctl.gpu-architectures": "sm_90"},
    }


def test_a_platform_that_a_tag_keeps_keeps_its_claims(project: Small, to: Repository) -> None:
    push(project, to)
    project.build("cuda-2.6-amd64", labels=CUDA)
    project.report("cuda-2.6-amd64")
    write_indexes(project.project, project.images(), project.layout)
    assert outcomes(push(project, to, "cuda-2.6-amd64"))["cuda-2.6"] == "MOVED"
    assert to.manifest("cuda-2.6").descriptor.digest == project.layout.resolve("cuda-2.6").digest


# references


def no_project() -> Project:
    raise AssertionError("a reference needs no project")


def test_inspect_reads_no_layer_and_shows_report_documents_and_annotations(
    project: Small, to: Repository, front: Proxy
) -> None:
    push(project, to)
    front.seen.clear()
    seen = inspect_images(no_project, f"{to.reference}:cuda-2.6", arch=None)
    fetched = {e.path.rpartition("/")[2] for e in front.seen if "/blobs/" in e.path}
    manifests = [project.layout.manifest(project.layout.resolve(f"cuda-2.6-{arch}")) for arch in ("amd64", "arm64")]
    assert {str(m.config.digest) for m in manifests} <= fetched
    assert not {str(layer.digest) for m in manifests for layer in m.layers} & fetched
    first = seen.to_json()["images"][0]
    assert (first["tested"], first["claims"]["cuda"]) == ("PASSED (1 passed)", "12.4")
    assert [a["kind"] for a in first["attached"]] == ["application/vnd.buildctl.report.v1+json"]
    (annotations,) = seen.to_json()["indexes"].values()
    assert annotations["org.opencontainers.image.title"] == "cuda-2.6"
    by_digest = inspect_images(no_project, f"{to.reference}@{first['digest']}", arch=None)
    assert [i.platform for i in by_digest.images] == [first["platform"]]


def test_check_gives_the_verdict_of_the_references_labels(project: Small, to: Repository, tmp_path: Path) -> None:
    push(project, to)
    name = f"{to.reference}:cuda-2.6"
    for host, kind in {
        "h200": VerdictKind.GPU,
        "gh200": VerdictKind.GPU,
        "rtx5090": VerdictKind.CPU,
        "old-driver": VerdictKind.CPU,
    }.items():
        (verdict,) = check_images(tmp_path, None, [name], host_file=HOSTS / f"{host}.json", save=None).verdicts
        assert verdict.kind is kind, verdict.reason
        assert verdict.next_step.endswith(name)


def test_test_pulls_a_reference_once_asks_it_and_attaches_what_it_found(
    project: Small, to: Repository, front: Proxy, tmp_path: Path, store: dict[str, str]
) -> None:
    """These small images hold no Python, so what they claim of it FAILED: a report like any other."""
    push(project, to, "cuda-2.6-amd64")
    image = project.layout.resolve("cuda-2.6-amd64")
    name = f"{to.reference}@{image.digest}"
    argv = ("test", name, "--runtime", "sandbox", "--json")
    done = buildctl(*argv, "--attach", cwd=tmp_path, env=store)
    if done.returncode == 3:
        pytest.skip(f"NOT RUN: {done.stdout[-300:]}")
    assert done.returncode == 1, done.stderr
    (report,) = json.loads(done.stdout)["reports"]
    found = {f["name"]: f["status"] for f in report["findings"]}
    assert report["digest"] == str(image.digest)
    assert (found["torch"], found["distributions"]) == ("FAILED", "NOT RUN")
    there = attached_reports(to, image.digest)
    assert {r.verdict for r in there} == {Status.PASSED, Status.FAILED}
    assert Layout(Path(store["BUILDCTL_CACHE"]) / PULLED).resolve(image.digest.hex).digest == image.digest
    front.seen.clear()
    buildctl(*argv, cwd=tmp_path, env=store)
    layers = {str(layer.digest) for layer in project.layout.manifest(image).layers}
    assert not [e for e in front.seen if e.path.rpartition("/")[2] in layers], "the second time nothing is pulled"


def test_attach_is_for_references(tmp_path: Path) -> None:
    assert buildctl("test", "cuda-2.6", "--attach").returncode == 2
    assert "is not an OCI layout" in buildctl("test", "./nowhere", cwd=tmp_path).stderr
