from __future__ import annotations

from dataclasses import replace

import pytest

from buildctl.lock.claims import Claims, WheelFacts, read_claims
from buildctl.publish.page.generations import GENERATIONS, WORDS, supported
from tests.conftest import ROOT

CLAIMS = read_claims(ROOT / "images" / "cuda-2.6" / "claims.amd64.json")


def claiming(machine: tuple[str, ...], ptx: tuple[str, ...] = ()) -> Claims:
    facts = WheelFacts(wheel="", torch="", said={"cuda": "12.4"}, gpu_architectures=machine, ptx=ptx, mps=False)
    return replace(CLAIMS, facts=facts)


@pytest.mark.parametrize(
    ("machine", "ptx", "wanted"),
    [
        (("sm_50", "sm_60", "sm_90"), (), {"Maxwell": "compiled", "Volta": "none", "Hopper": "compiled"}),
        (("sm_86",), (), {"Ampere": "partly", "Ada": "compiled", "Hopper": "none"}),  # not on an A100
        (("sm_80",), (), {"Ampere": "compiled", "Ada": "compiled"}),
        (("sm_90",), ("compute_90",), {"Hopper": "compiled", "Blackwell": "ptx", "Ada": "none"}),
        (("sm_100",), (), {"Blackwell": "partly"}),  # 10.x, not 12.x
    ],
)
def test_a_generation_is_what_its_gpus_are(
    machine: tuple[str, ...], ptx: tuple[str, ...], wanted: dict[str, str]
) -> None:
    found = {one.generation.name: one.how for one in supported(claiming(machine, ptx))}
    assert {name: found[name] for name in wanted} == wanted
    assert list(found) == [g.name for g in GENERATIONS]
    assert set(found.values()) <= WORDS.keys()


def test_part_of_a_generation_names_the_part() -> None:
    ampere = next(one for one in supported(claiming(("sm_86",))) if one.generation.name == "Ampere")
    assert ampere.detail == "RTX 30, A10, A40 (sm_86)"


@pytest.mark.parametrize("claims", [None, replace(CLAIMS, facts=None)])
def test_a_wheel_that_was_not_read_is_unknown(claims: Claims | None) -> None:
    assert {one.how for one in supported(claims)} == {"unknown"}
