"""The clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from buildctl.ground.clock import now, rfc3339


def test_now_is_in_utc() -> None:
    assert now().tzinfo is UTC


def test_a_time_is_written_in_utc_wherever_it_is_from() -> None:
    moment = datetime(2026, 1, 31, 13, 0, 0, 999, tzinfo=timezone(timedelta(hours=1)))
    assert rfc3339(moment) == "2026-01-31T12:00:00Z"
