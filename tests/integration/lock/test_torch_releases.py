"""torch's real wheels, release by release: what is found inside is what was found before."""

from __future__ import annotations

import pytest

from tests.support.torch_releases import look, on_the_index, read_table

OURS = ("2.6.0", "2.10.0", "2.15.0")  # of matrix.yaml; 12 MB each
NAMES = [n if n.startswith(OURS) else pytest.param(n, marks=pytest.mark.big) for n in read_table()]


@pytest.mark.network
@pytest.mark.parametrize("name", NAMES)
def test_a_release_says_inside_what_the_table_says(name: str) -> None:
    release, platform = name.split(" ")
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in look(release, platform).items()}
    assert found == read_table()[name]


@pytest.mark.network
@pytest.mark.big
def test_the_table_has_every_release_on_the_index() -> None:
    """Otherwise: python -m tests.support.torch_releases, and look at what it adds."""
    assert on_the_index() == set(read_table())
