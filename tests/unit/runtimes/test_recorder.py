"""What of the difference that maintainer scripts made is kept; and who may run them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.ground.errors import ResolveError, RuntimeUnavailableError
from buildctl.oci.entry import capability
from buildctl.runtimes.recorder import observe, record
from buildctl.runtimes.recorder.rules import sort_out

Fact = tuple[str, int, int, int, str]


def file(data: bytes, mode: int = 0o644) -> Fact:
    return ("file", mode, 0, 0, base64.b64encode(data).decode())


def test_logs_caches_ids_and_what_is_made_here_are_dropped() -> None:
    dropped = [
        "var/log/apt/history.log",
        "var/cache/ldconfig/aux-cache",
        "etc/machine-id",
        "etc/passwd-",
        "etc/rc2.d/S01cron",
        "etc/systemd/system/multi-user.target.wants/cron.service",
        "var/lib/dpkg/status",
        "usr/share/man/man1/x.1.gz",
        "usr/share/mime/mime.cache",
        "usr/share/tool/__pycache__/one.cpython-313.pyc",
        "usr/lib/python3.13/__pycache__/os.cpython-313.pyc",
    ]
    done = sort_out({path: file(b"x") for path in dropped}, {}, frozenset({"usr/lib/python3.13/os.py"}))
    assert done.changes == []
    assert done.compiled == {"usr/share/tool"}
    assert any("file types" in note for note in done.notes)


def test_accounts_are_kept_as_lines_without_the_day_they_were_made() -> None:
    seen = {"etc/passwd": file(b"root:x\ntool:x:100\n"), "etc/shadow": file(b"root:*::0:\ntool:!:20783::::::\n", 0o640)}
    expected = {"etc/passwd": b"root:x\n", "etc/shadow": b"root:*::0:\n"}
    passwd, shadow = sort_out(seen, expected, frozenset()).changes
    assert (passwd.kind, passwd.text) == ("lines", "+tool:x:100\n")
    assert (shadow.kind, shadow.mode, shadow.text) == ("lines", 0o640, "+tool:!:::::::\n")


def test_diversions_are_kept_but_for_those_that_guard_the_merge_of_usr() -> None:
    guard, own = "/lib/x\n/lib/x.usr-is-merged\nbase\n", "/usr/bin/a\n/usr/bin/a.real\ntool\n"
    path = "var/lib/dpkg/diversions"
    assert sort_out({path: file(guard.encode())}, {}, frozenset()).changes == []
    (change,) = sort_out({path: file((guard + own).encode())}, {}, frozenset()).changes
    assert change.text == own


def test_text_is_kept_as_text_and_the_rest_in_base64() -> None:
    seen = {"etc/a": file(b"a\tb\n"), "etc/b": file(b"\x00"), "etc/c": file(b"\xff"), "etc/d": file(b"a\rb")}
    kinds = {c.path: c.kind for c in sort_out(seen, {}, frozenset()).changes}
    assert kinds == {"etc/a": "file", "etc/b": "binary", "etc/c": "binary", "etc/d": "binary"}


def test_file_capabilities_are_recorded_without_the_namespace_they_were_set_in() -> None:
    value = capability("cap_net_raw+ep")
    owned = (0x03000001).to_bytes(4, "little") + value[4:] + (100_000).to_bytes(4, "little")
    (change,) = sort_out({"usr/bin/ping": ("capable", 0o755, 0, 0, owned.hex())}, {}, frozenset()).changes
    assert (change.kind, change.text) == ("capable", value.hex())


KEY = b"-----BEGIN RSA PRIVATE KEY-----\nMII\n"


@pytest.mark.parametrize(
    ("path", "fact", "message"),
    [
        ("etc/tool/key.pem", file(b"-----BEGIN CERTIFICATE-----\n" + KEY), "a private key"),
        ("etc/ssl/private/any", file(b"x"), "a private key"),
        ("var/lib/tool/pipe", ("other", 0o644, 0, 0, ""), "a device, pipe or socket"),
        ("var/lib/tool/much", ("large", 0o644, 0, 0, ""), "larger than 1 MiB"),
        ("usr/bin/ping", ("new and capable", 0o755, 0, 0, ""), "a program with file capabilities"),
        ("usr/bin/base", None, "removes usr/bin/base of the base"),
    ],
)
def test_what_is_refused(path: str, fact: Fact | None, message: str) -> None:
    with pytest.raises(ResolveError, match=message):
        sort_out({path: fact}, {}, frozenset({"usr/bin/base"}))


def test_host_keys_are_left_out_with_a_note_and_programs_that_know_keys_are_not_keys() -> None:
    seen = {"etc/ssh/ssh_host_rsa_key": file(KEY, 0o600), "usr/bin/agent": file(b"\x7fELF\0\n" + KEY)}
    done = sort_out(seen, {}, frozenset())
    assert [change.path for change in done.changes] == ["usr/bin/agent"]
    assert "ssh-keygen" in next(iter(done.notes))


def test_one_id_alone_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "find_ids", lambda: None)
    with pytest.raises(RuntimeUnavailableError, match="range of ids") as refused, record.open_recorder(Store(tmp_path)):
        pass
    assert refused.value.hint


def test_no_script_starts_outside_the_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        observe.refuse_open_kernel()
    assert capsys.readouterr().err.startswith("recorder: ")
