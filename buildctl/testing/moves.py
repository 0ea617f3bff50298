"""One model moved from one cell to another in one format: what is promised, what happened, and the table of all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from packaging.version import Version

from buildctl.console.table import table
from buildctl.ground.errors import ExitCode
from buildctl.testing.probes.portable import TOLERANCE, Sample, relative_error


class Result(StrEnum):
    """The last two are for moves that are not promised: shown, but neither PASSED nor FAILED."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    NOT_RUN = "NOT RUN"
    WORKED = "worked"
    DID_NOT = "did not"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One format from one cell to one cell, by their ids. `error` is relative to the largest output, None when nothing
    was computed; `size` the file's in bytes.
    """

    source: str
    target: str
    format: str
    result: Result
    detail: str = ""
    error: float | None = None
    size: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "from": self.source,
            "to": self.target,
            "format": self.format,
            "result": str(self.result),
            "error": self.error if self.error is not None and math.isfinite(self.error) else None,
            "size": self.size,
            "detail": self.detail,
        }

    def cell(self) -> str:
        if self.error is None:
            return str(self.result)
        return f"{self.result} {self.error:.0e}" if self.error else f"{self.result} 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Portability:
    """`moves` in the order of cells, then formats; `unasked` are cells that could not run, with the reason."""

    moves: tuple[Move, ...]
    unasked: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """As of `buildctl test`: 1 if a promise is broken, 3 if a cell could not run."""
        if any(move.result is Result.FAILED for move in self.moves):
            return ExitCode.FAILED
        return ExitCode.NOT_RUN if self.unasked else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        return {
            "tolerance": TOLERANCE,
            "moves": [move.to_json() for move in self.moves],
            "unasked": dict(self.unasked),
        }

    def text(self) -> str:
        formats = list(dict.fromkeys(move.format for move in self.moves))
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for move in self.moves:
            rows.setdefault((move.source, move.target), {})[move.format] = move.cell()
        lines = [(source, target, *(row[name] for name in formats)) for (source, target), row in rows.items()]
        parts = [table(("FROM", "TO", *(name.upper() for name in formats)), lines), *self._reasons()]
        return "\n\n".join(parts) + f"\n\n{self._counts()}"

    def _reasons(self) -> Iterator[str]:
        """Each reason once, with the moves it applies to."""
        for result in (Result.FAILED, Result.NOT_RUN, Result.DID_NOT):
            reasons: dict[str, list[str]] = {}
            for move in self.moves:
                if move.result is result:
                    reasons.setdefault(move.detail, []).append(f"{move.source} -> {move.target}, {move.format}")
            if reasons:
                title = f"{result}{' (not promised)' if result is Result.DID_NOT else ''}:"
                yield "\n".join([title, *(f"  {_named(moves)}: {reason}" for reason, moves in reasons.items())])

    def _counts(self) -> str:
        counts = {result: sum(move.result is result for move in self.moves) for result in Result}
        said = ", ".join(f"{count} {result.lower()}" for result, count in counts.items() if count)
        return f"{said}; the same numbers means within {TOLERANCE:g}, relative to the largest"


def _named(moves: Sequence[str]) -> str:
    return moves[0] if len(moves) == 1 else f"{moves[0]} and {len(moves) - 1} more"


def promised(name: str, source: Version, target: Version) -> bool:
    """Whether a model exported by torch `source` must run in torch `target`.

    The same release: always. TorchScript is read by every newer release (PyTorch's serialization policy), files of
    torch.export by the same release only ("saved files may not be usable in newer versions"). ONNX and Core ML do not
    depend on the torch that wrote them.
    """
    if source.public == target.public or name in {"onnx", "coreml"}:
        return True
    return name == "torchscript" and target > source


def measured(sample: Sample, computed: tuple[float, ...] | str, *, sure: bool) -> tuple[Result, str, float | None]:
    """The result of one move that was tried, with its detail and error."""
    if isinstance(computed, str):
        return Result.FAILED if sure else Result.DID_NOT, computed, None
    error = relative_error(sample.outputs, computed)
    if error <= TOLERANCE:
        return Result.PASSED if sure else Result.WORKED, "", error
    detail = f"expected the same numbers within {TOLERANCE:g}, but they differ by {error:.3g}"
    return Result.FAILED if sure else Result.DID_NOT, detail, error
