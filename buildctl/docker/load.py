"""Load an image of an OCI layout into Docker, then prove that it arrived: `docker load` exits 0 on damage."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound

from buildctl.docker import loopback
from buildctl.docker.archive import archive
from buildctl.docker.daemon import loopback_port
from buildctl.ground.errors import BuildctlError, EngineError, LayoutError
from buildctl.ground.jsontext import parse_json
from buildctl.oci.check import check_image
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, ImageConfig
from buildctl.oci.layout import MANIFEST_TYPES, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """`image_id` is the daemon's: the manifest's digest in the containerd store, the configuration's in the old one.

    `moved` is in bytes, None if the daemon does not report it. `how` is "present", "pull" or "load".
    """

    tag: str
    image_id: str
    how: str
    moved: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    layout: Layout
    descriptor: Descriptor
    config_digest: Digest
    config: ImageConfig

    @property
    def platform(self) -> str:
        return str(self.config.platform)


def load(layout: Layout, descriptor: Descriptor, tag: str, *, client: docker.DockerClient) -> Loaded:
    """Make the image (`descriptor` is its manifest's) appear as `tag` in the daemon, moving only missing layers.

    Raises LayoutError if the layout's own bytes are wrong, EngineError if the daemon refuses the image or holds
    something else afterwards; the message names what differs.
    """
    started = time.monotonic()
    manifest = layout.manifest(descriptor)
    wanted = _Wanted(
        layout=layout,
        descriptor=descriptor,
        config_digest=manifest.config.digest,
        config=layout.config(manifest.config),
    )
    try:
        how, moved = _bring(client, wanted, tag)
        try:
            image_id = check_loaded(client, wanted.descriptor, wanted.config_digest, wanted.config, tag)
        except EngineError as error:
            _forget(client, wanted, tag)
            raise _blamed(wanted, error) from error
    except (DockerException, OSError) as error:
        raise EngineError(f"{tag}: Docker failed while loading: {error}") from error
    return Loaded(tag=tag, image_id=image_id, how=how, moved=moved, seconds=time.monotonic() - started)


def check_loaded(
    client: docker.DockerClient, descriptor: Descriptor, config_digest: Digest, config: ImageConfig, tag: str
) -> str:
    """The id of the image that the daemon has as `tag`; raises EngineError listing all differences from `config`."""
    try:
        found: dict[str, Any] = client.images.get(tag).attrs
    except ImageNotFound as error:
        raise EngineError(
            f"{tag}: Docker does not have it after loading", hint="the daemon's log may say why"
        ) from error
    problems = differences(found, descriptor, config_digest, config)
    if not problems:
        problems = _cannot_create(client, tag, str(config.platform))
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise EngineError(f"{tag}: Docker holds something else:{lines}", hint=f"docker image rm {tag}, then load again")
    return str(found["Id"])


def differences(found: dict[str, Any], descriptor: Descriptor, config_digest: Digest, config: ImageConfig) -> list[str]:
    """How `docker image inspect` differs from what should be there; empty when all is right."""
    problems = []
    ids = (str(descriptor.digest), str(config_digest))
    if found.get("Id") not in ids:
        problems.append(f"image id: {found.get('Id')}, expected {ids[0]} or {ids[1]}")
    platform = f"{found.get('Os')}/{found.get('Architecture')}"
    if platform != f"{config.platform.os}/{config.platform.architecture}":
        problems.append(f"platform: {platform}, expected {config.platform}")
    layers = list((found.get("RootFS") or {}).get("Layers") or ())
    expected = [str(diff_id) for diff_id in config.diff_ids]
    if len(layers) != len(expected):
        problems.append(f"layers: {len(layers)}, expected {len(expected)}")
    else:
        pairs = enumerate(zip(layers, expected, strict=True), start=1)
        problems += [f"layer {n}: diff id {got}, expected {want}" for n, (got, want) in pairs if got != want]
    return problems


def _cannot_create(client: docker.DockerClient, tag: str, platform: str) -> list[str]:
    """A container needs every layer unpacked, which loading alone does not prove."""
    try:
        container = client.api.create_container(tag, command=["true"], platform=platform, host_config={})
    except APIError as error:
        return [f"cannot create a container from it: {error.explanation or error}"]
    client.api.remove_container(container["Id"], force=True)
    return []


def _bring(client: docker.DockerClient, wanted: _Wanted, tag: str) -> tuple[str, int | None]:
    present = _present(client, wanted)
    if present is not None:
        client.api.tag(present, tag)
        return "present", 0
    moved = _pull(client, wanted, tag)
    if moved is not None:
        return "pull", moved
    return "load", _load(client, wanted, tag)


def _present(client: docker.DockerClient, wanted: _Wanted) -> str | None:
    for digest in (wanted.descriptor.digest, wanted.config_digest):
        with suppress(ImageNotFound):
            if client.images.get(str(digest)).id == str(digest):
                return str(digest)
    return None


def _pull(client: docker.DockerClient, wanted: _Wanted, tag: str) -> int | None:
    """Bytes moved, or None if the daemon cannot reach this machine's loopback; nothing changes then."""
    with (
        loopback.serve(wanted.layout, wanted.descriptor) as served,
        loopback_port(client, served.port) as port,
    ):
        if port is None:
            return None
        reference = f"127.0.0.1:{port}/{served.name}@{wanted.descriptor.digest}"
        try:
            for record in client.api.pull(reference, stream=True, decode=True, platform=wanted.platform):
                if problem := _problem(record):
                    raise _refused(wanted, tag, problem)
        except APIError as error:
            if served.sent:
                raise _refused(wanted, tag, error.explanation or str(error)) from error
            return None  # it never reached us
        client.api.tag(reference, tag)
        client.api.remove_image(reference, noprune=True)
        return served.sent


def _load(client: docker.DockerClient, wanted: _Wanted, tag: str) -> int:
    """Bytes moved. Layers that the daemon seems to have are left out first; it takes them from its own store then."""
    held = _held(client, wanted)
    if held:
        with suppress(EngineError):
            moved = _send(client, wanted, tag, without=held)
            check_loaded(client, wanted.descriptor, wanted.config_digest, wanted.config, tag)
            return moved
        _forget(client, wanted, tag)
    return _send(client, wanted, tag, without=frozenset())


def _held(client: docker.DockerClient, wanted: _Wanted) -> frozenset[Digest]:
    """The image's layers that also belong to other images that this layout and the daemon both have."""
    layout = wanted.layout
    ids = {str(found["Id"]) for found in client.api.images(all=True)}
    both = [m for m in layout.read_index().manifests if m.media_type in MANIFEST_TYPES and str(m.digest) in ids]
    layers = {layer.digest for m in both for layer in layout.manifest(m).layers}
    return frozenset(layers & {layer.digest for layer in layout.manifest(wanted.descriptor).layers})


def _send(client: docker.DockerClient, wanted: _Wanted, tag: str, *, without: frozenset[Digest]) -> int:
    # not load_image of the SDK, which takes an error for progress
    url = f"{client.api.base_url}/v{client.api.api_version}/images/load"
    body = archive([(wanted.layout, wanted.descriptor, tag)], without=without)
    with client.api.post(url, data=body, stream=True, timeout=client.api.timeout) as response:
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise _refused(wanted, tag, response.text.strip()[:500])
        for line in response.iter_lines():
            if line and (problem := _problem(parse_json(line))):
                raise _refused(wanted, tag, problem)
    return sum(d.size for d in wanted.layout.manifest(wanted.descriptor).layers if d.digest not in without)


def _problem(record: dict[str, Any]) -> str | None:
    detail = record.get("errorDetail")
    return str(detail.get("message")) if isinstance(detail, dict) else record.get("error")


def _refused(wanted: _Wanted, tag: str, problem: str) -> BuildctlError:
    return _blamed(wanted, EngineError(f"{tag}: Docker refused the image: {problem}"))


def _blamed(wanted: _Wanted, error: EngineError) -> BuildctlError:
    """Whose fault it is: a LayoutError if our own check finds the image wrong, else `error` itself."""
    found = check_image(wanted.layout, wanted.descriptor)
    if not found:
        return error
    lines = "".join(f"\n  {line}" for line in found[:10])
    return LayoutError(f"{error.message}\nThe image in {wanted.layout.root} is wrong:{lines}", hint="build it again")


def _forget(client: docker.DockerClient, wanted: _Wanted, tag: str) -> None:
    """Remove the tag from an unusable image; other images keep theirs."""
    with suppress(DockerException, OSError):
        if client.images.get(tag).id in (str(wanted.descriptor.digest), str(wanted.config_digest)):
            client.api.remove_image(tag, force=True)
