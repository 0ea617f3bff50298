"""The docker engine: the same Dockerfiles through BuildKit (`docker buildx bake`), ending in the same OCI layout.

One bake definition holds everything. `docker-bake.json` of the project is that definition with paths for a
clone; the engine adds where its own output goes, what is secret, and a builder.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from buildctl.build.assembler import bases_under, build_bases
from buildctl.build.buildkit.progress import watched
from buildctl.build.buildkit.uv_image import put_tool
from buildctl.build.engine import Built, Order
from buildctl.console.log import say
from buildctl.dockerfile.bake import BakeTarget, bake_definition, bake_name, target_of
from buildctl.dockerfile.parse import Instruction, read_dockerfile
from buildctl.ground.clock import written
from buildctl.ground.errors import DockerfileError, EngineError, ToolError
from buildctl.ground.run import run, which
from buildctl.ground.scratch import scratch
from buildctl.lock.index import uv_environment
from buildctl.lock.locked import LockedCell
from buildctl.matrix.cells import DebianBase
from buildctl.oci.compression import ZSTD, Compression
from buildctl.oci.entry import EPOCH
from buildctl.oci.image import Descriptor, MediaType, canonical_json
from buildctl.oci.layout import Layout

DEADLINE = 4 * 3600.0  # seconds for all targets of one build
NO_BUILDX = "install Docker's buildx plugin (Debian: docker-buildx), or build without Docker: --engine assemble"
# predefined build arguments of BuildKit: used by every RUN, kept out of history and cache keys
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerOptions:
    """`builder` is a buildx builder by name (remote, Kubernetes, several nodes), `secrets` files by id.

    `context` is a docker context or the URL of a daemon, whose own BuildKit builds unless a `builder` is named.
    `cache_from` and `cache_to` are repositories of BuildKit's own cache, which is not signed: a tag for each target.
    `network` "host" lets steps reach the builder's loopback, for an index or a proxy there.
    """

    epoch: int
    compression: Compression = ZSTD
    builder: str | None = None
    context: str | None = None
    secrets: Mapping[str, Path] = field(default_factory=dict)
    attest: bool = False
    cache: bool = True
    network: str | None = None
    env: Mapping[str, str] | None = None
    cache_from: tuple[str, ...] = ()
    cache_to: str | None = None


def docker_images(order: Order) -> list[Built]:
    """An `Engine`: built with BuildKit, above the bases that the assemble engine makes. One bake for each index that
    serves torch.
    """
    if order.compression.plain is not None:
        raise EngineError(
            f"BuildKit does not make {order.compression.method} layers",
            hint=f"--engine assemble does; --compression {order.compression.plain.method} gives the same diff ids",
        )
    layout, cells = order.layout, order.cells
    build_bases(order.project, bases_under(cells), order.layers, layout, compression=order.compression, jobs=order.jobs)
    put_tool(layout)
    environment = uv_environment()
    built: dict[str, Built] = {}
    for index in dict.fromkeys(cell.accelerator.index for cell in cells):
        some = [cell for cell in cells if cell.accelerator.index == index]
        start = time.perf_counter()
        say(f"building {', '.join(cell.id for cell in some)} with docker buildx bake")
        with scratch("secrets") as secrets:
            options = DockerOptions(
                epoch=EPOCH if order.epoch is None else order.epoch,
                compression=order.compression,
                builder=order.builder,
                context=order.context,
                secrets=user_secrets(Path(secrets), environment, index=index),
                cache_from=tuple(source.name for source in order.cache.sources) if order.cache else (),
                cache_to=order.cache.writer.name if order.cache and order.cache.writer else None,
            )
            locked = {one.cell.id: one for one in order.locked}
            targets = [_target(locked[cell.id], order) for cell in some]
            found = build_with_docker(targets, options, layout=layout)
        seconds = (time.perf_counter() - start) / len(some)
        built |= {name: _built(name, descriptor, layout, seconds) for name, descriptor in found.items()}
    return [built[cell.id] for cell in cells]


def _built(name: str, descriptor: Descriptor, layout: Layout, seconds: float) -> Built:
    layers = layout.manifest(descriptor).layers
    size = sum(layer.size for layer in layers)
    return Built(name=name, descriptor=descriptor, size=size, made=len(layers), reused=0, seconds=seconds)


def _target(locked: LockedCell, order: Order) -> BakeTarget:
    cell = locked.cell
    target = target_of(cell, context=order.project.images, layout=order.layout.root, image=locked.image)
    target = replace(target, created=locked.created if order.epoch is None else order.epoch)
    # a foreign base may be compressed differently, which triggers a second export
    return with_fixed_times(target) if isinstance(cell.base, DebianBase) else target


def with_fixed_times(target: BakeTarget) -> BakeTarget:
    """`target` as its Dockerfile is: see `has_fixed_times`. BuildKit may accept one that our parser refuses."""
    with suppress(DockerfileError):
        return replace(target, fixed_times=has_fixed_times(read_dockerfile(Path(target.context, target.dockerfile))))
    return target


def build_with_docker(
    targets: Sequence[BakeTarget], options: DockerOptions, *, layout: Layout
) -> dict[str, Descriptor]:
    """Build all targets at once and tag each by its name in `layout`; returns the manifests by target name.

    Raises ToolError if docker or buildx is missing, EngineError if the build fails or exports anything but
    one image per target.
    """
    layout.create()
    check_buildx(options)
    # on the layout's file system, so that blobs are linked and not copied
    with scratch("docker", under=layout.root) as folder:
        places = {target.name: folder / str(number) for number, target in enumerate(targets)}
        _export(targets, places, options)
        # if BuildKit's cache has a layer as compressed by another export, it exports that one
        mixed = [t for t in targets if t.fixed_times and not _compressed_as_asked(places[t.name], options)]
        if mixed:
            _export([replace(t, fixed_times=False) for t in mixed], places, replace(options, cache=True))
        return {target.name: _take(layout, places[target.name], target) for target in targets}


def _export(targets: Sequence[BakeTarget], places: Mapping[str, Path], options: DockerOptions) -> None:
    """Bake each target into a layout at its place."""
    definition = bake_definition(targets)
    for target in targets:
        place = places[target.name]
        shutil.rmtree(place, ignore_errors=True)
        entry = definition["target"][bake_name(target.name)]
        entry["output"] = [_output(place, options, rewrite=not target.fixed_times)]
        # files whose times are rewritten get the same one in every image
        epoch = options.epoch if target.created is None or not target.fixed_times else target.created
        entry["args"] = {**entry.get("args", {}), **_proxies(), "SOURCE_DATE_EPOCH": str(epoch)}
        entry["secret"] = [{"id": k, "src": str(v.absolute())} for k, v in sorted(options.secrets.items())]
        entry |= _registry_cache(target.name, options)
        if options.attest:
            del entry["attest"]
        if options.network:
            entry["network"] = options.network
    with scratch("bake", under=next(iter(places.values())).parent) as folder:
        file = Path(folder) / "docker-bake.json"
        file.write_text(json.dumps(definition))
        _bake(file, options)


def _registry_cache(name: str, options: DockerOptions) -> dict[str, list[str]]:
    """BuildKit's cache in a registry (docs.docker.com, "Registry cache"); one that cannot be written fails no build."""
    found = [f"type=registry,ref={repository}:buildkit-{name}" for repository in options.cache_from]
    # layers as this build exports them, intermediate stages too, in a form that every registry takes
    how = "mode=max,image-manifest=true,oci-mediatypes=true,ignore-error=true"
    how += "".join(f",{key}={value}" for key, value in _compression(options).items())
    out = [f"type=registry,ref={options.cache_to}:buildkit-{name},{how}"] if options.cache_to else []
    return {**({"cache-from": found} if found else {}), **({"cache-to": out} if out else {})}


def _compressed_as_asked(built: Path, options: DockerOptions) -> bool:
    """Also of the base's layers, which BuildKit keeps as they are; this only costs a second export."""
    layout = Layout(built)
    images = [m for m in layout.read_index().manifests if m.media_type == MediaType.MANIFEST]
    return {layer.media_type for m in images for layer in layout.manifest(m).layers} <= {options.compression.media_type}


def user_secrets(folder: Path, environment: Mapping[str, str], *, index: str | None = None) -> dict[str, Path]:
    """The build secrets with which install-wheels fetches like the user's own uv: a CA bundle, a uv.toml with indexes.

    `environment` is that of uv on this machine, `index` the one that serves torch. None of it ends up in a layer, the
    history or a cache key. The uv.toml, which may hold a password, is written into `folder`.
    """
    secrets = {}
    bundle = environment.get("SSL_CERT_FILE")
    if bundle and Path(bundle).is_file():
        secrets["ca-bundle"] = Path(bundle)
    default = environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL")
    if default or index:
        # every wheel is pinned by hash, so taking the best match of several indexes cannot bring in another build
        lines = ['index-strategy = "unsafe-best-match"']
        lines += [f"[[index]]\nurl = {json.dumps(index)}"] if index else []
        lines += [f"[[index]]\nurl = {json.dumps(default)}\ndefault = true"] if default else []
        secrets["uv-config"] = folder / "uv.toml"
        secrets["uv-config"].touch(mode=0o600)
        secrets["uv-config"].write_text("\n".join(lines) + "\n")
    return secrets


def check_buildx(options: DockerOptions) -> None:
    """Raises ToolError if `docker` or its buildx plugin is missing, EngineError for an unknown builder."""
    if which("docker") is None and not options.env:
        raise ToolError("program not found: docker", hint=NO_BUILDX)
    version = run([*_buildx(options), "version"], timeout=60, env=options.env, check=False, missing_hint=NO_BUILDX)
    if version.returncode != 0:
        raise ToolError(f"docker has no buildx: {version.stderr.strip()[:300]}", hint=NO_BUILDX)
    if options.builder is not None:
        argv = [*_buildx(options), "inspect", options.builder]
        found = run(argv, timeout=120, env=options.env, check=False)
        if found.returncode != 0:
            hint = "`docker buildx ls` lists builders, `docker buildx create` makes one"
            raise EngineError(f"no usable builder {options.builder!r}: {found.stderr.strip()[:300]}", hint=hint)


def _buildx(options: DockerOptions) -> list[str]:
    if options.context is None:
        return ["docker", "buildx"]
    return ["docker", "--host" if "://" in options.context else "--context", options.context, "buildx"]


def _context_name(context: str) -> str:
    return "default" if "://" in context else context


def _output(destination: Path, options: DockerOptions, *, rewrite: bool) -> dict[str, str]:
    return {
        "type": "oci",
        "tar": "false",
        "dest": str(destination),
        "oci-mediatypes": "true",
        # for which BuildKit unpacks and compresses every layer a second time
        **({"rewrite-timestamp": "true"} if rewrite else {}),
        **_compression(options),
    }


def _compression(options: DockerOptions) -> dict[str, str]:
    """BuildKit's cache does not tell levels apart: layers cached with another level are reused."""
    level = options.compression.level
    return {"compression": options.compression.method, **({"compression-level": str(level)} if level else {})}


def has_fixed_times(instructions: Sequence[Instruction]) -> bool:
    """Whether all that the last stage adds to its base is the /out of stages that end in install-wheels, which sets the
    time stamps there.
    """
    starts = [n for n, i in enumerate(instructions) if i.keyword == "FROM"]
    stages: dict[str, Sequence[Instruction]] = {}
    for start, end in pairwise([*starts, len(instructions)]):
        name = instructions[start].text.split()[-1].lower()
        last = instructions[start:end]
        if end < len(instructions):
            stages[name] = last
    base = last[0].text.split()[0].lower()
    return base not in stages and all(_keeps_times(i, stages) for i in last[1:])


def _keeps_times(instruction: Instruction, stages: Mapping[str, Sequence[Instruction]]) -> bool:
    if instruction.keyword not in {"COPY", "ADD", "RUN"}:
        return True
    source = stages.get((instruction.flag("from") or "").lower(), ())
    ran = (source[-1].json_form or ()) if source and source[-1].keyword == "RUN" else ()
    return (instruction.keyword, instruction.text.split(), ran[:1]) == ("COPY", ["/out/", "/"], ("install-wheels",))


def _proxies() -> dict[str, str]:
    names = (name for upper in PROXIES for name in (upper, upper.lower()))
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _bake(file: Path, options: DockerOptions) -> None:
    argv = [*_buildx(options), "bake", "--file", str(file), "--progress", "plain", "--allow", "fs=*"]
    # the builder of that name is the daemon itself, whatever `docker buildx use` has chosen
    builder = options.builder or (_context_name(options.context) if options.context else None)
    argv += ["--builder", builder] if builder else []
    argv += [] if options.cache else ["--no-cache"]
    argv += ["--allow", "network.host"] if options.network == "host" else []
    with watched() as steps:
        done = run(argv, timeout=DEADLINE, env=options.env, check=False, on_line=steps.line)
    if done.returncode == 0:
        return
    said = done.stderr.strip()
    hint = None
    if "OCI exporter is not supported" in said:
        hint = "enable Docker's containerd image store, or pass --builder with one made by `docker buildx create`"
    elif "install-wheels" in said and "UnknownIssuer" in said:
        hint = "behind a company proxy, set SSL_CERT_FILE to its CA bundle"
    what = f"did not finish within {DEADLINE:g} s" if done.timed_out else "failed"
    raise EngineError(f"docker buildx bake {what}:\n{steps.why() or said[-2000:]}", hint=hint)


def _take(layout: Layout, built: Path, target: BakeTarget) -> Descriptor:
    """Import one image that buildx exported to `built` into `layout`."""
    source = Layout(built)
    images = [m for m in source.read_index().manifests if m.media_type == MediaType.MANIFEST]
    if len(images) != 1:
        found = ", ".join(str(m.media_type) for m in source.read_index().manifests) or "nothing"
        raise EngineError(f"{target.name}: expected buildx to export one image manifest, not: {found}")
    manifest, config = source.manifest(images[0]), source.config(images[0])
    if config.platform.architecture != target.arch:
        raise EngineError(f"{target.name}: the builder built {config.platform}, not linux/{target.arch}")
    for blob in (*manifest.layers, manifest.config):
        layout.add_blob(source.blob_path(blob.digest), blob.digest, blob.size)
    put = layout.write_bytes(MediaType.MANIFEST, _dated_manifest(source, images[0], target, layout))
    descriptor = replace(put, platform=config.platform)
    layout.tag(descriptor, target.name)
    return descriptor


def _dated_manifest(source: Layout, image: Descriptor, target: BakeTarget, layout: Layout) -> bytes:
    """The manifest, with the target's time in its configuration if BuildKit was given another time for the files."""
    manifest = source.manifest(image)
    raw = json.loads(source.read_bytes(manifest.config))
    if target.created is None or raw["created"] == (created := written(target.created)):
        return source.read_bytes(image)
    raw |= {"created": created, "history": [{**step, "created": created} for step in raw["history"]]}
    config = layout.write_bytes(MediaType.CONFIG, canonical_json(raw))
    return canonical_json(replace(manifest, config=config).to_json())
