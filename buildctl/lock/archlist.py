"""Which GPU architectures torch's libtorch_python was compiled for, found in its bytes.

torch/csrc/cuda/Module.cpp holds them as one C string, which torch._C._cuda_getArchFlags() returns: `sm_80 sm_90
compute_90`. CMake writes every machine-code architecture (sm_) first, then the PTX ones (compute_), each once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from buildctl.ground.errors import ArtifactError

_WORD = rb"(?:sm|compute)_\d{1,4}[af]?"
# Only the end is marked, by NUL. The string may follow anything: after merging constants, linkers leave no NUL between
# it and a constant that has none (torch 2.8.0 and 2.9: `std::string ipc_hsm_70 sm_75`).
_RUN = re.compile(rb"%s(?: %s)*" % (_WORD, _WORD))
_LONGEST = 4096
_SHOWN = 3


def architectures(chunks: Iterable[bytes], label: str) -> tuple[str, ...]:
    """The `sm_..` and `compute_..` words that a library was compiled for, in its order.

    One architecture alone is also a word that code uses, so a list of several counts before it. Raises ArtifactError
    if that leaves none or more than one, or if text before the list may have run into it.
    """
    runs = {words for run in _runs(chunks) if (words := _from_first_sm(run.decode().split(" ")))}
    found = {words for words in runs if len(words) > 1} or runs
    if len(found) != 1:
        said = "".join(f"\n  {' '.join(words)}" for words in sorted(found)[:_SHOWN])
        raise ArtifactError(f"{label}: {len(found)} lists of GPU architectures instead of one{said}")
    (words,) = found
    if list(words) != sorted(set(words), key=_order):
        raise ArtifactError(
            f"{label}: cannot separate the list of GPU architectures from the text before it: {' '.join(words)}",
            hint="a list has each architecture once, ascending, sm_ before compute_",
        )
    return words


def _runs(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        end = data.rfind(b"\0") + 1  # a string that is not over yet is looked at once, when it is
        yield from (run[0] for run in _RUN.finditer(data, 0, end) if data[run.end()] == 0)
        rest = data[end:][-_LONGEST:]


def _from_first_sm(words: list[str]) -> tuple[str, ...]:
    """The list starts with machine code; a `compute_` before that belongs to the text before it."""
    first = next((at for at, word in enumerate(words) if word.startswith("sm_")), len(words))
    return tuple(words[first:])


def _order(word: str) -> tuple[bool, int, str]:
    kind, _, number = word.partition("_")
    return kind == "compute", int(number.rstrip("af")), number
