"""What images say of themselves: ours by labels, others' by their environment, unbuilt ones by their wheels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildctl.ground.errors import LayoutError, MatrixError
from buildctl.host.subject import subjects_of
from buildctl.matrix.project import Project
from buildctl.oci.check import check_layout
from buildctl.oci.image import ImageConfig, MediaType, Platform, canonical_json
from buildctl.oci.layout import Layout
from buildctl.publish.inspect import inspect_images, told_by
from buildctl.registry.target import BASE, in_layout
from buildctl.testing.report import Finding, Report, Status
from tests.conftest import ROOT
from tests.support.images import Blobs, config_of, file, tar

LABELS = {
    "dev.buildctl.cuda": "13.2",
    "dev.buildctl.gpu-architectures.amd64": "sm_75 sm_120",
    "dev.buildctl.gpu-architectures.arm64": "sm_80",
    "org.opencontainers.image.title": "x",
}


def opener(layout: Path) -> Callable[[], Project]:
    return lambda: Project.find(ROOT, layout=layout)


def two_platforms(root: Path, name: str = "cuda-2.15") -> Layout:
    layout, blobs = Layout(root / "dist"), Blobs(root / "blobs")
    layers = [blobs.add(tar(file("a")))]
    found = []
    for arch in ("amd64", "arm64"):
        config = dataclasses.replace(config_of(layers, arch=arch), labels=LABELS)
        found.append(layout.put_image(name=f"{name}-{arch}", config=config, layers=layers, blob=blobs.path))
    layout.put_index(name=name, manifests=found)
    return layout


def test_an_index_shows_each_platform_with_its_own_labels(tmp_path: Path) -> None:
    layout = two_platforms(tmp_path)
    seen = inspect_images(opener(layout.root), "cuda-2.15", arch=None)
    by_platform = {i.platform: i for i in seen.images}
    assert by_platform["linux/amd64"].says == {"cuda": "13.2", "gpu-architectures": "sm_75 sm_120"}
    assert by_platform["linux/arm64"].says == {"cuda": "13.2", "gpu-architectures": "sm_80"}
    assert "sm_75 sm_120" in seen.text()
    only = inspect_images(opener(layout.root), "cuda-2.15", arch="arm64")
    assert [i["platform"] for i in only.to_json()["images"]] == ["linux/arm64"]


def test_anybodys_layout_by_path_and_by_path_and_name(tmp_path: Path) -> None:
    layout = two_platforms(tmp_path, "theirs")

    def no_project() -> Project:
        raise AssertionError("a path needs no project")

    for target in (f"{layout.root}", f"oci:{layout.root}", f"{layout.root}:theirs"):
        assert len(inspect_images(no_project, target, arch=None).images) == 2
    one = inspect_images(no_project, f"{layout.root}:theirs-arm64", arch=None)
    assert [i.platform for i in one.images] == ["linux/arm64"]
    with pytest.raises(LayoutError, match="is not an OCI layout"):
        inspect_images(no_project, str(tmp_path / "nowhere"), arch=None)


def test_a_layout_stands_for_what_runs_not_for_the_bases_below(tmp_path: Path) -> None:
    layout, blobs = Layout(tmp_path / "dist"), Blobs(tmp_path / "blobs")
    layers = [blobs.add(tar(file("a")))]
    named = {BASE: "base-debian13"}
    for name, labels in {"cpu-2.6-arm64": named, "base-debian13-arm64": {}, "base-debian13-devel-arm64": {}}.items():
        config = dataclasses.replace(config_of(layers, arch="arm64"), labels=labels)
        found = layout.put_image(name=name, config=config, layers=layers, blob=blobs.path)
        layout.put_index(name=name.removesuffix("-arm64"), manifests=[found])
    assert {image.name for image in in_layout(layout).images} == {"cpu-2.6", "cpu-2.6-arm64"}
    assert [image.name for image in in_layout(layout, "base-debian13").images] == ["base-debian13"]


def test_images_of_others_speak_by_their_environment() -> None:
    env = (("PATH", "/bin"), ("PYTORCH_VERSION", "2.6.0"), ("CUDA_VERSION", "12.4.1"))
    config = ImageConfig(platform=Platform(architecture="amd64"), env=env)
    assert told_by(config) == ("environment", {"torch": "2.6.0", "cuda": "12.4.1"})
    assert told_by(dataclasses.replace(config, labels=LABELS))[0] == "labels"


def test_what_is_not_built_is_told_by_its_locked_wheels(tmp_path: Path) -> None:
    seen = inspect_images(opener(tmp_path / "dist"), "cuda-2.6", arch=None)
    assert [(i.digest, i.says["gpu-architectures"].split()[-1]) for i in seen.images] == [("", "sm_90")]
    native = inspect_images(opener(tmp_path / "dist"), "mps-2.6", arch=None)
    assert [(i.platform, i.says["devices.built"]) for i in native.images] == [("darwin/arm64", "mps")]


def test_a_name_that_cannot_exist_says_why(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="CUDA builds"):
        inspect_images(opener(tmp_path / "dist"), "cpu-2.15", arch=None)


def test_only_a_report_about_this_very_digest_counts(tmp_path: Path) -> None:
    layout = two_platforms(tmp_path)
    (layout.root / "reports").mkdir()
    (layout.root / "reports" / "y.json").write_text("not a report")
    report = Report(
        cell="x",
        digest=layout.resolve("cuda-2.15-amd64").digest,
        arch="amd64",
        runtime="r",
        emulated=None,
        gpus=False,
        findings=tuple(Finding(name=n, status=s, detail="") for n, s in (("a", Status.PASSED), ("g", Status.NOT_RUN))),
    )
    (layout.root / "reports" / "x.json").write_text(json.dumps(report.to_json()))
    for target in ("cuda-2.15", f"{layout.root}:cuda-2.15"):  # of ours by name, of anybody's beside the layout
        seen = inspect_images(opener(layout.root), target, arch=None)
        assert {i["platform"]: i["tested"] for i in seen.to_json()["images"]} == {
            "linux/amd64": "PASSED (1 passed, 1 not run)",
            "linux/arm64": None,
        }
        assert "    NOT RUN  g" in seen.text().splitlines()


def test_annotations_of_an_index_are_shown_and_counted_where_the_labels_say_the_same(tmp_path: Path) -> None:
    layout = two_platforms(tmp_path)
    children = layout.index(layout.resolve("cuda-2.15")).manifests
    annotations = {"dev.buildctl.cuda": "13.2", "dev.buildctl.torch": "9.9", "org.opencontainers.image.title": "t"}
    layout.put_index(name="cuda-2.15", manifests=children, annotations=annotations)
    seen = inspect_images(opener(layout.root), "cuda-2.15", arch=None)
    assert seen.to_json()["indexes"] == {"cuda-2.15": annotations}
    assert [line.strip() for line in seen.text().split("index cuda-2.15\n")[1].splitlines()] == [
        "annotations: 1 claims that hold on every platform, same as the labels",
        "dev.buildctl.torch              9.9",
        "org.opencontainers.image.title  t",
    ]


# layouts as other programs write them


def rewritten(layout: Layout, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Layout:
    value = json.loads(layout.index_path.read_bytes())
    layout.index_path.write_text(json.dumps({**value, "manifests": change(value["manifests"])}))
    return layout


def without_names(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k not in {"annotations", "platform"}} for e in entries]


def no_project() -> Project:
    raise AssertionError("a layout needs no project")


def test_a_layout_without_names_stands_for_what_is_in_it(tmp_path: Path) -> None:
    """`crane pull --format=oci` and `skopeo copy ... oci:DIR` write neither name nor platform."""
    layout = rewritten(two_platforms(tmp_path), lambda entries: without_names(entries[:1]))
    seen = inspect_images(no_project, str(layout.root), arch=None)
    assert {(i.name, i.platform) for i in seen.images} == {("dist", "linux/amd64"), ("dist", "linux/arm64")}
    (subject,) = subjects_of(str(layout.root))
    assert subject.start.startswith(f"skopeo copy oci:{layout.root} docker-daemon:dist:latest")


def test_two_images_without_a_name_are_both_seen(tmp_path: Path) -> None:
    layout = rewritten(two_platforms(tmp_path), lambda entries: without_names(entries[1:]))
    assert len(inspect_images(no_project, str(layout.root), arch=None).images) == 2


def test_an_artifact_beside_an_image_is_no_image(tmp_path: Path) -> None:
    layout = two_platforms(tmp_path)
    empty = layout.write_bytes("application/vnd.oci.empty.v1+json", b"{}")
    value = {"schemaVersion": 2, "artifactType": "a/b", "config": empty.to_json(), "layers": [empty.to_json()]}
    made = layout.write_bytes(MediaType.MANIFEST, canonical_json(value)).to_json()
    rewritten(layout, lambda entries: [*entries[:1], made])
    assert len(inspect_images(no_project, str(layout.root), arch=None).images) == 2
    rewritten(layout, lambda entries: entries[1:])
    for command in (lambda text: inspect_images(no_project, text, arch=None), subjects_of):
        with pytest.raises(LayoutError, match="has no image"):
            command(str(layout.root))


def test_an_entry_with_another_kind_of_digest_hides_nothing(tmp_path: Path) -> None:
    other = {"mediaType": str(MediaType.MANIFEST), "digest": "sha512:" + "0" * 128, "size": 1}
    layout = rewritten(two_platforms(tmp_path, "theirs"), lambda entries: [other, *entries])
    assert len(inspect_images(no_project, f"{layout.root}:theirs", arch=None).images) == 2
    assert layout.names() == ("theirs", "theirs-amd64", "theirs-arm64")
    (problem,) = check_layout(layout.root)
    assert "sha512" in problem
    for wrong in ("nonsense", "sha256:abc", ":", 7):
        rewritten(layout, lambda entries, wrong=wrong: [{**other, "digest": wrong}, *entries[1:]])  # type: ignore[misc]
        with pytest.raises(LayoutError, match="not a sha256 digest"):
            layout.names()
