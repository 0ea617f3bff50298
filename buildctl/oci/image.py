"""Descriptors, image configuration, manifests and indexes (OCI image-spec 1.1), and their one canonical JSON form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest


class MediaType(StrEnum):
    INDEX = "application/vnd.oci.image.index.v1+json"
    MANIFEST = "application/vnd.oci.image.manifest.v1+json"
    CONFIG = "application/vnd.oci.image.config.v1+json"
    LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
    LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
    LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


REF_NAME = "org.opencontainers.image.ref.name"


_MALFORMED = (KeyError, TypeError, ValueError, AttributeError)


def canonical_json(value: Any) -> bytes:
    """UTF-8, sorted keys, no spaces, no trailing newline: the same bytes for the same value everywhere.

    A lone surrogate, which JSON of others may hold, becomes the bytes that `json.loads` reads back.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _texts(value: Any) -> tuple[str, ...]:
    """A JSON list of strings, or null; refuses a plain string, which would split into letters."""
    if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise TypeError(f"not a list of strings: {value!r}")
    if any("\0" in item for item in value or ()):
        raise ValueError("a NUL byte, which no program can be given")
    return tuple(value or ())


def _keys(value: Any) -> tuple[str, ...]:
    """The keys of a JSON object whose values are empty, or null; an older form is a list of strings."""
    return tuple(value) if isinstance(value, dict) else _texts(value)


def _texts_by_key(value: Any) -> dict[str, str]:
    if value is not None and not (isinstance(value, dict) and all(isinstance(item, str) for item in value.values())):
        raise TypeError(f"not a mapping of strings: {value!r}")
    return dict(value or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """`os`/`architecture` in Go's words: linux/amd64, linux/arm64."""

    architecture: str
    os: str = "linux"
    variant: str = ""

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            out["variant"] = self.variant
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            architecture=str(value.get("architecture", "")),
            os=str(value.get("os", "")),
            variant=str(value.get("variant", "")),
        )

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A reference to content: media type, digest, size in bytes."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"mediaType": str(self.media_type), "digest": str(self.digest), "size": self.size}
        if self.platform is not None:
            out["platform"] = self.platform.to_json()
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises LayoutError naming the missing or malformed key."""
        try:
            platform, size = value.get("platform"), value["size"]
            if type(size) is not int or size < 0:
                raise ValueError(f"size {size!r}")
            return cls(
                media_type=str(value["mediaType"]),
                digest=Digest.parse(str(value["digest"])),
                size=size,
                platform=Platform.from_json(platform) if platform else None,
                annotations=_texts_by_key(value.get("annotations")),
            )
        except _MALFORMED as error:
            raise LayoutError(f"malformed descriptor ({error!r}): {json.dumps(value)[:200]}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A finished layer: the descriptor of its compressed blob, the digest of its tar (diff id), the tar's size."""

    descriptor: Descriptor
    diff_id: Digest
    uncompressed_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    created_by: str
    created: str = ""
    comment: str = ""
    empty_layer: bool = False

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"created_by": self.created_by}
        if self.created:
            out["created"] = self.created
        if self.comment:
            out["comment"] = self.comment
        if self.empty_layer:
            out["empty_layer"] = True
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            created_by=str(value.get("created_by", "")),
            created=str(value.get("created", "")),
            comment=str(value.get("comment", "")),
            empty_layer=bool(value.get("empty_layer", False)),
        )


# What BuildKit keeps of a base besides the OCI keys (moby/docker-image-spec, DockerOCIImageConfigExt).
DOCKER_KEYS = ("Healthcheck", "OnBuild", "Shell", "StopTimeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """The image configuration (OCI image-spec, config.md). `created` is RFC 3339; `docker` are Docker's own keys, as
    they are in the file.
    """

    platform: Platform
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    created: str = ""
    user: str = ""
    env: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    docker: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        config: dict[str, Any] = dict(self.docker)
        if self.user:
            config["User"] = self.user
        if self.env:
            config["Env"] = [f"{k}={v}" for k, v in self.env]
        if self.entrypoint:
            config["Entrypoint"] = list(self.entrypoint)
        if self.cmd:
            config["Cmd"] = list(self.cmd)
        if self.working_dir:
            config["WorkingDir"] = self.working_dir
        if self.labels:
            config["Labels"] = dict(self.labels)
        if self.exposed_ports:
            config["ExposedPorts"] = {p: {} for p in self.exposed_ports}
        if self.volumes:
            config["Volumes"] = {v: {} for v in self.volumes}
        if self.stop_signal:
            config["StopSignal"] = self.stop_signal
        out: dict[str, Any] = {
            **self.platform.to_json(),
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [str(d) for d in self.diff_ids]},
            "history": [h.to_json() for h in self.history],
        }
        if self.created:
            out["created"] = self.created
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        try:
            config: Mapping[str, Any] = value.get("config") or {}
            return cls(
                platform=Platform.from_json(value),
                diff_ids=tuple(Digest.parse(d) for d in value["rootfs"]["diff_ids"]),
                history=tuple(History.from_json(h) for h in value.get("history") or ()),
                created=str(value.get("created") or ""),
                user=_texts([str(config.get("User") or "")])[0],
                env=tuple((k, v) for k, _, v in (e.partition("=") for e in _texts(config.get("Env")))),
                entrypoint=_texts(config.get("Entrypoint")),
                cmd=_texts(config.get("Cmd")),
                working_dir=_texts([str(config.get("WorkingDir") or "")])[0],
                labels=_texts_by_key(config.get("Labels")),
                exposed_ports=_keys(config.get("ExposedPorts")),
                volumes=_keys(config.get("Volumes")),
                stop_signal=str(config.get("StopSignal") or ""),
                docker={key: config[key] for key in DOCKER_KEYS if config.get(key)},
            )
        except _MALFORMED as error:
            raise LayoutError(f"malformed image configuration ({error!r})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": str(MediaType.MANIFEST),
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        try:
            return cls(
                config=Descriptor.from_json(value["config"]),
                layers=tuple(Descriptor.from_json(layer) for layer in value["layers"]),
                annotations=_texts_by_key(value.get("annotations")),
            )
        except _MALFORMED as error:
            raise LayoutError(f"malformed image manifest ({error!r})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": str(MediaType.INDEX),
            "manifests": [m.to_json() for m in self.manifests],
        }
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        try:
            return cls(
                manifests=tuple(Descriptor.from_json(m) for m in value["manifests"]),
                annotations=_texts_by_key(value.get("annotations")),
            )
        except _MALFORMED as error:
            raise LayoutError(f"malformed image index ({error!r})") from error


def blob_names(manifest: Manifest, config: ImageConfig, image: str) -> dict[Digest, str]:
    """What people call the blobs of `image`: a layer by the step that made it."""
    steps = [step.created_by for step in config.history if not step.empty_layer]
    known = len(steps) == len(manifest.layers)
    names = [_step_name(step) for step in steps] if known else [f"layer {n}" for n in range(len(manifest.layers))]
    found = {layer.digest: f"{name} ({image})" for layer, name in zip(manifest.layers, names, strict=True)}
    return {manifest.config.digest: f"configuration ({image})", **found}


def _step_name(step: str) -> str:
    """`torch==2.6.0`, `17 wheels`, `100 Debian packages (trixie, runtime)`, or how the step begins."""
    wheels = re.findall(r'"([^"=\s]+==[^"\s]+)"', step) if "install-wheels" in step else []
    if wheels:
        return wheels[0] if len(wheels) == 1 else f"{len(wheels)} wheels"
    words = step.removeprefix("buildctl: ").split()
    return " ".join(words) if step.startswith("buildctl: ") else " ".join(words[:2]) or "layer"
