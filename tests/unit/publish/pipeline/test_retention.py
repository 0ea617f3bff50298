"""What retention keeps: everything that somebody can still pull, with all that is attached to it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildctl.oci.digest import Digest
from buildctl.publish.pipeline.handover import UnexpectedError
from buildctl.publish.pipeline.retention import Links, Version, superfluous

NOW = datetime(2026, 11, 26, tzinfo=UTC)
OLD = NOW - timedelta(days=200)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def digest(name: str) -> Digest:
    return Digest.of(name.encode())


def version(name: str, *tags: str, updated: datetime = OLD) -> Version:
    return Version(number=len(name), digest=digest(name), tags=tags, updated=updated)


def gone(versions: list[Version], links: Mapping[str, Links], days: int = 90) -> list[str]:
    known = {digest(name): found for name, found in links.items()}
    names = {v.digest: v for v in versions}
    found = superfluous(versions, lambda d: known.get(d, Links()), now=NOW, days=days)
    assert all(v.digest in names for v in found)
    return [" ".join(v.tags) or "untagged" for v in found]


def test_an_old_revision_goes_with_its_image_and_what_is_attached() -> None:
    image = digest("image")
    versions = [
        version("index", f"2.6.0-cpu-py3.13-{COMMIT}"),
        version("image", f"2.6.0-cpu-py3.13-arm64-{COMMIT}"),
        version("report"),
        version("list", f"sha256-{image.hex}"),
    ]
    links = {
        "index": Links(members=frozenset({image})),
        "report": Links(subject=image),
        "list": Links(members=frozenset({digest("report")})),
    }
    assert len(gone(versions, links)) == 4
    moving = [*versions, version("moving", "cpu-2.6")]
    kept = {**links, "moving": Links(members=frozenset({image}))}
    assert gone(moving, kept) == [f"2.6.0-cpu-py3.13-{COMMIT}"], "a tag that moves keeps its image, with the documents"


@pytest.mark.parametrize(
    ("tag", "goes"),
    [
        (f"2.6.0-cpu-py3.13-{COMMIT}", True),
        ("2.6.0-cpu-py3.13-arm64-ad675e00cd89", True),
        ("cpu-2.6", False),
        ("2.6-cuda12.4", False),
        ("cpu-2.6-devel", False),
        ("latest", False),
        ("2.6.0-cpu-py3.13-20261122", False),  # a revision of another form: somebody's own
    ],
)
def test_which_tags_are_revisions(tag: str, goes: bool) -> None:
    assert gone([version("x", tag)], {}) == ([tag] if goes else [])


def test_a_version_with_a_second_tag_in_use_stays() -> None:
    assert gone([version("x", f"2.6.0-cpu-py3.13-{COMMIT}", "cpu-2.6")], {}) == []


def test_what_is_young_stays_with_all_it_leads_to() -> None:
    versions = [version("index", f"a-{COMMIT}", updated=NOW - timedelta(days=89)), version("image"), version("old")]
    assert gone(versions, {"index": Links(members=frozenset({digest("image")}))}) == ["untagged"]


def test_what_cannot_be_read_stops_all() -> None:
    with pytest.raises(UnexpectedError, match="cannot be read, so nothing is deleted"):
        superfluous([version("x")], lambda _: None, now=NOW, days=1)


@given(st.dictionaries(st.integers(0, 9), st.tuples(st.sets(st.integers(0, 9)), st.booleans()), max_size=10))
def test_nothing_that_a_tag_in_use_leads_to_ever_goes(graph: dict[int, tuple[set[int], bool]]) -> None:
    """Any graph of indexes, members that are gone and circles included."""
    versions = [version(str(n), *(["cpu-2.6"] if used else [])) for n, (_, used) in graph.items()]
    known = {digest(str(n)): Links(members=frozenset(digest(str(m)) for m in to)) for n, (to, _) in graph.items()}
    found = {v.digest for v in superfluous(versions, known.__getitem__, now=NOW, days=1)}
    reached, todo = set[int](), [n for n, (_, used) in graph.items() if used]
    while todo:
        if (n := todo.pop()) not in reached and n in graph:
            reached.add(n)
            todo += graph[n][0]
    assert found == {digest(str(n)) for n in graph} - {digest(str(n)) for n in reached}
