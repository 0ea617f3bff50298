"""`buildctl diff A B`: what differs between two images, as packages, layers, sizes and configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from buildctl.artifacts.bill import SBOM_KIND, packages_in_bill
from buildctl.artifacts.contents import Package
from buildctl.artifacts.store import Store
from buildctl.build.cache.contents import packages_here
from buildctl.console.table import size
from buildctl.ground.errors import LayoutError
from buildctl.ground.machine import machine
from buildctl.matrix.arch import arch_named
from buildctl.matrix.project import Project
from buildctl.oci.image import Descriptor, ImageConfig, Manifest
from buildctl.oci.layout import Layout, parse_object
from buildctl.registry.client import Repository, open_repository
from buildctl.registry.pull import resolve
from buildctl.registry.reference import Reference
from buildctl.registry.referrers import document, referrers
from buildctl.registry.target import as_layout, in_layout, in_registry

_WIDTH = 70  # characters of a step that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One image to compare. `packages` is None if nothing lists what is inside."""

    name: str
    descriptor: Descriptor
    config: ImageConfig
    layers: tuple[Descriptor, ...]
    packages: tuple[Package, ...] | None

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)

    def line(self) -> str:
        return f"{self.name}  {self.config.platform}  sha256:{self.descriptor.digest.short}  {size(self.size)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`before` or `after` is empty for what is only on one side."""

    what: str
    before: str = ""
    after: str = ""

    def line(self) -> str:
        match bool(self.before), bool(self.after):
            case True, True:
                return f"~ {self.what} {self.before} -> {self.after}"
            case True, False:
                return f"- {self.what} {self.before}"
            case _:
                return f"+ {self.what} {self.after}".rstrip()

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "before": self.before or None, "after": self.after or None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`packages` is None if those of one side are unknown."""

    a: Side
    b: Side
    packages: tuple[Change, ...] | None
    configuration: tuple[Change, ...]
    layers: tuple[Change, ...]

    @property
    def same(self) -> bool:
        return self.a.descriptor.digest == self.b.descriptor.digest

    @property
    def shared(self) -> int:
        """Bytes in shared layers, which are not pulled again for B."""
        mine = {layer.digest for layer in self.a.layers}
        return sum(layer.size for layer in self.b.layers if layer.digest in mine)

    def to_json(self) -> dict[str, Any]:
        sides = {
            key: {
                "name": side.name,
                "platform": str(side.config.platform),
                "digest": str(side.descriptor.digest),
                "size": side.size,
            }
            for key, side in {"a": self.a, "b": self.b}.items()
        }
        return {
            **sides,
            "same": self.same,
            "sharedBytes": self.shared,
            "packages": None if self.packages is None else [c.to_json() for c in self.packages],
            "configuration": [c.to_json() for c in self.configuration],
            "layers": [c.to_json() for c in self.layers],
        }

    def text(self) -> str:
        lines = [s.line() for s in (self.a, self.b)]
        if self.same:
            return "\n".join([*lines, "identical images, byte for byte"])
        new = self.b.size - self.shared
        lines.append(f"{size(self.shared)} in shared layers, {size(new)} to pull if you have the first")
        for title, changes in (
            ("packages", self.packages),
            ("configuration", self.configuration),
            ("layers", self.layers),
        ):
            if changes is None:
                lines += ["", f"{title}: unknown, no bill of materials is attached"]
            elif changes:
                lines += ["", f"{title}:", *(f"  {change.line()}" for change in changes)]
            else:
                lines += ["", f"{title}: the same"]
        return "\n".join(lines)


def difference(a: Side, b: Side) -> Difference:
    return Difference(
        a=a,
        b=b,
        packages=_packages(a.packages, b.packages) if a.packages is not None and b.packages is not None else None,
        configuration=_values(settings(a.config), settings(b.config)),
        layers=_layers(a, b),
    )


def package_changes(a: Sequence[Package], b: Sequence[Package]) -> tuple[Change, ...]:
    """Sorted by kind and name."""
    return _values(versions(a), versions(b))


_packages = package_changes


def versions(packages: Sequence[Package]) -> dict[str, str]:
    """By kind and name: `pypi torch`."""
    return {f"{p.kind} {p.name}" + (f" (in {p.within})" if p.within else ""): p.version for p in packages}


def _values(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    return tuple(
        Change(what=key, before=before.get(key, ""), after=after.get(key, ""))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    )


def settings(config: ImageConfig) -> dict[str, str]:
    """What a configuration sets, by name; empty if it does not."""
    plain = {
        "platform": str(config.platform),
        "created": config.created,
        "user": config.user,
        "entrypoint": " ".join(config.entrypoint),
        "cmd": " ".join(config.cmd),
        "workdir": config.working_dir,
        "stop signal": config.stop_signal,
        "ports": " ".join(config.exposed_ports),
        "volumes": " ".join(config.volumes),
    }
    env = {f"env {key}": value for key, value in config.env}
    return plain | env | {f"label {key}": value for key, value in config.labels.items()}


def _layers(a: Side, b: Side) -> tuple[Change, ...]:
    """Layers that only one side has; the same step on both sides is one change."""
    mine, theirs = ({layer.digest for layer in side.layers} for side in (a, b))
    before = {step: shown(layer) for step, layer in steps(a).items() if layer.digest not in theirs}
    after = {step: shown(layer) for step, layer in steps(b).items() if layer.digest not in mine}
    return tuple(Change(what=key, before=before.get(key, ""), after=after.get(key, "")) for key in {**before, **after})


def steps(side: Side) -> dict[str, Descriptor]:
    """The layers by the step that made them, cut to a line; each has its own."""
    filled = [step.created_by for step in side.config.history if not step.empty_layer]
    out: dict[str, Descriptor] = {}
    for number, layer in enumerate(side.layers):
        text = filled[number] if number < len(filled) else f"layer {number}"
        text = " ".join(word for word in text.split() if not word.startswith("--"))
        text = text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."
        key, count = text, 1
        while key in out:
            count += 1
            key = f"{text} ({count})"
        out[key] = layer
    return out


def shown(layer: Descriptor) -> str:
    return f"sha256:{layer.digest.short} ({size(layer.size)})"


def compare(
    open_project: Callable[[], Project], a: str, b: str, *, arch: str | None = None, plain_http: bool | None = None
) -> Difference:
    """Without `arch`, compares the architecture that both have; if there are several, this machine's. Of an image in a
    registry, only manifests, configuration and the attached bill of materials are fetched. The project is opened only
    for names in its layout. Raises LayoutError, RegistryError.
    """
    chosen = (arch, arch) if arch else _common(*(_arches(open_project, name, plain_http) for name in (a, b)))
    return difference(*(_seen(open_project, name, one, plain_http) for name, one in zip((a, b), chosen, strict=True)))


def _arches(open_project: Callable[[], Project], name: str, plain_http: bool | None) -> tuple[str, ...]:
    if found := as_layout(name):
        target = in_layout(*found, text=name)
    elif "/" in name:
        target = in_registry(open_repository(Reference.parse(name), plain_http=plain_http), name)
    else:
        target = in_layout(Layout(open_project().layout), name)
    return tuple(dict.fromkeys(image.arch for image in target.of(None)))


def _common(a: Sequence[str], b: Sequence[str]) -> tuple[str, str]:
    """If they have no architecture in common, each side's own first choice."""
    here = arch_named(machine())

    def choice(arches: Sequence[str]) -> str:
        return here if here in arches else arches[0]

    both = [arch for arch in a if arch in b]
    return choice(both or a), choice(both or b)


def _seen(open_project: Callable[[], Project], name: str, arch: str, plain_http: bool | None) -> Side:
    if found := as_layout(name):
        return from_elsewhere(*found, name, arch)
    if "/" not in name:
        return from_layout(Layout(open_project().layout), name, arch)
    reference = Reference.parse(name)
    return from_registry(open_repository(reference, plain_http=plain_http), arch)


def from_layout(layout: Layout, name: str, arch: str) -> Side:
    """A name for one architecture (`cpu-2.6-arm64`) is used as it is."""
    descriptor = layout.resolve(name)
    if descriptor.platform is None or not name.endswith(f"-{descriptor.platform.architecture}"):
        try:
            descriptor = layout.resolve(name, arch)
        except LayoutError as error:
            raise LayoutError(error.message, hint=f"{error.hint}; choose one with --arch") from error
    packages = packages_here(layout, descriptor, store=Store.default())
    return Side(
        name=name,
        descriptor=descriptor,
        config=layout.config(descriptor),
        layers=layout.manifest(descriptor).layers,
        packages=packages,
    )


def from_elsewhere(layout: Layout, wanted: str, name: str, arch: str) -> Side:
    """One image of somebody's layout: the only one, or that of `arch`."""
    target = in_layout(layout, wanted, text=name)
    images = target.of(None) if len(target.of(None)) == 1 else target.of(arch)
    if len(images) > 1:
        raise LayoutError(f"{name} has several images for {arch}", hint="name one: PATH:NAME")
    (image,) = images
    return Side(
        name=name,
        descriptor=image.descriptor,
        config=image.config,
        layers=image.manifest.layers,
        packages=packages_here(layout, image.descriptor, store=Store.default()),
    )


def from_registry(repository: Repository, arch: str) -> Side:
    found = resolve(repository, repository.reference.wanted, arch)
    manifest = Manifest.from_json(found.json())
    config = parse_object(repository.blob(manifest.config), f"configuration of {repository.reference}")
    bills = referrers(repository, found.descriptor.digest, SBOM_KIND)
    packages: tuple[Package, ...] | None = None
    if bills:
        packages = packages_in_bill(
            parse_object(document(repository, bills[0]), f"bill of materials of {repository.reference}")
        )
    return Side(
        name=str(repository.reference),
        descriptor=found.descriptor,
        config=ImageConfig.from_json(config),
        layers=manifest.layers,
        packages=packages,
    )
