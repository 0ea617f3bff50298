"""Programs of this machine, with the libraries they need, as members of a test image: real ones, and no download."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from buildctl.ground.run import which
from tests.support.images import Member, file, folder, symlink


def programs(*names: str) -> list[Member]:
    """`names` in /usr/bin, their libraries where the loader finds them, the usual folders and a /etc/passwd."""
    members = [folder(f) for f in ("etc", "usr", "usr/bin", "dev", "proc", "sys", "home", "workspace")]
    members += [folder("tmp", mode=0o1777), symlink("bin", "usr/bin")]
    members.append(file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n"))
    seen: dict[str, Member] = {}
    for name in names:
        path = which(name)
        assert path is not None, f"{name} is not on this machine"
        seen[f"usr/bin/{name}"] = file(f"usr/bin/{name}", path.resolve().read_bytes(), mode=0o755)
        linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", linked):
            inside = library.lstrip("/")
            seen[inside] = file(inside, Path(library).resolve().read_bytes(), mode=0o755)
    folders = sorted({str(p) for n in seen for p in Path(n).parents if str(p) not in (".", "usr", "usr/bin")})
    return [*members, *(folder(f) for f in folders), *seen.values()]
