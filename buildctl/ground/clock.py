"""The clock, and how times are written."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """In UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """`moment` in UTC, to the second: 2026-01-31T12:00:00Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
