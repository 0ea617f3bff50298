"""Twins in a registry: for each tag whose images have zstd:chunked layers, a tag ending in `-lazy` for stargz.

A tag and its twin are decided together and go to the same images: one is never tested, gated or refused without the
other. What the twin names is made here from the manifests of the images, so nothing that a registry says of a twin is
believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from buildctl.build.index import index_of
from buildctl.oci.chunked.twin import twin_of
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, MediaType, canonical_json
from buildctl.publish.tags import Tag
from buildctl.registry.client import Repository


def lazy(tag: Tag) -> Tag:
    """The tag for the twins of its images: `cuda-2.6-lazy`, `2.6.0-cuda12.4-py3.13-lazy-REVISION`."""
    return replace(tag, stem=f"{tag.stem}-lazy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """Of images by digest; `manifests` are those that are at hand, others are read from the repository. `made` are the
    manifests of the twins so far, by their own digest.
    """

    repository: Repository
    manifests: Mapping[Digest, bytes]
    made: dict[Digest, bytes] = field(default_factory=dict)
    _known: dict[Digest, bytes] = field(default_factory=dict)

    def under(self, tag: Tag, members: Sequence[Descriptor]) -> tuple[bytes, str]:
        """What the twin of a tag names, and its media type; what the tag itself names where no member has a twin."""
        if tag.single:
            return self._twin(members[0]), MediaType.MANIFEST
        twins = [self._described(member) for member in members]
        return canonical_json(index_of(twins, title=tag.title, torch=tag.torch).to_json()), MediaType.INDEX

    @property
    def descriptors(self) -> dict[Digest, Descriptor]:
        return {d: Descriptor(media_type=MediaType.MANIFEST, digest=d, size=len(v)) for d, v in self.made.items()}

    def _described(self, image: Descriptor) -> Descriptor:
        data = self._twin(image)
        return replace(image, digest=Digest.of(data), size=len(data))

    def _twin(self, image: Descriptor) -> bytes:
        """The image's own manifest if it has no twin."""
        if image.digest not in self._known:
            own = self.manifests.get(image.digest) or self.repository.manifest(str(image.digest)).data
            self._known[image.digest] = data = twin_of(own) or own
            if data is not own:
                self.made[Digest.of(data)] = data
        return self._known[image.digest]
