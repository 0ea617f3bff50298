"""The clock, and how times are written."""

from __future__ import annotations

from datetime import UTC, datetime

_FORM = "%Y-%m-%dT%H:%M:%SZ"


def now() -> datetime:
    """In UTC."""
    return datetime.now(UTC)


def written(seconds: int) -> str:
    """`seconds` since 1970 as `rfc3339`."""
    return rfc3339(datetime.fromtimestamp(seconds, UTC))


def seconds_of(text: str) -> int:
    """The inverse of `written`. Raises ValueError for any other text."""
    return int(datetime.strptime(text, _FORM).replace(tzinfo=UTC).timestamp())


def rfc3339(moment: datetime) -> str:
    """`moment` in UTC, to the second: 2026-01-31T12:00:00Z."""
    return moment.astimezone(UTC).strftime(_FORM)
