"""Claims in image indexes: what holds everywhere on the index, the rest beside the platform it holds on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildctl.build.index import claimed, index_of, write_indexes
from buildctl.oci.check import check_layout
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, ImageConfig, MediaType, Platform
from tests.support.projects import small

BOTH = {"dev.buildctl.torch": "2.6.0", "dev.buildctl.python": "3.13"}
OWN = {"dev.buildctl.ptx.amd64": "compute_90", "dev.buildctl.ptx.arm64": "compute_80"}


def member(arch: str, labels: Mapping[str, str]) -> Descriptor:
    descriptor = Descriptor(media_type=MediaType.MANIFEST, digest=Digest.of(arch.encode()), size=3)
    platform = Platform(architecture=arch, variant="v8" if arch == "arm64" else "")
    return claimed(descriptor, ImageConfig(platform=platform, labels=labels))


def test_what_holds_on_one_platform_only_stands_beside_it() -> None:
    amd64 = member("amd64", {**BOTH, **OWN, "dev.buildctl.cuda": "12.4", "org.opencontainers.image.title": "x"})
    arm64 = member("arm64", {**BOTH, **OWN})
    index = index_of([arm64, amd64], title="2.6", torch="2.6.0")
    assert index.annotations == {
        **BOTH, "org.opencontainers.image.title": "2.6", "org.opencontainers.image.version": "2.6.0",
    }  # fmt: skip
    assert {str(m.platform): m.annotations for m in index.manifests} == {
        "linux/amd64": {"dev.buildctl.cuda": "12.4", "dev.buildctl.ptx": "compute_90"},
        "linux/arm64": {"dev.buildctl.ptx": "compute_80"},
    }


def test_on_one_platform_everything_holds_everywhere() -> None:
    index = index_of([member("amd64", {**BOTH, **OWN})], title="t", torch="2.6.0")
    assert index.annotations["dev.buildctl.ptx"] == "compute_90"
    assert index.manifests[0].annotations == {}


def test_the_layouts_index_leads_to_the_same_images_and_says_their_claims(tmp_path: Path) -> None:
    project = small(tmp_path / "project", cuda_on_arm=True)
    digests = [project.layout.resolve(f"cuda-2.6-{arch}").digest for arch in ("amd64", "arm64")]
    write_indexes(project.project, project.images(), project.layout)
    index = project.layout.index(project.layout.resolve("cuda-2.6"))
    assert [m.digest for m in index.manifests] == digests
    assert index.annotations["dev.buildctl.torch"] == "2.6.0"
    assert {m.annotations.get("org.opencontainers.image.ref.name") for m in index.manifests} == {None}
    assert check_layout(project.layout.root) == []
    again = project.layout.resolve("cuda-2.6").digest
    write_indexes(project.project, project.images("cuda-2.6-amd64"), project.layout)
    assert project.layout.resolve("cuda-2.6").digest == again
