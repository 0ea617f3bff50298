"""Models exported in one session and run in another: returns what was computed, for the caller to compare."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from buildctl.runtimes.api import Session
from buildctl.testing.probes.asking import DOING, Answers, UnansweredError, ask

# float32 on processors and libraries that sum in another order; measured 2e-7 to 6e-7 between amd64 and arm64
TOLERANCE = 1e-4
SUFFIXES: Mapping[str, str] = {"torchscript": ".pt", "export": ".pt2", "onnx": ".onnx", "coreml": ".mlpackage.zip"}
_EXPORTING = 180.0  # seconds without emulation
_LOADING = 120.0
_MALFORMED = (KeyError, TypeError, ValueError, zlib.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Inputs of shape `shape`, row by row, and the network's outputs for them where it was exported."""

    shape: tuple[int, ...]
    inputs: tuple[float, ...]
    outputs: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {"shape": self.shape, "inputs": self.inputs, "outputs": self.outputs}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Sample:
        """Raises KeyError, TypeError or ValueError for anything else."""
        numbers = {key: tuple(float(item) for item in value[key]) for key in ("inputs", "outputs")}
        sample = cls(shape=tuple(int(item) for item in value["shape"]), **numbers)
        if math.prod(sample.shape) != len(sample.inputs) or not any(sample.outputs):
            raise ValueError(f"{len(sample.inputs)} inputs of shape {sample.shape}, outputs {sample.outputs}")
        return sample


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedModel:
    """What one session exported: files by format, and for formats that failed the reason."""

    sample: Sample | None
    files: Mapping[str, bytes] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    format: str
    data: bytes
    sample: Sample


def export_in(session: Session, formats: Sequence[str]) -> ExportedModel:
    """Export the network in each format. Raises ToolError if the runtime, not the export, fails."""
    answers = ask(session, "portable_export", deadline=_EXPORTING, options={"formats": list(formats)})
    try:
        sample = Sample.from_json(answers.value("sample"))
    except UnansweredError as problem:
        return ExportedModel(sample=None, errors=dict.fromkeys(formats, str(problem)))
    except _MALFORMED as problem:
        return ExportedModel(sample=None, errors=dict.fromkeys(formats, f"unexpected sample ({problem!r})"))
    files, errors = {}, {}
    for name in formats:
        try:
            files[name] = _unpacked(answers.value(name))
        except UnansweredError as problem:
            errors[name] = str(problem)
        except _MALFORMED as problem:
            errors[name] = f"unexpected file ({problem!r})"
    return ExportedModel(sample=sample, files=files, errors=errors)


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text, validate=True))


def load_in(session: Session, models: Mapping[str, Model]) -> dict[str, tuple[float, ...] | str]:
    """What each model computes from its own inputs, or why it does not.

    A model that kills the process is reported, and the others are run again: foreign files may do anything.
    """
    found: dict[str, tuple[float, ...] | str] = {}
    todo = dict(models)
    while todo:
        answers = ask(session, "portable_load", deadline=_LOADING, stdin=_as_stdin(todo))
        answered = [name for name in todo if name in answers.values or name in answers.errors]
        rest = [name for name in todo if name not in answered]
        # if none has begun, no model ended it
        ended = rest[:1] if DOING in answers.death else rest
        for name in (*answered, *ended):
            found[name] = _numbers(answers, name)
            del todo[name]
    return found


def _numbers(answers: Answers, name: str) -> tuple[float, ...] | str:
    try:
        return tuple(float(item) for item in answers.value(name))
    except UnansweredError as problem:
        return str(problem)
    except _MALFORMED as problem:
        return f"unexpected answer ({problem!r})"


def _as_stdin(models: Mapping[str, Model]) -> str:
    return json.dumps(
        {
            name: {
                "format": model.format,
                "file": base64.b64encode(zlib.compress(model.data)).decode(),
                "inputs": model.sample.inputs,
                "shape": model.sample.shape,
            }
            for name, model in models.items()
        }
    )


def relative_error(expected: Iterable[float], computed: Iterable[float]) -> float:
    """Largest difference relative to the largest expected value; infinite if counts differ or for non-numbers."""
    wanted, have = tuple(expected), tuple(computed)
    if len(wanted) != len(have) or not all(map(math.isfinite, (*wanted, *have))):
        return math.inf
    return max(abs(a - b) for a, b in zip(wanted, have, strict=True)) / max(abs(a) for a in wanted)
