from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.ground.errors import LayoutError
from buildctl.oci.check import check_image
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.publish.rebase import _above, _rebase, rebase_images
from tests.support.images import Blobs, config_of, file, put, tar
from tests.support.projects import Small, small


class Bases:
    """A layout with two states of a base, `old` and `new`, and an image on the old one."""

    def __init__(self, root: Path) -> None:
        self.small: Small = small(root)
        self.layout: Layout = self.small.layout
        self.blobs: Blobs = self.small.blobs
        self.wheels = self.blobs.add(tar(file("torch", b"torch" * 1000)))
        self.layers = {name: self.blobs.add(tar(file("etc/base", name.encode() * 500))) for name in ("old", "new")}
        self.old = self.base("old")
        config = replace(config_of([self.layers["old"], self.wheels]), user="1000", labels={"a": "b"})
        self.image = self.layout.put_image(
            name="cuda-2.6-amd64",
            config=config,
            layers=[self.layers["old"], self.wheels],
            blob=self.blobs.path,
            annotations={"org.opencontainers.image.title": "cuda-2.6"},
        )

    def base(self, name: str) -> Descriptor:
        return put(self.layout, self.blobs, [self.layers[name]], name="base-debian13-amd64")


@pytest.fixture
def bases(tmp_path: Path) -> Bases:
    return Bases(tmp_path)


def test_only_the_base_moves(bases: Bases) -> None:
    cell, new = bases.small.cell("cuda-2.6-amd64"), bases.base("new")
    found = _rebase(bases.layout, cell, bases.old, new)
    manifest, config = bases.layout.manifest(found.after), bases.layout.config(found.after)
    assert manifest.layers == (bases.layers["new"].descriptor, bases.wheels.descriptor)
    assert config.diff_ids == (bases.layers["new"].diff_id, bases.wheels.diff_id)
    before = bases.layout.config(found.before)
    assert replace(config, diff_ids=before.diff_ids) == before
    assert manifest.annotations == {"org.opencontainers.image.title": "cuda-2.6"}
    assert (found.new, found.kept) == (bases.layers["new"].descriptor.size, bases.wheels.descriptor.size)
    assert check_image(bases.layout, found.after) == []
    assert bases.layout.resolve(cell.id).digest == found.after.digest


def test_an_image_is_as_young_as_what_moved_below_it(bases: Bases) -> None:
    cell, times = bases.small.cell("cuda-2.6-amd64"), ("2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z")
    for created, expected in zip(times, (times[0], times[0]), strict=True):
        config = replace(config_of([bases.layers["new"]]), created=created)
        new = bases.layout.put_image(
            name="base-debian13-amd64", config=config, layers=[bases.layers["new"]], blob=bases.blobs.path
        )
        found = _rebase(bases.layout, cell, bases.old, new)
        after = bases.layout.config(found.after)
        assert {after.created, *(step.created for step in after.history)} == {expected}
        bases.layout.put_image(
            name=cell.id,
            config=replace(bases.layout.config(bases.image), diff_ids=(), created=times[0]),
            layers=[bases.layers["old"], bases.wheels],
            blob=bases.blobs.path,
        )


def test_a_base_that_did_not_move_leaves_the_image_alone(bases: Bases) -> None:
    found = _rebase(bases.layout, bases.small.cell("cuda-2.6-amd64"), bases.old, bases.old)
    assert not found.moved
    assert found.new == 0
    assert bases.layout.resolve("cuda-2.6-amd64").digest == bases.image.digest


def test_an_image_on_another_base_is_refused(bases: Bases) -> None:
    with pytest.raises(LayoutError, match="is not on the base"):
        _above(bases.layout, bases.image, bases.base("new"), "cuda-2.6-amd64")


def test_a_base_with_other_settings_is_refused(bases: Bases) -> None:
    config = replace(config_of([bases.layers["new"]]), env=(("PATH", "/elsewhere"),))
    new = bases.layout.put_image(
        name="base-debian13-amd64", config=config, layers=[bases.layers["new"]], blob=bases.blobs.path
    )
    with pytest.raises(LayoutError, match="settings changed"):
        _rebase(bases.layout, bases.small.cell("cuda-2.6-amd64"), bases.old, new)


def test_where_nothing_can_be_rebased_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"^nothing to rebase: no image has a Debian base"):
        rebase_images(small(tmp_path).project, [], locked=True)
