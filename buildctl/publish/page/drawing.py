"""Rectangles, labels and lengths of what the pages draw, as numbers for the templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from buildctl.build.record import BuildRecord, WorkRecord
from buildctl.console.table import size
from buildctl.oci.digest import Digest
from buildctl.publish.page.treemap import Box, squarified
from buildctl.publish.page.value import PageData, PageImage, PageLayer

SHAPES = {"broad": Box(0, 0, 1040, 440), "tall": Box(0, 0, 358, 620)}
_LETTER = 7.2  # a little more than the mean width of a bold letter of 12 units, so that labels stay inside
_HEAD = 18.0  # height of a layer's heading
_GAP = 1.0
_SMALLEST = 60.0  # the area that is still drawn of a package; all are in the bill of materials


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A rectangle with its texts; `label` is empty where it does not fit. `kind` is a class of the style sheet."""

    box: Box
    kind: str
    title: str
    label: str = ""
    note: str = ""


def spread(images: int) -> str:
    """In how many images a layer is, as a class of the style sheet."""
    return {1: "own", 2: "pair"}.get(images, "many")


def layer_name(layer: PageLayer) -> str:
    """What is in it, in a few words: `torch 2.6.0`, `29 distributions`, `100 Debian packages`."""
    if not layer.packages:
        return layer.step
    kinds = {p.package.kind for p in layer.packages}
    if len(layer.packages) == 1:
        only = layer.packages[0].package
        return f"{only.name} {only.version}"
    what = {"deb": "Debian packages", "pypi": "Python distributions"}
    return f"{len(layer.packages)} {what[kinds.pop()] if len(kinds) == 1 else 'packages'}"


def image_tiles(image: PageImage, box: Box) -> list[Tile]:
    """Layers by their size; in each, packages by the size of their locked files, where these are known."""
    layers = sorted((la for la in image.layers if la.descriptor.size), key=lambda la: -la.descriptor.size)
    out: list[Tile] = []
    for layer, place in zip(layers, squarified([la.descriptor.size for la in layers], box), strict=True):
        out += _layer_tiles(layer, place.inside(_GAP))
    return out


def _layer_tiles(layer: PageLayer, box: Box) -> list[Tile]:
    name, amount = layer_name(layer), size(layer.descriptor.size)
    kind = spread(len(layer.shared) + 1)
    others = f", shared with {len(layer.shared)} other images" if layer.shared else ", only in this image"
    label, note = _fitting(name, amount, box)
    tiles = [Tile(box=box, kind=kind, title=f"{name}: {amount}{others}", label=label, note=note)]
    inner = box.inside(3, _HEAD)
    known = sorted(((p.size, p) for p in layer.packages or () if p.size), key=lambda pair: -pair[0])
    if len(known) < 2 or inner.width < 24 or inner.height < 16:
        return tiles
    for (amount_of, package), place in zip(known, squarified([n for n, _ in known], inner), strict=True):
        if place.width * place.height < _SMALLEST:
            continue
        text = f"{package.package.name} {package.package.version}"
        short, _ = _fitting(package.package.name, "", place)
        tiles.append(Tile(box=place.inside(0.5), kind="package", title=f"{text}: {size(amount_of)}", label=short))
    return tiles


def _fitting(name: str, note: str, box: Box) -> tuple[str, str]:
    room = int((box.width - 10) / _LETTER)
    if len(name) > room:
        name = name.removeprefix("nvidia-")
    if box.height < 15 or room < 3:
        return "", ""
    if len(name) + len(note) + 2 <= room:
        return name, note
    if len(name) > room:
        name = name[: room - 1].rstrip() + "…" if room >= 5 else ""
    return name, ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """One layer of the whole set, with the cells that have it."""

    layer: PageLayer
    cells: tuple[str, ...]


def stored_layers(images: Iterable[PageImage]) -> list[StoredLayer]:
    """Each layer once, the largest first."""
    found: dict[Digest, tuple[PageLayer, list[str]]] = {}
    for image in images:
        for layer in image.layers:
            cells = found.setdefault(layer.descriptor.digest, (layer, []))[1]
            if image.cell.id not in cells:
                cells.append(image.cell.id)
    stored = [StoredLayer(layer=layer, cells=tuple(cells)) for layer, cells in found.values()]
    return sorted(stored, key=lambda s: (-s.layer.descriptor.size, s.layer.descriptor.digest))


def stored_tiles(stored: Sequence[StoredLayer], box: Box) -> list[Tile]:
    """Layers that the same images have lie together, under the name of these images."""
    groups: dict[tuple[str, ...], list[StoredLayer]] = {}
    for one in stored:
        if one.layer.descriptor.size:
            groups.setdefault(one.cells, []).append(one)
    ordered = sorted(groups.items(), key=lambda item: (-_sum(item[1]), item[0]))
    out: list[Tile] = []
    for (cells, members), place in zip(ordered, squarified([_sum(m) for _, m in ordered], box), strict=True):
        out += _group_tiles(cells, members, place.inside(_GAP))
    return out


def _group_tiles(cells: Sequence[str], members: Sequence[StoredLayer], box: Box) -> list[Tile]:
    name = cells[0] if len(cells) == 1 else f"{cells[0]} and {len(cells) - 1} more"
    label, note = _fitting(name, size(_sum(members)), box)
    title = f"only in {cells[0]}" if len(cells) == 1 else f"in {', '.join(cells)}"
    tiles = [Tile(box=box, kind=spread(len(cells)), title=f"{title}: {size(_sum(members))}", label=label, note=note)]
    inner = box.inside(3, _HEAD) if box.height > 2 * _HEAD else box.inside(3)
    for one, place in zip(members, squarified([m.layer.descriptor.size for m in members], inner), strict=True):
        text, amount = layer_name(one.layer), size(one.layer.descriptor.size)
        short, more = _fitting(text, amount, place)
        tiles.append(Tile(box=place.inside(0.5), kind="package", title=f"{text}: {amount}", label=short, note=more))
    return tiles


def _sum(members: Iterable[StoredLayer]) -> int:
    return sum(one.layer.descriptor.size for one in members)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeBar:
    """`parts` are class, left end and length in percent of the largest image, bytes."""

    image: PageImage
    parts: tuple[tuple[str, float, float, int], ...]


def size_bars(data: PageData) -> list[SizeBar]:
    built = [image for image in data.images if image.side]
    largest = max((sum(la.descriptor.size for la in i.layers) for i in built), default=0) or 1
    return [SizeBar(image=image, parts=_parts(image, largest)) for image in built]


def _parts(image: PageImage, largest: int) -> tuple[tuple[str, float, float, int], ...]:
    sums = {"many": 0, "pair": 0, "own": 0}
    for layer in image.layers:
        sums[spread(len(layer.shared) + 1)] += layer.descriptor.size
    out, left = [], 0
    for kind, count in sums.items():
        out.append((kind, round(100 * left / largest, 2), round(100 * count / largest, 2), count))
        left += count
    return tuple(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineBar:
    """`left` and `length` in percent of the whole build."""

    work: WorkRecord
    left: float
    length: float


def timeline(record: BuildRecord) -> list[TimelineBar]:
    """In the order in which work began."""
    whole = max([record.seconds, *(w.began + w.seconds for w in record.work)]) or 1.0
    ordered = sorted(record.work, key=lambda w: (w.began, w.layer))
    return [
        TimelineBar(work=w, left=round(100 * w.began / whole, 2), length=max(0.4, round(100 * w.seconds / whole, 2)))
        for w in ordered
    ]
