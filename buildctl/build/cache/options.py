"""What the command line says about the shared cache, as values; it imports nothing of a registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from buildctl.ground.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """`read` and `write` are repositories, `key` the private key that signs, `trust` public keys: files or env://NAME.

    None for `read` means what matrix.yaml names, an empty one no cache at all.
    """

    read: tuple[str, ...] | None = None
    write: str | None = None
    key: str | None = None
    trust: tuple[str, ...] = ()
    required: bool = False

    @classmethod
    def given(
        cls,
        *,
        cache_from: Sequence[str] = (),
        no_cache_from: bool = False,
        cache_trust: Sequence[str] = (),
        cache_to: str | None = None,
        cache_key: str | None = None,
        require_cache: bool = False,
    ) -> Self:
        """From the options of the same names. Raises UsageError for two that contradict each other."""
        if no_cache_from and require_cache:
            raise UsageError("--no-cache-from and --require-cache exclude each other", hint="leave out one of them")
        read = () if no_cache_from else tuple(cache_from) or None
        return cls(read=read, write=cache_to, key=cache_key, trust=tuple(cache_trust), required=require_cache)
