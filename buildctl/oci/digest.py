"""Digests are a type: `sha256:` and 64 lower-case hex digits (OCI image-spec, descriptor.md)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from buildctl.ground.errors import LayoutError

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 content address."""

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise LayoutError(f"not a sha256 digest: {self.hex!r}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `sha256:HEX`; raises LayoutError for any other algorithm or form."""
        algorithm, _, value = text.partition(":")
        if algorithm != "sha256":
            raise LayoutError(f"not a sha256 digest: {text!r}")
        return cls(value)

    @classmethod
    def of(cls, data: bytes) -> Self:
        return cls(hashlib.sha256(data).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Self:
        with path.open("rb") as file:
            return cls.of_stream(file)

    @classmethod
    def of_stream(cls, file: BinaryIO) -> Self:
        """Of what is left of it."""
        seen = hashlib.sha256()
        while chunk := file.read(1 << 20):
            seen.update(chunk)
        return cls(seen.hexdigest())

    @property
    def short(self) -> str:
        return self.hex[:12]

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
