"""What the signatures of a published image cover, for `verify`."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from buildctl.oci.digest import Digest
from buildctl.publish.sign import Bundle, bundles, covered
from buildctl.registry.client import Repository
from buildctl.registry.keys import PublicKey
from buildctl.registry.referrers import Referrer, kind_of, referrers


class MissingError(Exception):
    """There is nothing of that kind to check, or nothing to check it with."""


class WrongError(Exception):
    """A document, label or signature that contradicts the image."""


class Signed:
    """About what a reference names, `top`, and the `image` that this leads to: an image of the index, or `top` itself.
    None if no image is known.
    """

    def __init__(self, repository: Repository, top: Digest, key: PublicKey | None, image: Digest | None = None) -> None:
        self.repository, self.key, self.image = repository, key, image
        self.digests = tuple(dict.fromkeys((top, image or top)))

    @cached_property
    def bundles(self) -> dict[Digest, tuple[Bundle, ...]]:
        return {digest: bundles(self.repository, digest) for digest in self.digests}

    def leading_to(self, image: Digest) -> Signed:
        """The same for the image, without another request for the top."""
        further = Signed(self.repository, self.digests[0], self.key, image)
        new = (digest for digest in further.digests if digest not in self.bundles)
        further.bundles = self.bundles | {digest: bundles(self.repository, digest) for digest in new}
        return further

    @cached_property
    def covered(self) -> frozenset[Digest]:
        """The documents that valid signatures of the image list; empty if there are none."""
        image = self.digests[-1]
        return (covered(self.bundles[image], self.key, image) if self.key else None) or frozenset()

    @cached_property
    def attached(self) -> tuple[Referrer, ...]:
        """Everything attached to the image. The listed types of signed documents are not trusted."""
        return tuple(
            replace(r, kind=kind_of(self.repository, r)) if r.descriptor.digest in self.covered else r
            for r in referrers(self.repository, self.digests[-1])
        )

    @property
    def gone(self) -> list[Digest]:
        """Documents that were attached when the image was signed, and are not now."""
        return sorted(self.covered - {r.descriptor.digest for r in self.attached})

    def signature(self) -> str:
        """Raises WrongError for a digest without a signature of the key, MissingError without a key."""
        if self.key is None:
            raise MissingError(self._unchecked())
        for digest in self.digests:
            if covered(self.bundles[digest], self.key, digest) is None:
                how = "signed, but not with this key" if self.bundles[digest] else "not signed"
                raise WrongError(f"{self._what(digest)} is {how}")
        if self.gone:
            raise WrongError(f"the signature covers {self.gone[0]}, which is no longer attached")
        what = " and ".join(self._what(d) for d in self.digests)
        return f"{what}, {len(self.covered)} documents with it; no transparency log checked"

    def of_kind(self, kind: str) -> list[Referrer]:
        """What is attached of one artifact type; with a key only signed ones. Raises MissingError for none.

        Raises WrongError if an unsigned document replaced a signed one.
        """
        found = [r for r in self.attached if r.kind == kind]
        if not found:
            raise MissingError("none attached")
        left = [r for r in found if self.key is None or r.descriptor.digest in self.covered]
        if not left:
            said = f"the one attached is not signed ({found[0].descriptor.digest})"
            raise WrongError(said) if self.gone else MissingError(said)
        return left

    def _what(self, digest: Digest) -> str:
        kind = "image" if digest == self.image else "index" if self.image else "what the reference names,"
        return f"{kind} sha256:{digest.short}"

    def _unchecked(self) -> str:
        place = f"{self.repository.reference.name}@{self.digests[0]}"
        found = [bundle for digest in self.digests for bundle in self.bundles[digest]]
        if not found:
            return "none attached"
        if any(not bundle.certificate for bundle in found):
            return "not checked: pass the public key with --key cosign.pub"
        return (
            "signed without a key, which buildctl does not verify: "
            f"cosign verify --certificate-identity WHO --certificate-oidc-issuer ISSUER {place}"
        )
