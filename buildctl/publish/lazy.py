"""Twins in a registry: for each tag whose images have zstd:chunked layers, a tag ending in `-lazy` for stargz.

A tag and its twin are decided together and go to the same images: neither is tested, gated or refused without the
other. The twin's content is made here from the images' manifests, so nothing that a registry says about a twin is
trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from buildctl.oci.chunked.twin import twin_of
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, Index, MediaType, canonical_json
from buildctl.oci.layout import INDEX_TYPES, MANIFEST_TYPES, parse_object
from buildctl.registry.client import Repository


def lazy(stem: str) -> str:
    """The tag, or its stem, of the twins: `cuda-2.6-lazy`, `2.6.0-cuda12.4-py3.13-lazy-REVISION`."""
    return f"{stem}-lazy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """`manifests` are those of images that are at hand, others are read from the repository; `made` are those of the
    twins so far. Both are by their own digest.
    """

    repository: Repository
    manifests: Mapping[Digest, bytes]
    made: dict[Digest, bytes] = field(default_factory=dict)
    _known: dict[Digest, bytes] = field(default_factory=dict)

    def under(self, top: Descriptor, data: bytes = b"") -> bytes:
        """What the twin of a tag points at when the tag points at `top`; the same if no image has a twin. `data` is
        `top` itself, if it is an index.
        """
        if top.media_type not in INDEX_TYPES:
            return self._twin(top)
        index = Index.from_json(parse_object(data, str(top.digest)))
        twins = tuple(map(self._described, index.manifests))
        return data if twins == index.manifests else canonical_json(replace(index, manifests=twins).to_json())

    @property
    def descriptors(self) -> dict[Digest, Descriptor]:
        return {d: Descriptor(media_type=MediaType.MANIFEST, digest=d, size=len(v)) for d, v in self.made.items()}

    def put(self) -> None:
        """Those that were made, by digest."""
        for digest, data in self.made.items():
            self.repository.put_manifest(data, MediaType.MANIFEST, str(digest))

    def _described(self, image: Descriptor) -> Descriptor:
        if image.media_type not in MANIFEST_TYPES:
            return image
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
