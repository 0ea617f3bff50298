"""What `buildctl check` knows about an image outside the matrix: from its labels, else its environment."""

from __future__ import annotations

import re
from collections.abc import Sequence

from packaging.version import InvalidVersion, Version

from buildctl.ground.errors import LayoutError
from buildctl.host.catalogue import Subject
from buildctl.host.requirement import asked_cuda
from buildctl.lock.claims import LABEL, Claims, claims_from_labels
from buildctl.matrix.accelerators import CPU, CUDA
from buildctl.registry.target import Image, Target, find_target

_CUDA = re.compile(r"(\d+\.\d+)(\.\d+)*")


def subjects_of(text: str) -> list[Subject]:
    """What a reference or layout path leads to (everything in a layout if no name is given); nothing for a name of
    the matrix. Raises LayoutError, RegistryError.
    """
    found = find_target(text)
    if found is None:
        return []
    if found.repository is not None:
        return [subject_of(text, found, found.images)]
    names = dict.fromkeys(image.name for image in found.of(None))
    each = {name: [image for image in found.images if image.name == name] for name in names}
    if len(each) == 1:
        return [subject_of(text, found, found.images)]
    return [subject_of(f"{text.rstrip('/')}:{name}", found, images) for name, images in each.items()]


def subject_of(name: str, target: Target, images: Sequence[Image]) -> Subject:
    """Raises LayoutError if there is no image for Linux."""
    images = [i for i in images if i.config.platform.os == "linux"]
    if not images:
        raise LayoutError(f"{name} has no Linux image")
    claims = [_claims(name, image) for image in images]
    ours = any(key.startswith(LABEL) for key in images[0].config.labels)
    requires = "" if ours else dict(images[0].config.env).get("NVIDIA_REQUIRE_CUDA", "")
    return Subject(
        name=name,
        claims=tuple(claims),
        built=True,
        start=_start(target, images[0]),
        requires=requires,
        says=any(c.accelerator or c.built_for for c in claims),
    )


def _start(target: Target, image: Image) -> str:
    if target.repository is not None:
        return f"docker run -it --rm {{options}}{target.repository.reference}"
    assert target.layout is not None  # noqa: S101 - a target has one of the two
    place = f"{target.layout.root}:{image.name}" if image.name in target.layout.names() else target.layout.root
    copy = f"skopeo copy oci:{place} docker-daemon:{image.name}:latest"
    return f"{copy} && docker run -it --rm {{options}}{image.name}:latest"


def _claims(name: str, image: Image) -> Claims:
    platform = f"linux/{image.arch}"
    ours = claims_from_labels(image.config.labels, image.arch, name=name, platform=platform)
    return ours or claims_from_environment(image, name=name, platform=platform)


def claims_from_environment(image: Image, *, name: str = "", platform: str = "") -> Claims:
    """What image builders write there; empty or None means it claims nothing."""
    env = dict(image.config.env)
    match = _CUDA.fullmatch(env.get("CUDA_VERSION", ""))
    cuda = match[1] if match else asked_cuda(env.get("NVIDIA_REQUIRE_CUDA", ""))
    kind = CUDA if cuda else CPU
    return Claims(
        name=name,
        platform=platform,
        arch=image.arch,
        torch=_version(env.get("PYTORCH_VERSION", "")),
        python=".".join(_version(env.get("PYTHON_VERSION", "")).split(".")[:2]),
        accelerator=kind.name if cuda else "",
        versions={kind.name: cuda} if cuda else {},
        built=tuple(filter(None, [kind.backend])),
    )


def _version(text: str) -> str:
    try:
        return str(Version(text))
    except InvalidVersion:
        return ""
