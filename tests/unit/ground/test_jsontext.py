from __future__ import annotations

import pytest

from buildctl.ground.jsontext import parse_json


@pytest.mark.parametrize("text", ["[" * 100_000, b'{"a":' * 50_000, "", "{", b"\xff", '{"a": ' + "9" * 5000 + "}"])
def test_what_is_not_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_is_read() -> None:
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
