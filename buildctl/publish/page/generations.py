"""NVIDIA's GPUs from Maxwell to Blackwell, and which of them the code in an image runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from buildctl.lock.claims import Claims, runs_on


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """Products of one compute capability (NVIDIA, "CUDA GPU Compute Capability")."""

    capability: str
    products: str

    @property
    def pair(self) -> tuple[int, int]:
        major, minor = map(int, self.capability.split("."))
        return major, minor

    @property
    def code(self) -> str:
        return f"sm_{self.capability.replace('.', '')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    name: str
    year: int
    models: tuple[GpuModel, ...]


GENERATIONS: tuple[Generation, ...] = tuple(
    Generation(name=name, year=year, models=tuple(GpuModel(capability=c, products=p) for c, p in models.items()))
    for name, year, models in (
        ("Maxwell", 2014, {"5.0": "GTX 750, Quadro M2000", "5.2": "GTX 900, Tesla M40"}),
        ("Pascal", 2016, {"6.0": "Tesla P100", "6.1": "GTX 10, Tesla P4 and P40"}),
        ("Volta", 2017, {"7.0": "Tesla V100, Titan V"}),
        ("Turing", 2018, {"7.5": "RTX 20, GTX 16, T4"}),
        ("Ampere", 2020, {"8.0": "A100, A30", "8.6": "RTX 30, A10, A40"}),
        ("Ada", 2022, {"8.9": "RTX 40, L4, L40S"}),
        ("Hopper", 2022, {"9.0": "H100, H200, GH200"}),
        ("Blackwell", 2024, {"10.0": "B200, GB200", "10.3": "B300, GB300", "12.0": "RTX 50, RTX PRO", "12.1": "GB10"}),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """What an image has for one generation. `how` is compiled, ptx, partly, none or unknown."""

    generation: Generation
    how: str
    detail: str


WORDS = {
    "compiled": "has code for it",
    "ptx": "through PTX, compiled at first use",
    "partly": "has code for some",
    "none": "no code for it",
    "unknown": "unknown",
}


def supported(claims: Claims | None) -> tuple[Support, ...]:
    """By what torch's wheel was read to be compiled for; unknown where it has not been read."""
    if claims is None or claims.facts is None:
        return tuple(Support(generation=g, how="unknown", detail="its wheel has not been read") for g in GENERATIONS)
    return tuple(_support(g, claims.facts.gpu_architectures, claims.facts.ptx) for g in GENERATIONS)


def _support(generation: Generation, machine: Sequence[str], ptx: Sequence[str]) -> Support:
    native = [m for m in generation.models if runs_on(machine, m.pair)]
    later = [m for m in generation.models if m not in native and runs_on(ptx, m.pair)]
    covered = [*native, *later]
    if not covered:
        how = "none"
    elif len(covered) < len(generation.models):
        how = "partly"
    else:
        how = "compiled" if native else "ptx"
    listed = ", ".join(f"{m.products} ({m.code})" for m in (covered or generation.models))
    return Support(generation=generation, how=how, detail=listed)
