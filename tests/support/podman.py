"""podman as a current Debian packages it, on top of the tests' own Debian: that of Debian 12 knows no partial pulls."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.engine import Unavailable
from tests.support.engine.rootfs import prepare

ENTER = """\
set -eu
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$FOLDER/upper,workdir=$FOLDER/work" "$FOLDER/root"
cd "$FOLDER/root"
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
    [ ! -e "$file" ] || { [ -e ".$file" ] || : >".$file"; mount --bind "$file" ".$file"; }
done
mkdir -p data
mount --bind "$FOLDER/data" data
exec chroot . "$@"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "/data/graph"
runroot = "/data/run"
[storage.options]
pull_options = {enable_partial_images = "true"}
"""
INSTALL = """\
export DEBIAN_FRONTEND=noninteractive
apt-get -q -o Acquire::Check-Valid-Until=false update
apt-get -q install -y --no-install-recommends podman crun netavark
"""


@contextmanager
def podman(folder: Path) -> Iterator[Callable[..., str]]:
    """Runs it with a storage of its own in `folder`, where /data is; answers with its output. Raises Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable("podman of another Debian needs root")
    lower = prepare()
    for name in ("upper", "work", "root", "data"):
        (folder / name).mkdir(parents=True)
    (folder / "data" / "storage.conf").write_text(STORAGE)
    own = {"LOWER": str(lower), "FOLDER": str(folder)}
    quiet = {"CONTAINERS_STORAGE_CONF": "/data/storage.conf", "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}

    def inside(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", ENTER, "sh", *argv],
            env={**os.environ, **own, **quiet},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def run(*argv: str) -> str:
        done = inside("podman", *argv)
        assert done.returncode == 0, done.stderr
        return done.stdout

    installed = inside("sh", "-euc", INSTALL)
    try:
        if installed.returncode != 0:
            raise Unavailable(f"podman cannot be installed: {installed.stderr[-300:]}")
        yield run
    finally:
        shutil.rmtree(folder, ignore_errors=True)
