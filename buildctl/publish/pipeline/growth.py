"""The size of an image, compared with the limit in matrix.yaml and with what its tag has in the registry now."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from buildctl.console.table import size
from buildctl.ground.errors import LayoutError
from buildctl.matrix.cells import Cell
from buildctl.matrix.policy import Limit, Policy
from buildctl.oci.layout import Layout
from buildctl.publish.diff import Change, Difference, Side, difference, from_layout, from_registry
from buildctl.publish.push import parallel
from buildctl.publish.result import Candidate
from buildctl.registry.client import Repository
from buildctl.registry.problems import RefusedError

_SHOWN = 6  # layers, and packages, that one line names
_WHEEL = re.compile(r'"([A-Za-z0-9][\w.-]*)==')
_SMALL = "wheels that share layers"


def measured(
    repository: Repository,
    candidates: Sequence[Candidate],
    policy: Policy,
    side: Callable[[Candidate], Side],
    *,
    compare: bool,
) -> list[Candidate]:
    """The candidates with their sizes, an objection to those above their limit, and what changed since the moving tag
    was last set (for those, or with `compare` for all). `side` is the image itself. Raises RegistryError.
    """

    def one(candidate: Candidate) -> Candidate:
        limit = policy.limit(candidate.cell)
        if limit is None and not compare:
            return candidate
        now = side(candidate)
        large = limit is not None and now.size > limit.most
        before = published_side(repository, candidate.cell) if large or compare else None
        change = difference(before, now) if before is not None else None
        found = replace(candidate, size=now.size, change=change)
        if said := too_large(now, limit, change):
            return replace(found, objection=also(found.objection, said), waits="")
        return found

    return parallel(one, candidates)


def built_side(layout: Layout, candidate: Candidate) -> Side:
    return from_layout(layout, candidate.cell.id, candidate.cell.arch)


def pushed_side(repository: Repository, candidate: Candidate) -> Side:
    reference = replace(repository.reference, tag="", digest=candidate.descriptor.digest)
    return from_registry(replace(repository, reference=reference), candidate.cell.arch)


def too_large_here(layout: Layout, candidate: Candidate, policy: Policy) -> str:
    """As `too_large`, without asking a registry."""
    limit = policy.limit(candidate.cell)
    if limit is None or candidate.size <= limit.most:
        return ""
    return too_large(built_side(layout, candidate), limit)


def also(objection: str | None, more: str) -> str | None:
    return "; ".join(filter(None, (objection, more))) or None


def too_large(now: Side, limit: Limit | None, change: Difference | None = None) -> str:
    """Why no tag may move to the image, with what grew; empty if one may."""
    if limit is None or now.size <= limit.most:
        return ""
    return f"{size(now.size)}, more than {size(limit.most)} ({limit.where}); {grown(now, change)}"


def published_side(repository: Repository, cell: Cell) -> Side | None:
    """What the moving tag of the cell's image has for its architecture; None if it has nothing."""
    if repository.head(cell.image) is None:
        return None
    reference = replace(repository.reference, tag=cell.image, digest=None)
    try:
        return from_registry(replace(repository, reference=reference), cell.arch)
    except (LayoutError, RefusedError):  # an index without this architecture, or what somebody else put there
        return None


def grown(now: Side, change: Difference | None) -> str:
    """What made it large: layers and packages that are new or larger than in the tag, or its largest layers."""
    sizes = by_content(now)
    if change is None or change.same:
        largest = sorted(sizes.items(), key=lambda item: -item[1])
        return f"its largest layers: {_listed([f'{name} {size(count)}' for name, count in largest])}"
    before = by_content(change.a)
    more = {name: count - before.get(name, 0) for name, count in sizes.items() if count > before.get(name, 0)}
    layers = [f"{name} +{size(count)}" for name, count in sorted(more.items(), key=lambda item: -item[1])]
    packages = [c.line() for c in newest(change.packages or ())]
    parts = filter(None, (_listed(layers), _listed(packages)))
    return f"the tag {change.a.name.rpartition(':')[2]} has {size(change.a.size)}: {'; '.join(parts)}"


def newest(changes: Sequence[Change]) -> list[Change]:
    """Added packages first, then changed versions, then removed packages."""
    return sorted(changes, key=lambda c: (not c.after, bool(c.before)))


def by_content(side: Side) -> dict[str, int]:
    """Bytes of the layers by their content, without versions: `torch`, `Debian packages`."""
    filled = [step.created_by for step in side.config.history if not step.empty_layer]
    out: dict[str, int] = {}
    for number, layer in enumerate(side.layers):
        name = _content(filled[number]) if number < len(filled) else f"layer {number}"
        out[name] = out.get(name, 0) + layer.size
    return out


def _content(step: str) -> str:
    if "install-wheels" in step:
        names = _WHEEL.findall(step)
        return names[0] if len(names) == 1 else _SMALL
    if found := re.fullmatch(r"buildctl: \d+ (Debian packages) .*", step):
        return found[1]
    return " ".join(word for word in step.split() if not word.startswith("--"))[:60]


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
