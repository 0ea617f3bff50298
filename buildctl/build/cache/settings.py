"""From options and `cache` in matrix.yaml to opened repositories and keys, before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from buildctl.artifacts.store import RECIPE_VERSION
from buildctl.build.cache.options import CacheOptions
from buildctl.console.log import say
from buildctl.ground.errors import UsageError
from buildctl.matrix.project import Project
from buildctl.oci.compression import Compression
from buildctl.registry.cache.entry import Trust
from buildctl.registry.cache.read import Source, open_source
from buildctl.registry.cache.write import Writer
from buildctl.registry.keys import PrivateKey, PublicKey
from buildctl.registry.reference import Reference

# jobs that run what somebody proposes: what they make must not reach those who build what was accepted
_PROPOSALS = ("pull_request", "issue_comment", "discussion")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCache:
    """The repositories of one run. With a `writer` the repository that it fills is one of `sources`, unless nothing is
    to be read.
    """

    sources: tuple[Source, ...]
    writer: Writer | None = None
    required: bool = False


def open_cache(
    project: Project, options: CacheOptions, compression: Compression, environ: Mapping[str, str] = os.environ
) -> SharedCache | None:
    """None if no cache is configured. Asks no registry. Raises UsageError, SigningError."""
    configured = project.matrix.cache
    names = configured.read if options.read is None else options.read
    if options.required and not names:
        raise UsageError("--require-cache needs a cache to read", hint="--cache-from REGISTRY/REPO")
    private = _private(options)
    if not names and private is None:
        return None
    trusted = options.trust or tuple(str(project.root / path) for path in configured.keys)
    keys = tuple(PublicKey.load(source) for source in trusted) + ((private.public,) if private else ())
    if not keys:
        raise UsageError(
            f"no key to check what {', '.join(names)} says",
            hint="name the public key in matrix.yaml (cache: {keys: [cache.pub]}) or with --cache-trust",
        )
    trust = Trust(keys=keys, media_type=str(compression.media_type), refused=frozenset(configured.refuse))
    sources = [open_source(Reference.parse_repository(name), trust) for name in names]
    writer = _writer(options, private, trust, environ)
    if writer is not None and options.read != () and writer.name not in {source.name for source in sources}:
        sources.insert(0, open_source(writer.repository.reference, trust))
    return SharedCache(sources=tuple(sources), writer=writer, required=options.required)


def _private(options: CacheOptions) -> PrivateKey | None:
    if options.write is None:
        return None
    if options.key is None:
        raise UsageError("--cache-to needs a key to sign with", hint="--cache-key cache.key, or $BUILDCTL_CACHE_KEY")
    return PrivateKey.load(options.key)


def _writer(options: CacheOptions, key: PrivateKey | None, trust: Trust, environ: Mapping[str, str]) -> Writer | None:
    if options.write is None or key is None:
        return None
    reference = Reference.parse_repository(options.write)
    if why := proposal(environ):
        say(f"cache {reference.name}: nothing is written: {why}")
        return None
    source = open_source(reference, trust, write=True)
    return Writer(repository=source.repository, key=key, trust=trust, version=RECIPE_VERSION)


def proposal(environ: Mapping[str, str]) -> str:
    """Why this job must not write, from the variables of GitHub and GitLab; empty if it may."""
    event = environ.get("GITHUB_EVENT_NAME", "")
    if event.startswith(_PROPOSALS):
        return f"this job was started by {event}"
    if environ.get("CI_PIPELINE_SOURCE", "") in {"merge_request_event", "external_pull_request_event"}:
        return "this job was started by a merge request"
    return ""
