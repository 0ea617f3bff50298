from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest

# of the empty input, FIPS 180-4
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_digest_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert str(Digest.of(b"")) == f"sha256:{EMPTY}"
    assert Digest.of_file(tmp_path / "empty") == Digest.of(b"")


def test_parse_and_print_are_inverse() -> None:
    assert str(Digest.parse(f"sha256:{EMPTY}")) == f"sha256:{EMPTY}"
    assert Digest.parse(f"sha256:{EMPTY}").short == "e3b0c44298fc"


@pytest.mark.parametrize(
    "text",
    [
        "",
        EMPTY,
        f"sha512:{EMPTY}",
        f"sha256:{EMPTY.upper()}",
        f"sha256:{EMPTY[:-1]}",
        f"sha256:{EMPTY}0",
        f"sha256:{EMPTY}\n",
        f"sha256:../{EMPTY[3:]}",
        f"SHA256:{EMPTY}",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(LayoutError, match="not a sha256 digest"):
        Digest.parse(text)
