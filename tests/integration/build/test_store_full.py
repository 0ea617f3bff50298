"""A store on a disk that is really full: a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
FILL = """
import os, sys
from pathlib import Path
from buildctl.ground.errors import EngineError
from buildctl.oci.entry import file_entry
from buildctl.oci.compression import COMPRESSIONS, UNCOMPRESSED, ZSTD
from buildctl.artifacts.store import Store

root = Path(sys.argv[1])
store, noise = Store(root), os.urandom(3 << 20)
small = store.put("small", lambda: [file_entry("a", noise[:100_000])], compression=ZSTD)[0]
for compression in (*COMPRESSIONS.values(), UNCOMPRESSED):
    try:
        store.put("large", lambda: [file_entry("a", noise)], compression=compression)
    except EngineError as error:
        print(error.message)
    print(sorted(p.name for p in (root / "tmp").iterdir()), store.get("large"))
again = store.put("small", lambda: [], compression=ZSTD)
print(again == (small, False))
"""


def test_a_full_disk_is_an_error_and_what_was_whole_stays(tmp_path: Path) -> None:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT RUN: no user namespaces here")
    inside = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$1"'
    argv = [*NAMESPACE, "sh", "-c", inside, "sh", str(tmp_path), sys.executable, FILL]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 9, done.stderr
    for message, left in zip(lines[0:8:2], lines[1:8:2], strict=True):
        assert message.startswith(f"no space left in the store while making a layer: {tmp_path} (")
        assert left == "[] None"
    assert lines[8] == "True"


COMPILE = """
import sys
from buildctl.artifacts.bytecode import BuildPython
from buildctl.ground.errors import EngineError

source = "\\n".join(f"def f{n}(): return {n}" for n in range(20000)).encode()
try:
    with BuildPython(argv=(sys.executable,), tag="x").open() as compilation:
        compilation.add("/a.py", source)
        print(sum(len(data or b"") for data in compilation.results()))
except EngineError as error:
    print(error.message)
"""


def test_a_full_temporary_folder_is_told_as_one_by_whoever_compiles(tmp_path: Path) -> None:
    """The base's Python writes there, and its own words would be a traceback."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT RUN: no user namespaces here")
    inside = 'mount -t tmpfs -o size=1m none "$1" && TMPDIR=$1 exec "$2" -c "$3"'
    argv = [*NAMESPACE, "sh", "-c", inside, "sh", str(tmp_path), sys.executable, COMPILE]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == f"the disk is full: cannot write {tmp_path}\n", done.stderr
