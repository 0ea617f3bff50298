from __future__ import annotations

import pytest

from buildctl.build.assemble import LAST_SECOND, source_date_epoch
from buildctl.ground.errors import UsageError


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("0", 0), ("1700000000", 1700000000)])
def test_the_time_of_an_image(text: str, seconds: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    assert source_date_epoch() == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1", "is not a number of seconds: '-1'"),
        ("yesterday", "is not a number of seconds: 'yesterday'"),
        ("٣", "is not a number of seconds"),
        (str(LAST_SECOND + 1), "is beyond the year 9999"),
        ("9" * 5000, "is beyond the year 9999"),
    ],
)
def test_a_time_that_cannot_be_written_is_refused(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(UsageError, match=message) as caught:
        source_date_epoch()
    assert len(caught.value.message) < 200
