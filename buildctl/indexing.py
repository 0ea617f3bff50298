"""What stands in an image index beside digests: the claims of its images, the same in the layout and in a registry.

Only what holds on all platforms is said of the index; the rest stands beside each platform's digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from buildctl.claims import LABEL, read_labels
from buildctl.errors import LayoutError
from buildctl.matrix import Cell
from buildctl.oci.image import Descriptor, ImageConfig, Index
from buildctl.oci.layout import Layout
from buildctl.project import Project
from buildctl.tags import public_version
from buildctl.targets import TITLE

VERSION = "org.opencontainers.image.version"


def claimed(descriptor: Descriptor, config: ImageConfig) -> Descriptor:
    """The descriptor as a member of an index: with its platform, and the claims in the image's labels and no others."""
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


def write_indexes(project: Project, cells: Sequence[Cell], layout: Layout) -> None:
    """One index for each image name, over every architecture that the matrix has and the layout holds."""
    there = set(layout.names())
    for image in dict.fromkeys(cell.image for cell in cells):
        same = [cell for cell in project.matrix.cells if cell.image == image and cell.id in there]
        if not same:
            raise LayoutError(f"{image} is not in {layout.root}", hint=f"buildctl build {image}")
        found = [layout.resolve(cell.id) for cell in same]
        index = index_of(
            [claimed(descriptor, layout.config(descriptor)) for descriptor in found],
            title=image,
            torch=public_version(same[0]),
        )
        layout.put_index(name=image, manifests=index.manifests, annotations=index.annotations)
