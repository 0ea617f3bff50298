"""What an image index has besides digests: the claims of its images, the same in the layout and in a registry.

Claims that hold on all platforms are on the index; the others are on each platform's entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from buildctl.lock.claims import LABEL, read_labels
from buildctl.matrix.accelerators import public_version
from buildctl.matrix.project import Project
from buildctl.oci.image import Descriptor, ImageConfig, Index
from buildctl.oci.layout import Layout
from buildctl.registry.target import TITLE

VERSION = "org.opencontainers.image.version"


def claimed(descriptor: Descriptor, config: ImageConfig) -> Descriptor:
    """The descriptor as a member of an index: with its platform, and only the claims in the image's labels."""
    platform = replace(config.platform, variant="")
    claims = {LABEL + key: value for key, value in read_labels(config.labels, platform.architecture).items()}
    return replace(descriptor, platform=platform, annotations=claims)


def index_of(members: Sequence[Descriptor], *, title: str, torch: str) -> Index:
    """Over members as `claimed` gives them, of different platforms."""
    first = members[0].annotations
    common = {key: value for key, value in first.items() if all(m.annotations.get(key) == value for m in members)}
    own = (
        replace(m, annotations={key: value for key, value in m.annotations.items() if key not in common})
        for m in members
    )
    annotations: Mapping[str, str] = {**common, TITLE: title, VERSION: torch}
    return Index(manifests=tuple(sorted(own, key=lambda m: str(m.platform))), annotations=annotations)


def write_indexes(project: Project, made: Mapping[str, Descriptor], layout: Layout) -> None:
    """One index for each image of which a cell was made (`made`: by cell id), over every architecture that the matrix
    has: what was built now, and what an earlier run left in the layout.
    """
    there = set(layout.names())
    for image in dict.fromkeys(cell.image for cell in project.matrix.cells if cell.id in made):
        same = [c for c in project.matrix.cells if c.image == image and (c.id in made or c.id in there)]
        found = [made.get(cell.id) or layout.resolve(cell.id) for cell in same]
        index = index_of(
            [claimed(descriptor, layout.config(descriptor)) for descriptor in found],
            title=image,
            torch=public_version(str(same[0].torch)),
        )
        layout.put_index(name=image, manifests=index.manifests, annotations=index.annotations)
